"""A recipe that cannot be used is refused with file and line, key, value, what is allowed, and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import RecipeError
from engine.recipe import schema
from engine.recipe.load import load_recipe, parse_recipe
from engine.recipe.problems import nearest

STAGE = "[[stage]]\nsize = 64\nbatch = 8\nepochs = 2\nlr = 1e-3\n"


def refusal(text: str, *sets: str) -> str:
    with pytest.raises(RecipeError) as error:
        parse_recipe(text, sets, "cars.toml")
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # unknown keys
        (STAGE + "sise = 3", ["cars.toml:6: stage.0.sise", "did you mean stage.0.size?", "epochs, lr, mix"]),
        (
            STAGE + "[train]\nmixup = 0.2",
            ["cars.toml:7: train.mixup", "augment.mix.0.mixup", "Keys in train: "],
        ),
        (STAGE + "[train]\nlabel-smoothing = 0.1", ["did you mean train.label_smoothing?"]),
        (STAGE + "[trian]\nema = 0.9", ["cars.toml:6: trian", "did you mean train?", "at the top of a recipe"]),
        (STAGE + "[augment.crop]\nscal = [1, 1]", ["augment.crop.scal", "did you mean augment.crop.scale"]),
        (STAGE + "warmup = 2", ["stage.0.warmup", "train.schedule.warmup_epochs"]),
        (STAGE + "zzzz = 2", ["stage.0.zzzz: there is no such key\n"]),
        # impossible values
        (STAGE + "[train]\nema = 2", ["cars.toml:7: train.ema = 2\n", "number, at least 0, below 1"]),
        ("[[stage]]\nsize = 4\nbatch = 8\nepochs = 2\nlr = 1e-3", ["cars.toml:2: stage.0.size = 4", "each 8 to 4096"]),
        (STAGE + "[stage.mix]\nmixup = -1", ["cars.toml:7: stage.0.mix.mixup = -1"]),
        (STAGE + "[data.folds]\nrun = [9]", ["cars.toml:7: data.folds.run = [9]: fold 9 does not exist"]),
        (STAGE + "[augment]\ncrop = {scale = [0.9, 0.1]}", ["cars.toml:7: augment.crop.scale = [0.9, 0.1]"]),
        (STAGE + "[train]\nema = nan", ["train.ema = NaN"]),
        # wrong types
        (STAGE + '[predict]\ntta = "3"', ['predict.tta = "3": that is text; write 3', "whole number, 1 to 38"]),
        (STAGE + '[model]\npretrained = "True"', ["that is text; write true", "Expected: true or false"]),
        (STAGE + "[model]\npretrained = 1", ["model.pretrained = 1", "true or false"]),
        (STAGE + "[predict]\ntta = 2.5", ["predict.tta = 2.5", "whole number"]),
        (STAGE + "[predict]\ntta = true", ["predict.tta = true", "whole number"]),
        (STAGE + '[train]\nselect = "logloss"', ['did you mean "log_loss"?', '"accuracy"']),
        (STAGE + "[data]\ntrain = 3", ["data.train = 3", "Expected: text"]),
        (STAGE + "[data]\ntrain = 2026-11-20", ['data.train = "2026-11-20"', "Expected: text"]),
        (STAGE + '[augment.crop]\nscale = ["a", 0.3]', ['augment.crop.scale = ["a", 0.3]', "2 numbers"]),
        (STAGE + "[augment.crop]\nscale = [0.3]", ["augment.crop.scale = [0.3]", "2 numbers"]),
        (STAGE + "[augment.crop]\nscale = [0.3, 0.4, 0.5]", ["augment.crop.scale = [0.3, 0.4, 0.5]", "2 numbers"]),
        ("[stage]\nsize = 64", ["cars.toml:1: stage", "write [[stage]], in double brackets"]),
        ("stage = 3", ["cars.toml:1: stage = 3", "list of tables"]),
        ("stage = []", ["stage = []", "not empty"]),
        ("stage = [3]", ["cars.toml:1: stage.0 = 3", "Expected: table"]),
        (STAGE + "[[predict]]\ntta = 3", ["cars.toml:6: predict", "write [predict], in single brackets"]),
        # what is missing
        ('name = "x"', ["cars.toml: stage is not given"]),
        ("[[stage]]\nsize = 64\nbatch = 8\nepochs = 2", ["cars.toml:1: stage.0.lr is not given", "above 0"]),
    ],
)
def test_what_is_wrong_is_named_and_what_is_allowed(text: str, words: list[str]) -> None:
    message = refusal(text)
    assert all(word in message for word in words), message
    assert "things to mend" not in message, message  # one fault is one problem


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["train.ema=2"], ["--set train.ema=2: train.ema = 2"]),
        (["train.mixup=0.2"], ["--set train.mixup=0.2: train.mixup: there is no such key", "augment.mix.0.mixup"]),
        (["trian.ema=0.9"], ["--set trian.ema=0.9: trian: there is no such key; did you mean train?"]),
        (
            ["stage=[{size=64, batch=8, epochs=1}]"],
            ["epochs=1}]: stage.0.lr is not given"],
        ),
        (["stage.*.lr=0"], ["--set stage.*.lr=0: stage.0.lr = 0"]),
        (["train.ema=0.9", "train.ema=3"], ["--set train.ema=3: train.ema = 3"]),
        (["stage.0.mix={epochs=[3]}"], ["stage.0.mix.epochs = [3]", "2 whole numbers"]),
        # The file says which folds to run, the command line that there are fewer: both are named.
        (["data.folds.count=2"], ["cars.toml:7", "data.folds.run = [3]", "folds are 0 to 1"]),
    ],
)
def test_a_bad_value_from_the_command_line_is_traced_to_its_set(sets: list[str], words: list[str]) -> None:
    message = refusal(STAGE + "[data.folds]\nrun = [3]\n", *sets)
    assert all(word in message for word in words), message


def test_all_problems_are_listed_together() -> None:
    message = refusal(STAGE + "sise = 3\nmargin = 9\n[train]\nema = 2\n[trian]\n")
    assert message.startswith("cars.toml: 4 things to mend\n")
    assert [f"cars.toml:{line}: " in message for line in (6, 7, 9, 10)] == [True] * 4


def test_a_syntax_error_shows_line_and_column() -> None:
    message = refusal("[train]\nema = = 3\n")
    assert "cars.toml: is not valid TOML: line 2, column 7" in message
    assert message.endswith("\n  ema = = 3\n        ^")


def test_a_key_given_twice_is_refused() -> None:
    assert "line 2" in refusal("seed = 1\nseed = 2\n")


def test_a_missing_file_names_its_likely_neighbours(tmp_path: Path) -> None:
    for name in ("quickstart.toml", "progressive_768.toml"):
        (tmp_path / name).touch()
    with pytest.raises(RecipeError, match=r"quickstrt\.toml: there is no such recipe.*there is quickstart\.toml$"):
        load_recipe(tmp_path / "quickstrt.toml")
    with pytest.raises(RecipeError, match=r"there is progressive_768\.toml, quickstart\.toml$"):
        load_recipe(tmp_path / "x")
    with pytest.raises(RecipeError, match=r"the folder .*nowhere does not exist"):
        load_recipe(tmp_path / "nowhere" / "x.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cars.toml"
    file.write_bytes('name = "차"'.encode("cp949"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(file)


LONG = [key for key in schema.walk() if len(str(key.path[-1])) >= 5]


def test_a_key_with_a_letter_missing_swapped_or_wrong_is_recognised() -> None:
    for key in LONG:
        *parent, name = key.path
        assert isinstance(name, str)
        middle = len(name) // 2
        head, tail = name[:middle], name[middle + 1 :]
        for typo in (head + tail, head + tail[0] + name[middle] + tail[1:], f"{head}x{tail}", name.upper()):
            assert schema.dotted(key.path) in nearest((*parent, typo)), typo


def test_a_key_in_the_wrong_section_is_found_where_it_belongs() -> None:
    names = [key.path[-1] for key in LONG]
    for key in LONG:
        if names.count(key.path[-1]) == 1 and key.path[0] != "decode":
            assert nearest(("decode", key.path[-1]))[0] == schema.dotted(key.path)


def test_a_fault_of_the_whole_recipe_is_its_message_alone() -> None:
    message = refusal(STAGE + "margin = 0.2\n")
    assert message.endswith('stage.0.margin needs a head with angles: set model.head = "arcface", or it to 0')
    assert ": : " not in message
