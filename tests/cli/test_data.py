"""`engine data`: draws sets, indexes what is there, and says so in tables or JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli.main import main
from engine.synth.sets import DocumentSet, VehicleSet


def engine(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set: two classes of three training images, one test image each, and one damaged file."""
    folder = tmp_path_factory.mktemp("data") / "vehicles"
    numbers = ("--classes", "2", "--per-class", "3", "--test-per-class", "1", "--workers", "1")
    result = engine("data", "synth", folder, *numbers)
    assert result.exit_code == 0, result.output
    assert f"data.train={folder / 'train'}" in result.stdout
    again = engine("data", "synth", folder, *numbers)
    assert again.exit_code == 0 and "already there" in again.stdout
    first = min((folder / "train").iterdir())
    (first / "damaged.jpg").write_text("no image", encoding="utf-8")
    return folder


def test_index_prints_classes_sizes_and_what_is_left_out(vehicles: Path) -> None:
    result = engine("data", "index", vehicles / "train")
    assert result.exit_code == 0, result.output
    for name in sorted(path.name for path in (vehicles / "train").iterdir() if not path.name.startswith(".")):
        assert name in result.stdout
    assert "2 classes" in result.stdout and "height" in result.stdout and "why it is left out" in result.stdout


def test_index_prints_one_json_object_a_source(vehicles: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "cars.toml"
    recipe.write_text("[[stage]]\nsize = 64\nbatch = 2\nepochs = 1\nlr = 1e-3\n", encoding="utf-8")
    sets = ("--set", f"data.train={vehicles / 'train'}", "--set", f"data.test={vehicles / 'test.csv'}")
    result = engine("data", "index", recipe, *sets, "--json")
    assert result.exit_code == 0, result.output
    train, test = map(json.loads, result.stdout.splitlines())
    assert (train["samples"], train["usable"], sorted(train["classes"].values())) == (7, 6, [3, 3])
    assert (test["source"], test["samples"], test["classes"]) == (str(vehicles / "test.csv"), 2, {})


def test_documents_can_be_indexed_as_the_command_says(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    result = engine("data", "synth", folder, "--kind", "documents", "--train", "34", "--test", "2", "--workers", "1")
    assert result.exit_code == 0, result.output
    recipe = tmp_path / "papers.toml"
    recipe.write_text("[[stage]]\nsize = 64\nbatch = 2\nepochs = 1\nlr = 1e-3\n", encoding="utf-8")
    settings = result.stdout.splitlines()[-1].removeprefix("Train with ").split()
    found = json.loads(engine("data", "index", recipe, *settings, "--json").stdout)
    assert (found["usable"], len(found["classes"])) == (34, 17)


def test_check_tells_in_a_table_in_json_and_on_a_page(vehicles: Path, tmp_path: Path) -> None:
    wanted = ("--json", tmp_path / "check.json", "--page", tmp_path / "check.html")
    result = engine("data", "check", vehicles / "train", "--test", vehicles / "test", *wanted)
    assert result.exit_code == 0, result.output
    assert "What was found" in result.stdout and "error" in result.stdout and "2 classes" in result.stdout
    told = json.loads((tmp_path / "check.json").read_text("utf-8"))
    assert told["samples"] == 7 and told["test_images"]["samples"] == 2
    assert told["findings"][0]["kind"] == "unreadable"
    assert "damaged.jpg" in (tmp_path / "check.html").read_text("utf-8")
    printed = engine("data", "check", vehicles / "train", "--json", "-")
    assert json.loads(printed.stdout)["samples"] == 7


def test_check_of_a_recipe_takes_its_test_images_and_its_names(vehicles: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "cars.toml"
    recipe.write_text("[[stage]]\nsize = 64\nbatch = 2\nepochs = 1\nlr = 1e-3\n", encoding="utf-8")
    one, two = sorted(path.name for path in (vehicles / "train").iterdir() if not path.name.startswith("."))
    sets = ("--set", f"data.train={vehicles / 'train'}", "--set", f"data.test={vehicles / 'test'}")
    aliases = ("--set", f'data.aliases=[["{one}", "{two}"]]')
    told = json.loads(engine("data", "check", recipe, *sets, *aliases, "--json", "-").stdout)
    assert list(told["classes"]) == [one] and told["test"] == str(vehicles / "test")


def test_names_writes_a_table_that_trains(vehicles: Path, tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    result = engine("data", "names", vehicles / "train", file)
    assert result.exit_code == 0 and "2 names" in result.stdout, result.output
    lines = [line.split(",") for line in file.read_text("utf-8").splitlines()]
    assert lines[0] == ["label", "name"] and all(latin.isascii() for _, latin in lines)
    recipe = tmp_path / "cars.toml"
    recipe.write_text("[[stage]]\nsize = 64\nbatch = 2\nepochs = 1\nlr = 1e-3\n", encoding="utf-8")
    sets = ("--set", f"data.train={vehicles / 'train'}", "--set", f"data.label_table={file}")
    told = json.loads(engine("data", "check", recipe, *sets, "--json", "-").stdout)
    assert sorted(told["classes"]) == sorted(latin for _, latin in lines[1:])
    again = engine("data", "names", vehicles / "train", file)
    assert again.exit_code == 2 and "mended by hand" in again.stderr


def test_augment_writes_copies_and_says_how_to_train_on_them(vehicles: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = engine("data", "augment", vehicles / "train", out, "--kinds", "flip,cutmix", "--longest", "48")
    assert result.exit_code == 0, result.output
    assert "6 originals and 12 copies" in result.stdout and f"data.train={out / 'train.csv'}" in result.stdout
    assert len(list(out.rglob("*.jpg"))) == 12
    told = json.loads(engine("data", "check", out / "train.csv", "--json", "-").stdout)
    assert told["samples"] == 18 and not {f["kind"] for f in told["findings"]} & {"near", "near_conflicts"}
    kinds = engine("data", "augment", "--list").stdout
    assert "perspective" in kinds and "mirrored left to right" in kinds


def test_a_plain_table_is_read_as_set_says(vehicles: Path, tmp_path: Path) -> None:
    photos = sorted((vehicles / "train").rglob("[!d]*.jpg"))
    table = tmp_path / "odd.csv"
    lines = [
        f"{path.name},{path.parent.parent.name}/{path.parent.name}/{path.name},{n % 2}" for n, path in enumerate(photos)
    ]
    table.write_text("number,where,kind\n" + "\n".join(lines), encoding="utf-8")
    sets = ("--set", "data.path_column=where", "--set", f"data.images={vehicles}", "--set", "data.label_column=kind")
    told = json.loads(engine("data", "index", table, *sets, "--json").stdout)
    assert told["classes"] == {"0": 3, "1": 3}
    assert json.loads(engine("data", "check", table, *sets, "--json", "-").stdout)["samples"] == 6
    assert engine("data", "names", table, tmp_path / "names.csv", *sets).exit_code == 0
    assert (tmp_path / "names.csv").read_text("utf-8") == "label,name\n0,0\n1,1\n"
    copied = engine("data", "augment", table, tmp_path / "out", *sets, "--kinds", "flip", "--longest", "32")
    assert copied.exit_code == 0 and "6 originals and 6 copies" in copied.stdout, copied.output
    missing = engine("data", "index", table, *sets, "--set", "data.label_column=sort")
    assert missing.exit_code == 1 and "no column sort" in missing.stderr


def test_the_help_tells_the_defaults_of_the_sets() -> None:
    text = " ".join(engine("data", "synth", "--help").stdout.split())
    for made, names in (
        (VehicleSet, ("classes", "per_class", "test_per_class", "seed")),
        (DocumentSet, ("train", "test", "wrong")),
    ):
        for name in names:
            told = text.partition(f"--{name.replace('_', '-')} ")[2].partition("[default: ")[2].partition("]")[0]
            assert told == str(getattr(made(), name)), name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["synth", "{}/new", "--classes", "1"], 2, "classes = 1: expected"),
        (["synth", "{}/new", "--kind", "boats"], 2, "'boats'"),
        (["synth", "{}/new", "--kind", "documents", "--per-class", "3"], 2, "--per-class is not for documents"),
        (["synth", "{}/new", "--wrong", "0.1"], 2, "--wrong is not for vehicles"),
        (["synth", "{}"], 1, "not empty"),
        (["index", "{}/nothing"], 1, "no such folder"),
        (["index", "{}/nothing.toml"], 2, "there is no such recipe"),
        (["index", "{}", "--set", "seed=1"], 2, "only data and decode count here"),
        (["index", "{}", "--set", "data.path_colum=x"], 2, "path_column"),
        (["index", "{}", "--set", "data.check=x"], 2, "--set data.check=x: data.check"),
        (["index", "{}", "--set", "decode.threads=-1"], 2, "decode.threads"),
        (["index", "{}", "--set", "data.train=other"], 2, "the images are given already"),
        (["index", "{}/folder.toml"], 2, "is a folder, and a recipe is a .toml file"),
        (["index", "{}/empty.toml"], 2, "data.train=FOLDER"),
        (["check", "{}/nothing"], 1, "no such folder"),
        (["check", "{}/empty.toml"], 2, "data.train=FOLDER"),
        (["augment", "{}", "{}/out"], 2, "give SOURCE, FOLDER and --kinds"),
        (["augment", "{}", "{}/out", "--kinds", "flip,flop"], 2, "there is no kind 'flop'"),
        (["augment", "{}/empty.toml", "{}/out", "--kinds", "flip"], 2, "data.train=FOLDER"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "empty.toml").write_text("[[stage]]\nsize = 64\nbatch = 2\nepochs = 1\nlr = 1e-3\n", encoding="utf-8")
    result = engine("data", *(argument.format(tmp_path) for argument in arguments))
    assert result.exit_code == code
    assert message in result.stderr, result.stderr
