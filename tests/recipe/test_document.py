"""docs/recipes.md says what the sections say."""

from __future__ import annotations

from pathlib import Path

from engine.recipe import schema
from engine.recipe.document import EXAMPLE, document
from engine.recipe.load import parse_recipe

FILE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


def test_the_file_is_up_to_date() -> None:
    assert FILE.is_file() and FILE.read_text(encoding="utf-8") == document(), (
        "docs/recipes.md is out of date; make it again: python -m engine.recipe.document > docs/recipes.md"
    )


def test_every_key_is_in_it() -> None:
    lines = document().splitlines()
    for key in schema.walk():
        if key.section is None:
            assert any(line.startswith(f"| `{key.path[-1]}` |") and key.description[:20] in line for line in lines)


def test_its_example_is_a_recipe() -> None:
    recipe = parse_recipe(EXAMPLE)
    assert [stage.size for stage in recipe.stage] == [(256, 256), (384, 512)]
    assert recipe.data.folds.count == 4 and recipe.augment.mix[0].cutmix == 1.0
