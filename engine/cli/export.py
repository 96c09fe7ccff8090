"""`engine export`: a run as one file that answers where `engine` is not installed."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli.common import FilePath, ViewNames


@click.command(
    epilog="""\b
Examples:
  engine export models/ --to onnx
  engine export models/ --to onnx --fold 0 --views plain --out phone.onnx
  engine export models/ --to torch --batch 8
"""
)
@click.argument("run", type=FilePath(exists=True, file_okay=False))
@click.option("--to", "kind", type=click.Choice(["onnx", "torch"]), required=True, help="ONNX, or torch's own .pt2.")
@click.option("--out", type=FilePath(dir_okay=False), help="The file.  [default: RUN/export/model.onnx or .pt2]")
@click.option("--fold", default="", metavar="NAME", help="One fold alone, by the name of its folder.")
@click.option("--views", type=ViewNames(), help="Other views than the run's, such as plain for one alone.")
@click.option("--batch", type=click.IntRange(min=1), help="So many photos at a time; any number where left out.")
def export(run: Path, kind: str, out: Path | None, fold: str, views: tuple[str, ...] | None, batch: int | None) -> None:
    """Write RUN as one file: pixels of upright RGB photos in, calibrated probabilities out.

    Crop, antialiased resize and normalisation, all folds and views, and whatever was fitted of how they become one
    answer are in the graph; class names, preprocessing, versions and licences are in its metadata.
    """
    from engine.export.write import SUFFIX, Wanted, models_of, write

    wanted = Wanted("torch" if kind == "torch" else "onnx", fold, views or (), batch)
    models, _ = models_of(run, wanted)
    path = out or run / "export" / f"model{SUFFIX[wanted.kind]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(models, path, wanted)
    click.echo(str(path))
