"""`engine bench`: how fast each part of the path is on this machine, and who waits for whom."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch

from engine.bench.envelope import Envelope, command_line, without_place
from engine.bench.phases import Bench
from engine.bench.photos import photos
from engine.bench.recipe import bench_recipe, default_recipe
from engine.bench.report import loader_over_step, report
from engine.cli.common import FilePath, Resolution, console, progress, set_option, table
from engine.data.ingest import ingest
from engine.model.build import check_sizes
from engine.recipe.load import load_recipe
from engine.recipe.sections import Recipe


@click.command(
    epilog="""\b
Examples:
  engine bench --res 512
  engine bench --res 224x320 --backbone convnext_tiny --batch 32
  engine bench --res 768 --recipe recipes/progressive_768.toml --data photos/

Without --recipe every image is cropped, turned, shifted, scaled, colour-jittered and partly erased. Without --data the
bench draws its own photos and keeps them. The last line of the output is JSON.
"""
)
@click.option("--res", type=Resolution(), help="Image size: pixels, or HxW.  [default: the recipe's first stage, 256]")
@click.option(
    "--batch", type=click.IntRange(1), help="Images in a batch.  [default: the recipe's; else 64 on a GPU, 16 on a CPU]"
)
@click.option("--backbone", help="A timm model.  [default: the recipe's; convnext_base on a GPU, else convnext_atto]")
@click.option("--recipe", type=FilePath(), help="Take augmentation, model and training from it.")
@click.option("--data", type=FilePath(path_type=str), help="Measure on these images: a folder, .csv, .tsv or .parquet.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Length of each phase.")
@click.option("--json", "json_file", type=FilePath(), help="Write the figures to this file, too.")
@set_option
def bench(
    res: tuple[int, int] | None,
    batch: int | None,
    backbone: str | None,
    recipe: Path | None,
    data: str | None,
    seconds: float,
    json_file: Path | None,
    sets: tuple[str, ...],
) -> None:
    """Measure decoding, augmentation, the loader, the training step, training and inference.

    Rates are medians of five windows, in images a second.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if backbone is not None:
        sets = (*sets, f"model.backbone={json.dumps(backbone)}")
    whole = load_recipe(recipe, sets) if recipe is not None else default_recipe(device, sets)
    resolved = bench_recipe(whole, res, batch)
    check_sizes(resolved.model, [resolved.stage[0].size])
    paths = _images(data, resolved)

    with console().status("") as status:
        measured = Bench(resolved, paths, device, seconds)
        phases = list(measured.run(lambda name: status.update(f"measuring: {name}")))
    source = without_place(data) if data is not None else "drawn by the bench"
    found = report(measured, phases, source, command_line(["engine"], sys.argv[1:]))
    _print(found)
    if json_file is not None:
        found.write(json_file)
    click.echo(found.line())


def _images(data: str | None, recipe: Recipe) -> list[str]:
    if data is None:
        with console().status("drawing photos"):
            return photos()
    with progress(unit="files", title="indexing") as meter:
        return ingest(data, recipe.data, meter).usable().paths


def _print(found: Envelope) -> None:
    settings, device = found.settings, found.machine["device"]
    (height, width), on_gpu = settings["size"], device != "cpu"
    rows = []
    for row in found.rows:
        slowest, fastest = min(row["windows"]), max(row["windows"])
        waited = "" if row["waited"] is None else f"{row['waited']:.1%}"
        cells = (row["phase"], f"{row['images_per_second']:,.1f}", f"{slowest:,.1f} to {fastest:,.1f}", waited)
        rows.append((*cells, f"{row['device_gib']:.2f}") if on_gpu else cells)
    title = (
        f"{found.settings['backbone']}, {height}x{width}, batch {found.settings['batch']}, {found.machine['device']}"
    )
    columns = ("", "images/s", "slowest to fastest", "model waited", *(("GPU GiB",) if on_gpu else ()))
    table(*columns, rows=rows, title=title)
    click.echo(
        f"The loader makes {loader_over_step(found.rows):.1f} times as many images a second as the training step takes."
    )
