"""`engine export`: a run as one file that answers where `engine` is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, ViewNames, table, tell

if TYPE_CHECKING:
    from engine.export.parity import Parity
    from engine.export.write import Kind, Precision, Wanted


@click.command(
    epilog="""\b
Examples:
  engine export models/ --to onnx
  engine export models/ --to onnx --fold 0 --views plain --out phone.onnx
  engine export models/ --to onnx --precision int8 --photos photos/train
  engine export models/ --to onnx --bytes --drawn
  engine export models/ --to torch --precision bf16 --batch 8
  engine export models/ --to tensorrt --precision fp16 --batch 16
"""
)
@click.argument("run", type=FilePath(exists=True, file_okay=False))
@click.option(
    "--to",
    "kind",
    type=click.Choice(["onnx", "torch", "tensorrt"]),
    required=True,
    help="ONNX; torch's own .pt2; or a strongly typed ONNX for TensorRT, and the engine where it can be built.",
)
@click.option("--out", type=FilePath(dir_okay=False), help="The file.  [default: RUN/export/model.onnx or .pt2]")
@click.option("--fold", default="", metavar="NAME", help="One fold alone, by the name of its folder.")
@click.option("--views", type=ViewNames(), help="Other views than the run's, such as plain for one alone.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the networks. Pixels are prepared, and answers joined, in full precision.",
)
@click.option("--batch", type=click.IntRange(min=1), help="So many photos at a time; any number where left out.")
@click.option(
    "--bytes",
    "takes_bytes",
    is_flag=True,
    help="Take the content of a JPEG or PNG in place of pixels; needs onnxruntime-extensions where it runs.",
)
@click.option(
    "--photos",
    default="",
    metavar="DIR",
    help="Photos to measure int8 by, and to compare the file with the run on.  [default: the run's training data]",
)
@click.option(
    "--drawn",
    is_flag=True,
    help="Carry drawn photos to prove it by, in place of training photos made small, which whoever gets it can see.",
)
def export(
    run: Path,
    kind: Kind,
    out: Path | None,
    fold: str,
    views: tuple[str, ...] | None,
    precision: Precision,
    batch: int | None,
    takes_bytes: bool,
    photos: str,
    drawn: bool,
) -> None:
    """Write RUN as one file: pixels of upright RGB photos in, calibrated probabilities out.

    Crop, antialiased resize and normalisation, all folds and views, and whatever was fitted of how they become one
    answer are in the graph; class names, preprocessing, versions and licences are in its metadata, with photos and the
    answers they must get. A file that does not answer as the run does is not written.
    """
    from engine.cli.common import console
    from engine.export.about import CARRIED
    from engine.export.from_bytes import TOLD
    from engine.export.parity import parity, photos_at_hand
    from engine.export.prove import asked_of
    from engine.export.runner import Exported
    from engine.export.verify import TEN_LINES
    from engine.export.write import Wanted, models_of, write

    wanted = Wanted(kind, fold, views or (), batch, precision, takes_bytes, drawn)
    models, _ = models_of(run, wanted)
    path = out or run / "export" / _name(wanted)
    at_hand = photos_at_hand(models.recipe.data, photos, background=models.recipe.decode.background)
    tell(*models.notices)
    with console().status(f"writing {path}, and proving it"):
        about = write(models, path, wanted, at_hand.pixels)
    if takes_bytes:
        tell(f"{path} {TOLD}")
    elif at_hand.pixels:
        _show(parity(Exported.open(path), asked_of(models), at_hand), path, at_hand.source)
    else:
        tell(f"no photos of {at_hand.source} are there any more to compare on; name a folder with --photos")
    tell(f"{path} carries {CARRIED[about['proof']]}")
    if kind == "tensorrt":
        _build(path, wanted.batch)
    click.echo(str(path))
    if wanted.kind == "onnx" and not takes_bytes:
        click.echo(f"It proves itself where numpy, Pillow and onnxruntime are:\n\n{TEN_LINES}", err=True)


def _name(wanted: Wanted) -> str:
    from engine.export.write import SUFFIX

    precision = "" if wanted.precision == "fp32" else wanted.precision
    purpose = "bytes" if wanted.bytes else "tensorrt" if wanted.kind == "tensorrt" else ""
    return "_".join(filter(None, ["model", precision, purpose])) + SUFFIX[wanted.kind]


def _show(found: Parity, path: Path, source: str) -> None:
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    of_run, of_file = (f"{loss:.4f}" for loss in found.log_loss) if found.log_loss else ("", "")
    table(
        "",
        "off by",
        "same answer",
        "log loss",
        "size",
        "photos/s",
        rows=[
            ("the run", "", "", of_run, "", f"{found.a_second[0]:.1f}"),
            (
                path.name,
                f"{found.difference:.2g}",
                f"{found.agreement:.1%}",
                of_file,
                size,
                f"{found.a_second[1]:.1f}",
            ),
        ],
        title=f"On {found.photos} photos of {source}",
    )


def _build(path: Path, batch: int | None) -> None:
    from engine.export.tensorrt import build, command

    reason = build(path, batch)
    if reason:
        tell(f"No TensorRT engine was built: {reason}. {path} is ready for it; build it where it is to run:")
        click.echo(command(path, batch))
    else:
        click.echo(str(path.with_suffix(".engine")))
