"""A recipe is read, changed by --set, and written again as the same recipe."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.recipe import schema
from engine.recipe.document import EXAMPLE
from engine.recipe.lines import key_lines
from engine.recipe.load import dump_recipe, load_recipe, parse_recipe, parse_saved
from engine.recipe.sections import Recipe

SMALLEST = """\
[[stage]]
size = 64
batch = 8
epochs = 2
lr = 1e-3
"""
TWO_STAGES = SMALLEST + SMALLEST.replace("64", "[96, 128]")


def test_a_recipe_with_stages_alone_has_defaults_everywhere_else() -> None:
    recipe = parse_recipe(SMALLEST)
    assert recipe.stage[0].size == (64, 64)
    assert recipe == Recipe(stage=(recipe.stage[0],))


def test_a_file_is_read_with_its_sets(tmp_path: Path) -> None:
    file = tmp_path / "차량.toml"
    file.write_text('name = "차량 분류"\n' + TWO_STAGES, encoding="utf-8-sig")  # as Windows editors save it
    recipe = load_recipe(file, ["stage.1.batch=3", "data.train=사진/학습"])
    assert (recipe.name, recipe.stage[1].batch, recipe.data.train) == ("차량 분류", 3, "사진/학습")
    assert recipe == load_recipe(str(file), ["stage.1.batch=3", "data.train=사진/학습"])


def test_tables_are_taken_as_well_and_stay_as_they_were() -> None:
    tables = tomllib.loads(TWO_STAGES)
    recipe = parse_recipe(tables, ["stage.*.epochs=9"])
    assert [stage.epochs for stage in recipe.stage] == [9, 9]
    assert tables == tomllib.loads(TWO_STAGES)
    assert parse_recipe(recipe.model_dump()) == recipe  # what a checkpoint holds: tuples, None


def test_a_recipe_is_frozen_all_the_way_down() -> None:
    recipe = parse_recipe(TWO_STAGES, ["augment.mix=[{mixup=0.2}]", "data.folds.run=[1]"])
    assert hash(recipe) == hash(parse_recipe(dump_recipe(recipe)))


@given(
    name=st.text(min_size=1),
    train=st.text(),
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    weight_decay=st.floats(min_value=0, allow_infinity=False),
    size=st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
    runs=st.sets(st.integers(0, 4)),
    alphas=st.lists(st.floats(0, 8), max_size=3),
    seed=st.none() | st.integers(0, 99),
)
def test_a_dumped_recipe_is_read_as_the_same(
    name: str,
    train: str,
    lr: float,
    weight_decay: float,
    size: tuple[int, int],
    runs: set[int],
    alphas: list[float],
    seed: int | None,
) -> None:
    tables = {
        "name": name,
        "data": {"train": train, "folds": {"run": sorted(runs)} | ({} if seed is None else {"seed": seed})},
        "train": {"weight_decay": weight_decay},
        "augment": {"mix": [{"mixup": alpha, "epochs": [0, 3]} for alpha in alphas]},
        "stage": [{"size": list(size), "batch": 1, "epochs": 1, "lr": lr, "mix": {"cutmix": 1.0}}],
    }
    recipe = parse_saved(tables)
    assert parse_recipe(dump_recipe(recipe)) == recipe


IN_STAGES = "mix = {}, schedule = {}, early_stop = {}"
EVERY_TABLE = [
    "augment.mix=[{}]",
    f"stage=[{{size = 32, batch = 1, epochs = 1, lr = 1.0, {IN_STAGES}}}]",
    'specialist=[{name = "a", classes = ["b"], model = {}, train = {}, augment = {mix = [{}]}, '
    f"stage = [{{size = 32, batch = 1, epochs = 1, lr = 1.0, {IN_STAGES}}}]}}]",
]
"""Tables that are there only when they are given."""


def test_a_dump_names_every_value_that_has_one() -> None:
    tables = tomllib.loads(dump_recipe(parse_recipe(SMALLEST, EVERY_TABLE)))
    for key in schema.walk():
        if key.default is not None:
            value = tables
            for part in key.path:
                value = value[part]


# --- --set -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("train.ema=0.99", lambda r: r.train.ema, 0.99),
        (" train.ema = 0.99 ", lambda r: r.train.ema, 0.99),
        ("data.folds.count=2", lambda r: r.data.folds.count, 2),
        ("data.folds.run=[0, 1]", lambda r: r.data.folds.run, (0, 1)),
        ("stage.1.size=64", lambda r: [s.size for s in r.stage], [(64, 64), (64, 64)]),
        ("stage.*.epochs=7", lambda r: [s.epochs for s in r.stage], [7, 7]),
        ("stage=[{size=32, batch=4, epochs=1, lr=1e-4}]", lambda r: [s.size for s in r.stage], [(32, 32)]),
        ("augment.mix=[{mixup=0.2}, {cutmix=1}]", lambda r: [m.mixup for m in r.augment.mix], [0.2, 0.0]),
        ("augment.crop.scale.0=0.9", lambda r: r.augment.crop.scale, (0.9, 1.0)),
        ("stage.0.mix.mixup=0.4", lambda r: [s.mix and s.mix.mixup for s in r.stage], [0.4, None]),
        ("model.pretrained=false", lambda r: r.model.pretrained, False),
        ("augment.crop.kind=center", lambda r: r.augment.crop.kind, "center"),
        ("name=2024", lambda r: r.name, "2024"),
        ("name=true", lambda r: r.name, "true"),
        ("name='007'", lambda r: r.name, "007"),
        ("data.train=/a b/c=d # e", lambda r: r.data.train, "/a b/c=d # e"),
        ("data.train=1\nseed = 3", lambda r: (r.data.train, r.seed), ("1\nseed = 3", 0)),
        ("data.train=", lambda r: r.data.train, ""),
    ],
)
def test_set_changes_one_value(text: str, place: object, expected: object) -> None:
    assert callable(place)
    assert place(parse_recipe(TWO_STAGES, [text])) == expected


def test_sets_are_carried_out_in_their_order() -> None:
    recipe = parse_recipe(SMALLEST, ["augment.mix=[{mixup=1}]", "augment.mix.0.mixup=2", "seed=1", "seed=2"])
    assert (recipe.augment.mix[0].mixup, recipe.seed) == (2, 2)


def test_every_key_can_be_set_to_its_own_value() -> None:
    text = dump_recipe(parse_recipe(SMALLEST, EVERY_TABLE))
    for key in schema.walk():
        if key.section is None and key.default is not None:
            value = tomllib.loads(text)
            for part in key.path:
                value = value[part]
            literal = repr(value).replace("True", "true").replace("False", "false")
            assert parse_recipe(text, [f"{schema.dotted(key.path)}={literal}"]) == parse_recipe(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.ema", ["--set train.ema", "section.key=value"]),
        ("=3", ["section.key=value"]),
        ("train..ema=3", ["section.key=value"]),
        ("stage.2.size=64", ["--set stage.2.size=64", "stage are 0, 1"]),
        ("stage.first.size=64", ["'first'", "stage are 0, 1"]),
        ("stage.size=64", ["'size'", "stage are 0, 1"]),
        ("augment.mix.0.mixup=1", ["augment.mix has no entries", "augment.mix=[{...}]"]),
        ("augment.mix.*.mixup=1", ["augment.mix has no entries"]),
        ("seed.x.y=1", ["--set seed.x.y=1", "seed"]),
    ],
)
def test_a_set_that_cannot_be_carried_out_says_why(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe("seed = 3\n" + TWO_STAGES, [text])
    assert all(word in str(error.value) for word in words), str(error.value)


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [EXAMPLE, dump_recipe(parse_recipe(EXAMPLE))], ids=["example", "dump"])
def test_every_key_is_on_the_line_found_for_it(text: str) -> None:
    lines = key_lines(text)
    assert len(lines) > 15
    for path, number in lines.items():
        names = [part for part in path if isinstance(part, str)]
        assert names[-1] in text.splitlines()[number - 1], path


def test_lines_of_dotted_quoted_and_nested_keys() -> None:
    text = '\n[a]\nb.c = 1\n[[s]]\nx = 1\n[s.t]\nx = 2\n[[s]]\n"q r" = 3 # no = here\n[[s.u]]\n[[s.u]]\nz = 1\n'
    lines = key_lines(text)
    expected = {
        ("a",): 2,
        ("a", "b", "c"): 3,
        ("s",): 4,
        ("s", 0, "x"): 5,
        ("s", 0, "t", "x"): 7,
        ("s", 1): 8,
        ("s", 1, "q r"): 9,
        ("s", 1, "u", 1, "z"): 12,
    }
    assert {path: lines.get(path) for path in expected} == expected
