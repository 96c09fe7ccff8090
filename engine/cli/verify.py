"""`engine verify`: does an exported file answer here as it did where it was made; what does a deployment do wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, progress, table
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.export.verify import Verdict


@click.command(
    epilog="""\b
Examples:
  engine verify model.onnx
  engine verify model.onnx --photos proof/
  engine verify model.onnx --answers theirs.csv

\b
An exported file carries a few photos and what it must answer about them.
To check a program of your own: write the photos out (--photos), have it answer
about these files, and give its answers (--answers): a CSV file with the photo's
name and a column a class, or JSON like {"1_exact.png": {"cat": 0.9, "dog": 0.1}}.
Exit code 1 when answers differ; what is wrong is named, and how to mend it.
"""
)
@click.argument("file", type=FilePath())
@click.option("--photos", type=FilePath(file_okay=False), metavar="DIR", help="Write the file's own photos into DIR.")
@click.option("--answers", type=FilePath(dir_okay=False), help="What another program answers about these photos.")
def verify(file: Path, photos: Path | None, answers: Path | None) -> None:
    """Ask FILE, which `engine export` made, about its own photos; or judge what another program answers about them."""
    from engine.export.verify import judge, read_answers, write_photos
    from engine.export.verify import verify as verify_file

    if photos is not None:
        for path in write_photos(file, photos):
            click.echo(str(path))
        if answers is None:
            return
    if answers is None:
        verdict = verify_file(file)
    else:
        theirs = read_answers(answers)
        with progress(title="planting faults", unit="faults") as meter:
            verdict = judge(file, theirs, meter)
    _print(verdict, str(answers or file))


def _print(verdict: Verdict, who: str) -> None:
    """The photos and the verdict. Raises EngineError when answers differ."""
    rows: list[tuple[object, ...]] = [
        (row.name, row.what, f"{row.apart:.2g}", f"{row.tolerance:.2g}", "same" if row.same else "differs")
        for row in verdict.rows
    ]
    table("photo", "", "off by", "may be", "", rows=rows)
    if verdict.same:
        click.echo(f"{who}: same; probabilities are off by {verdict.worst:.2g} at most")
        return
    found = verdict.diagnosis
    told = f"{who}: answers differ, by {verdict.worst:.2g} at most. {verdict.stage}: {verdict.words}"
    if found is not None and found.exact:
        told += f" (with that the file answers the same, to {found.left:.2g})"
    elif found is not None:
        told += f" (nearly: with that the file answers alike to {found.left:.2g})"
    if found is not None and found.other:
        told += f"; as well it may be: {', '.join(found.other)}"
    raise EngineError(f"{told}. Remedy: {verdict.remedy}")
