"""`engine report`: all that is to be said of a run, on one page."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from engine.cli.common import FilePath, Meter, progress, set_option


@click.command(
    epilog="""\b
Examples:
  engine report models/
  engine report models/ --against models/before --out report.html
  engine report models/ --no-heatmaps
  engine report models/ --set data.train=/mnt/photos/train

The page is one file that needs no network. Photos are shown where they are
still to be found; --set says where they lie now.
"""
)
@click.argument("run", type=FilePath(file_okay=False))
@click.option("--out", type=FilePath(dir_okay=False), help="The page.  [default: report.html in RUN]")
@click.option(
    "--against", type=FilePath(file_okay=False), help="A run to compare with.  [default: the last one beside RUN]"
)
@click.option("--heatmaps/--no-heatmaps", default=True, show_default=True, help="Show where the models looked.")
@set_option
def report(run: Path, out: Path | None, against: Path | None, heatmaps: bool, sets: tuple[str, ...]) -> None:
    """Write a page about RUN, a run's folder or an ensemble's: how good it is and where it fails, how it was trained
    and on what, and a model card."""
    from engine.report.result import write_report

    with _Bars() as bars:
        path = write_report(run, out, against=against, heatmaps=heatmaps, sets=sets, heard=bars.hear)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


class _Bars(ExitStack):
    """A bar for each thing that is done, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._what = ""
        self._meter: Meter | None = None

    def hear(self, what: str, done: int, total: int | None) -> None:
        if what != self._what or self._meter is None:
            self.close()
            self._what, self._meter = what, self.enter_context(progress(total, title=what))
        self._meter(done, total)
