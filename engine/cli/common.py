"""What the commands share: the recipe argument, `--set`, the console and the progress bar.

Results go to stdout and everything else (progress, notes, errors) to stderr, so a command can be piped. rich and the
recipe are imported where they are used: help and completion must not wait for them.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.files import expanded

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console
    from rich.progress import Progress, Task, TaskID
    from rich.text import Text

    from engine.intervals import Interval

RECIPE = "engine.cli.recipe"
"""Key of `Context.meta`: the recipe file of the command that runs, for errors that name only a key."""


def _remember(ctx: click.Context, _: click.Parameter, path: Path) -> Path:
    ctx.meta[RECIPE] = str(path)
    return path


def _complete_set(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from engine.recipe import schema

    return [
        CompletionItem(f"{schema.dotted(key.path)}=", help=key.description)
        for key in schema.walk()
        if key.section is None and schema.dotted(key.path).startswith(incomplete)
    ]


class FilePath(click.Path):
    """A file or folder of the command line, a Path unless told otherwise: `~` and `$NAME` in it are expanded where the
    shell did not, as in --out=~/x."""

    def __init__(self, path_type: type = Path, **kinds: bool) -> None:
        super().__init__(path_type=path_type, **kinds)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(expanded(str(value)), param, ctx)
        except ValueError as error:
            self.fail(f"{value}: {error}", param, ctx)


recipe_argument = click.argument("recipe", type=FilePath(), callback=_remember)
"""Decorator: the argument RECIPE, a Path. `engine.recipe.load.load_recipe` refuses it when it is not there."""

set_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=_complete_set,
    help="Change a value of the recipe, e.g. stage.0.size=64 or 'stage.*.epochs=2'. May be repeated.",
)
"""Decorator: the option --set, which gives the parameter `sets`, a tuple of texts for `load_recipe`."""


_NARROWEST = 40  # columns; what is narrower (or 0, as some terminals say of themselves) would show nothing at all


def console_for(**options: Any) -> Console:
    """A console for stdout, or as the options (rich's) say, of a width that shows something."""
    from rich.console import Console

    console = Console(highlight=False, **options)
    if console.width < _NARROWEST:
        console.width = _NARROWEST
    return console


@functools.cache
def console() -> Console:
    """The console for what is no result: stderr. Escape text from outside (rich.markup.escape) before printing it."""
    return console_for(stderr=True)


def tell(*notices: str) -> None:
    """Print what a person should know, in yellow to stderr, a line each: a wrapped path cannot be copied."""
    for notice in notices:
        console().print(notice, markup=False, soft_wrap=True, style="yellow")


class Resolution(click.ParamType[tuple[int, int]]):
    """An option's (height, width): one number, or HEIGHTxWIDTH."""

    name = "pixels"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        sides = str(value).lower().split("x")
        if not 1 <= len(sides) <= 2 or not all(side.isdigit() and 8 <= int(side) <= 4096 for side in sides):
            self.fail(f"{value!r}: expected one number, or HEIGHTxWIDTH, of 8 to 4096 pixels", param, ctx)
        return int(sides[0]), int(sides[-1])


class Share(click.ParamType[float]):
    """An option's share: 1% or 0.01."""

    name = "share"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1
        if not 0 <= share < 1:
            self.fail(f"{value!r}: expected a share, such as 1% or 0.01", param, ctx)
        return share


class Weights(click.ParamType[tuple[float, ...]]):
    """An option's numbers, with commas between."""

    name = "number,number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(text) for text in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers with commas between, such as 1,2", param, ctx)


class ViewNames(click.ParamType[tuple[str, ...]]):
    """An option's list of views, by name, with commas between."""

    name = "name,name"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from engine.recipe.sections.predict import whole_names

        if isinstance(value, tuple):  # a default
            return value
        try:
            return whole_names(tuple(name.strip() for name in str(value).split(",") if name.strip()))
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, _: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from engine.recipe.sections.predict import VIEW_NAMES

        before, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in VIEW_NAMES if name.startswith(begun)]


class Meter:
    """A running progress bar; call it with counts: `meter(done, total)`, or `meter.advance(n)`."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, done: int, total: int | None = None) -> None:
        """So many are done, of so many if that is known only now."""
        self._progress.update(self._task, completed=done, total=total)

    def advance(self, count: int = 1) -> None:
        self._progress.advance(self._task, count)

    def note(self, text: str) -> None:
        """Shown at the end of the line: a loss, a file."""
        self._progress.update(self._task, note=text)


@contextmanager
def progress(total: int | None = None, unit: str = "images", title: str = "") -> Iterator[Meter]:
    """Show a bar on stderr while the block runs: done of total, units a second, time left.

    `total` may be None until it is known. Nothing is shown when stderr is no terminal.
    """
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s")

    columns = (
        TextColumn(escape(title) if title else unit),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        yield Meter(bar, bar.add_task("", total=total, note=""))


def echo_json(value: object, indent: int | None = None) -> None:
    """Print one JSON value to stdout: its letters as they are where stdout has them, else as escapes, never as `?`."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    click.echo(text)


def class_table(classes: Mapping[str, int], most: int, title: str) -> None:
    """Print {class: images}, the largest `most` of them first and the others as one."""
    by_count = sorted(classes.items(), key=lambda item: (-item[1], item[0]))
    rows: list[tuple[Any, ...]] = list(by_count[:most])
    if hidden := by_count[most:]:
        rows.append((f"... and {len(hidden)} smaller classes", sum(count for _, count in hidden)))
    table("class", "images", rows=rows, title=title)


def table(*columns: str, rows: list[tuple[Any, ...]], title: str = "") -> None:
    """Print rows under column names to stdout, after a line with the title; numbers are set to the right."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table()
    for i, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        shown.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in row))
    console = console_for()
    if title:
        console.print(title, style="bold", markup=False, soft_wrap=True)
    console.print(shown)


def shown_interval(one: Interval) -> str:
    """Between what a score may lie, for a table."""
    return "" if one.low is None or one.high is None else f"{one.low:.4f} to {one.high:.4f}"
