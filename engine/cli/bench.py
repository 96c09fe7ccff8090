"""`engine bench`: how fast each part of the path is on this machine, and who waits for whom."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click
import torch

from engine.bench.phases import FULL_POLICY, Bench, Phase, bench_recipe
from engine.bench.photos import photos
from engine.bench.timers import machine, peak_host_gib
from engine.cli.common import console, progress, set_option, table
from engine.data.ingest import ingest
from engine.files import write_text
from engine.model.build import check_sizes
from engine.recipe.load import load_recipe, parse_recipe
from engine.recipe.sections import Recipe


class _Resolution(click.ParamType):
    name = "pixels"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        sides = str(value).lower().split("x")
        if not 1 <= len(sides) <= 2 or not all(side.isdigit() and 8 <= int(side) <= 4096 for side in sides):
            self.fail(f"{value!r}: expected one number, or HEIGHTxWIDTH, of 8 to 4096 pixels", param, ctx)
        return int(sides[0]), int(sides[-1])


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
@click.option("--res", type=_Resolution(), help="Image size: pixels, or HxW.  [default: the recipe's first stage, 256]")
@click.option(
    "--batch", type=click.IntRange(1), help="Images in a batch.  [default: the recipe's; else 64 on a GPU, 16 on a CPU]"
)
@click.option("--backbone", help="A timm model.  [default: the recipe's; convnext_base on a GPU, else convnext_atto]")
@click.option("--recipe", type=click.Path(path_type=Path), help="Take augmentation, model and training from it.")
@click.option("--data", help="Measure on these images: a folder, .csv or .parquet.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Length of each phase.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
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
    whole = load_recipe(recipe, sets) if recipe is not None else parse_recipe(_default(device), sets, "engine bench")
    resolved = bench_recipe(whole, res, batch)
    check_sizes(resolved.model, [resolved.stage[0].size])
    paths = _images(data, resolved)

    with console().status("") as status:
        phases = list(Bench(resolved, paths, device, seconds).run(lambda name: status.update(f"measuring: {name}")))
    report = _report(resolved, phases, device, seconds, data, len(paths))
    _print(resolved, phases, device)
    if json_file is not None:
        write_text(json_file, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    click.echo(json.dumps(report, ensure_ascii=False))


def _default(device: torch.device) -> dict[str, object]:
    on_gpu = device.type == "cuda"
    return {
        "model": {"backbone": "convnext_base" if on_gpu else "convnext_atto", "pretrained": False},
        "augment": FULL_POLICY,
        "stage": [{"size": 256, "batch": 64 if on_gpu else 16, "epochs": 1, "lr": 1e-4}],
    }


def _images(data: str | None, recipe: Recipe) -> list[str]:
    if data is None:
        with console().status("drawing photos"):
            return photos()
    with progress(unit="files", title="indexing") as meter:
        return ingest(data, recipe.data, meter).usable().paths


def _report(
    recipe: Recipe, phases: list[Phase], device: torch.device, seconds: float, data: str | None, images: int
) -> dict[str, object]:
    """The figures and all that they depend on, for JSON."""
    stage = recipe.stage[0]
    return {
        "command": shlex.join(["engine", *sys.argv[1:]]),
        **machine(device),
        "size": stage.size,
        "batch": stage.batch,
        "backbone": recipe.model.backbone,
        "views": recipe.predict.tta,
        "executor": recipe.augment.executor,
        "images": {"source": data or "drawn by the bench", "count": images},
        "seconds_per_phase": seconds,
        "phases": {
            phase.name: {
                "images_per_second": round(phase.rate.median, 2),
                "windows": [round(rate, 2) for rate in phase.rate.windows],
                "waited": None if phase.rate.waited is None else round(phase.rate.waited, 4),
                "device_gib": None if phase.device_gib is None else round(phase.device_gib, 3),
            }
            for phase in phases
        },
        "host_gib": round(peak_host_gib(), 3),
    }


def _print(recipe: Recipe, phases: list[Phase], device: torch.device) -> None:
    (height, width), on_gpu = recipe.stage[0].size, device.type == "cuda"
    rows = []
    for phase in phases:
        slowest, fastest = min(phase.rate.windows), max(phase.rate.windows)
        waited = "" if phase.rate.waited is None else f"{phase.rate.waited:.1%}"
        row = (phase.name, f"{phase.rate.median:,.1f}", f"{slowest:,.1f} to {fastest:,.1f}", waited)
        rows.append((*row, f"{phase.device_gib:.2f}") if on_gpu else row)
    title = f"{recipe.model.backbone}, {height}x{width}, batch {recipe.stage[0].batch}, {machine(device)['device']}"
    columns = ("", "images/s", "slowest to fastest", "model waited", *(("GPU GiB",) if on_gpu else ()))
    table(*columns, rows=rows, title=title)
    rate = {phase.name: phase.rate.median for phase in phases}
    share = rate["loader"] / rate["training step"]
    click.echo(f"The loader makes {share:.1f} times as many images a second as the training step takes.")
