"""docs/systems.md names keys, commands and tests: all of them exist, and every system has its recipe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from engine.cli.main import main
from engine.recipe.schema import walk

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
QUOTED = set(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", PAGE))
PROGRAMS = sorted(name for name in QUOTED if name.startswith("benchmarks/"))
TESTS = sorted(name for name in QUOTED if name.startswith("tests/"))
COMMANDS = sorted(name for name in QUOTED if name.startswith("engine "))
RECIPES = sorted(name for name in QUOTED if name.startswith("recipes/"))
KEYS = sorted(QUOTED - {*TESTS, *COMMANDS, *RECIPES, *PROGRAMS})


def _written(text: str) -> list[str]:
    """The commands that stand on lines of their own, without what a shell or a reader has of the line."""
    whole = re.sub(r"\\\n[# ]*", "", text).replace("$k", "0")
    return re.findall(r"^(?:#   )?(?:for .* do )?(engine .+?)(?:;.*| +# .*)?$", whole, re.MULTILINE)


WRITTEN = sorted(
    {step for text in (PAGE, *((ROOT / name).read_text("utf-8") for name in RECIPES)) for step in _written(text)}
)


def test_every_row_has_a_system_a_key_or_command_and_a_test() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.count("|") == 5 and not set(line) <= set("|- ") and "feature" not in line
    ]
    assert len(rows) > 60
    for feature, systems, given_by, shown_by in rows:
        assert re.fullmatch(r"S[0-4]( S[0-4])*", systems), feature
        assert given_by.count("`") >= 2 and shown_by.count("`") == 2, feature


@pytest.mark.parametrize("name", TESTS)
def test_a_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).exists()
    if function:
        assert re.search(rf"^def test_{function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("key", KEYS)
def test_a_named_key_exists(key: str) -> None:
    assert key in {".".join(part for part in known.path if isinstance(part, str)) for known in walk()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_named_command_exists(command: str) -> None:
    assert CliRunner().invoke(main, [*command.split()[1:], "--help"]).exit_code == 0


@pytest.mark.parametrize("step", WRITTEN)
def test_a_written_command_has_such_options_and_keys(step: str) -> None:
    words: list[str] = shlex.split(step)[1:]
    command: click.Command | None = main
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(click.Context(command), words)
    assert command is not None
    command.make_context(command.name, list(words))  # raises for an option or a value that is not known
    keys = {".".join(part for part in known.path if isinstance(part, str)) for known in walk()}
    changes = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    assert {change.partition("=")[0].replace("*.", "") for change in changes} <= keys


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_named_program_exists(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_begins_with_its_system(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8").startswith("# ")
    assert len(RECIPES) == 5
