"""A click group whose commands are imported when they are run.

`engine --help`, shell completion and a mistyped command must answer at once, and importing one command means importing
torch. So the group holds doors: the name and the line of help of a command, and where to find it.
"""

from __future__ import annotations

import importlib

import click


class Door(click.Command):
    """Stands for the command `attribute` of `module` in lists; `open` gets the command itself."""

    def __init__(self, name: str, target: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help, add_help_option=False)
        self.target = target

    def open(self) -> click.Command:
        module, _, attribute = self.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group that opens a door only to run or complete the command behind it. Lists commands in the order added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.open() if isinstance(command, Door) else command, rest

    def doors(self, **commands: tuple[str, str]) -> None:
        """Add commands: name = ("module:attribute", "Line of help.")."""
        for name, (target, short_help) in commands.items():
            self.add_command(Door(name, target, short_help))
