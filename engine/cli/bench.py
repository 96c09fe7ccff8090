"""`engine bench`: how fast each part of the path is on this machine, and who waits for whom."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from engine.bench.ceilings import ceilings
from engine.bench.envelope import Envelope, Row, command_line, without_place
from engine.bench.peers import peer_rows
from engine.bench.phases import Bench
from engine.bench.photos import photos
from engine.bench.picture import check_picture, draw
from engine.bench.profile import profile_rows
from engine.bench.recipe import bench_recipe, default_recipe
from engine.bench.report import loader_over_step, report, rows_of
from engine.bench.switch import switch_rows
from engine.cli.common import FilePath, Resolution, console, progress, set_option, table
from engine.data.ingest import ingest
from engine.files import check_place
from engine.model.build import check_sizes
from engine.model.runtime import Runtime
from engine.recipe.load import load_recipe
from engine.recipe.sections import Recipe, StageSection


@click.command(
    epilog="""\b
Examples:
  engine bench --res 512
  engine bench --res 224x320 --backbone convnext_tiny --batch 32
  engine bench --recipe recipes/progressive_768.toml --data photos/ --picture bench.svg
  engine bench --compare --profile trace.json

Without --recipe every image is cropped, turned, shifted, scaled, colour-jittered and partly erased. Without --data the
bench draws its own photos and keeps them. Photos are decoded in every epoch, whatever decode.cache says. The last line
of the output is JSON.
"""
)
@click.option("--res", type=Resolution(), help="Image size: pixels, or HxW.  [default: all of the recipe's, 256]")
@click.option(
    "--batch", type=click.IntRange(1), help="Images in a batch.  [default: the recipe's; else 64 on a GPU, 16 on a CPU]"
)
@click.option("--backbone", help="A timm model.  [default: the recipe's; convnext_base on a GPU, else convnext_atto]")
@click.option(
    "--recipe", type=FilePath(), help="Take augmentation, model and training from it, and measure all of its stages."
)
@click.option("--data", type=FilePath(path_type=str), help="Measure on these images: a folder, .csv, .tsv or .parquet.")
@click.option("--seconds", type=click.FloatRange(0.1), default=7.0, show_default=True, help="Length of each phase.")
@click.option("--json", "json_file", type=FilePath(), help="Write the figures to this file, too, stage by stage.")
@click.option("--picture", type=FilePath(), help="Draw where the time goes: .svg, .png or .pdf.")
@click.option(
    "--profile", type=FilePath(), help="Write a trace of some training steps (for chrome://tracing, Perfetto)."
)
@click.option("--compare", is_flag=True, help="Measure other libraries' loaders beside the engine's.")
@set_option
def bench(
    res: tuple[int, int] | None,
    batch: int | None,
    backbone: str | None,
    recipe: Path | None,
    data: str | None,
    seconds: float,
    json_file: Path | None,
    picture: Path | None,
    profile: Path | None,
    compare: bool,
    sets: tuple[str, ...],
) -> None:
    """Measure every part of the path, from files to a trained step and to answers, for each stage.

    Rates are medians of five windows, in images a second. How long the model waited is told by training on a batch that
    is always there, in turn with training on what the loader brings. What is bound by arithmetic or by memory stands
    beside what this device can do at all, which is measured first.
    """
    if picture is not None:
        check_picture(picture)
    for file in filter(None, (json_file, picture, profile)):
        check_place(file)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if backbone is not None:
        sets = (*sets, f"model.backbone={json.dumps(backbone)}")
    whole = load_recipe(recipe, sets) if recipe is not None else default_recipe(device, sets)
    resolved = bench_recipe(whole, res, batch)
    check_sizes(resolved.model, [stage.size for stage in resolved.stage])
    paths = _images(data, resolved)

    source = without_place(data) if data is not None else "drawn by the bench"
    settings = {"images": {"source": source, "count": len(paths)}, "seconds_per_phase": seconds}
    command = command_line(["engine"], sys.argv[1:])
    rows: list[Row] = []
    with console().status("") as status:

        def watch(what: str, stage: StageSection | None = None) -> None:
            size = "" if stage is None else f"{stage.size[0]} x {stage.size[1]}: "
            status.update(f"measuring: {size}{what}")

        watch("what the device can do")
        limits = ceilings(device, Runtime.of(resolved.train, device).dtype, seconds / 2)
        for number, stage in enumerate(resolved.stage):
            one = Bench(resolved, paths, device, seconds, number, limits)
            heard = functools.partial(watch, stage=stage)
            rows += rows_of(one, one.run(heard))
            if compare:
                rows += peer_rows(one, heard)
            if profile is not None and number == 0:
                watch("profile")
                rows += profile_rows(one, profile)
            if json_file is not None:  # already: the next stage may not fit, or somebody lose patience
                report(resolved, limits, rows, settings, device, command).write(json_file)
        if len(resolved.stage) > 1:
            watch("switches of stages")
            rows += switch_rows(resolved, paths, device, limits)
    found = report(resolved, limits, rows, settings, device, command)
    _print(found)
    if json_file is not None:
        found.write(json_file)
    if picture is not None:
        draw(found, picture)
    click.echo(found.line())


def _images(data: str | None, recipe: Recipe) -> list[str]:
    if data is None:
        with console().status("drawing photos"):
            return photos()
    with progress(unit="files", title="indexing") as meter:
        return ingest(data, recipe.data, meter).usable().paths


# --- for people -----------------------------------------------------------------------------------------------------


def _print(found: Envelope) -> None:
    limits, device = found.settings["limits"], found.machine["device"]
    click.echo(
        f"{device}: {limits['tflops']:,.2f} TFLOP/s in matrix products, {limits['gb_per_second']:,.0f} GB/s copied"
    )
    for number in dict.fromkeys(row["stage"] for row in found.rows):
        _print_stage(found, [row for row in found.rows if row["stage"] == number], number)


def _print_stage(found: Envelope, rows: Sequence[Row], number: int) -> None:
    on_gpu = found.machine["device"] != "cpu"
    height, width = rows[0]["size"]
    title = f"{found.settings['backbone']}, {height}x{width}, batch {rows[0]['batch']}, {found.machine['device']}"
    columns = ["", "images/s", "slowest to fastest", "model waited", "of the limit", *(["GPU GiB"] if on_gpu else [])]
    shown = [row for row in rows if row["phase"] not in ("peer", "costliest")]
    table(*columns, "host GiB", rows=[_cells(row, on_gpu) for row in shown], title=title)
    times = loader_over_step(rows, number)
    click.echo(f"The loader makes {times:.1f} times as many images a second as the training step takes.")
    notes = [f"{row['phase']}: {row['note']}" for row in shown if row["note"]]
    click.echo("\n".join(notes))
    if peers := [row for row in rows if row["phase"] == "peer"]:
        cells = [(row["peer"], row["note"] or f"{row['images_per_second']:,.1f}") for row in peers]
        table("from files to batches", "images/s", rows=cells)
    if costliest := [row for row in rows if row["phase"] == "costliest"]:
        made = [(row["operator"], f"{row['ms']:.3f}", f"{row['calls']:g}", f"{row['share']:.1%}") for row in costliest]
        table("costliest", "ms a step", "calls a step", "of all", rows=[*made])


def _cells(row: Row, on_gpu: bool) -> tuple[str, ...]:
    if row["images_per_second"] is not None:
        rate = f"{row['images_per_second']:,.1f}"
        spread = f"{min(row['windows']):,.1f} to {max(row['windows']):,.1f}"
    else:
        rate, spread = ("", "" if row["ms"] is None else f"{row['ms'] / 1000:.3f} s")
    waited = "" if row["waited"] is None else f"{row['waited']:.1%}"
    share = "" if row["share"] is None else f"{row['share']:.1%} {row['limit']}"
    memory = [row.get("device_gib"), row.get("host_gib")] if on_gpu else [row.get("host_gib")]
    return (row["phase"], rate, spread, waited, share, *("" if gib is None else f"{gib:.2f}" for gib in memory))
