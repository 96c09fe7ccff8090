"""`engine init`: writes a recipe, shows what was found, and overwrites nothing unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.advice import network
from engine.cli.main import main
from engine.recipe.load import load_recipe, parse_recipe


def engine(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def animals(shades, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(network, "_step_bytes", lambda *_: 2**20)
    monkeypatch.chdir(tmp_path)
    shades(tmp_path, {"cat": 60, "dog": 190}, "")
    return tmp_path / "photos"


def test_a_recipe_is_written_and_the_next_commands_are_named(animals: Path) -> None:
    result = engine("init", animals, "--out", "made/animals.toml")
    assert result.exit_code == 0, result.output
    assert load_recipe("made/animals.toml").data.train == str(animals)
    assert "cat" in result.stdout and "16 images in 2 classes" in result.stdout
    assert result.stdout.endswith("  engine train made/animals.toml --dry-run\n  engine train made/animals.toml\n")


def test_a_recipe_that_is_there_stays(animals: Path) -> None:
    Path("recipe.toml").write_text("mine", encoding="utf-8")
    result = engine("init", animals)
    assert result.exit_code == 2 and "--force" in result.stderr
    assert Path("recipe.toml").read_text(encoding="utf-8") == "mine"
    assert engine("init", animals, "--force").exit_code == 0
    assert load_recipe("recipe.toml").data.train == str(animals)


@pytest.mark.parametrize("how", [("--print",), ("--out", "-")], ids=" ".join)
def test_a_printed_recipe_is_all_of_the_output(animals: Path, how: tuple[str, ...]) -> None:
    Path("recipe.toml").write_text("mine", encoding="utf-8")
    result = engine("init", animals, *how)
    assert result.exit_code == 0 and parse_recipe(result.stdout).data.train == str(animals)
    assert Path("recipe.toml").read_text(encoding="utf-8") == "mine"


def test_what_cannot_be_trained_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = engine("init", "gone")
    assert result.exit_code == 1 and "gone: no such folder or table" in result.stderr
    assert not Path("recipe.toml").exists()
