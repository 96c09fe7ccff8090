"""What a recipe does to its images, to look at before an hour is spent on it: one offline page.

Every row is a training image: as it is scored, then as successive epochs of a stage train on it. The pictures come out
of the loader itself and lose nothing but their normalisation, so what is wrong on the page is wrong in training. One
thing differs: partners of mixed images are found among the images shown, as in training among those of the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.augment.contract import Contract
from engine.augment.mix import MixedLabels, mix_at
from engine.augment.policy import Policy
from engine.errors import RecipeError
from engine.loader.batches import Batch, Epoch, Loader
from engine.model.build import backbone_config
from engine.recipe.sections import Recipe
from engine.report.page import data_url, write_page
from engine.training.prepare import Prepared


@dataclass(frozen=True)
class Picture:
    pixels_HW3: np.ndarray  # uint8 RGB
    caption: str  # class names and their shares; the image's own name where it is as it is scored


@dataclass(frozen=True)
class Preview:
    """`rows`: for each image the picture that is scored, then one for each epoch in `epochs` (counted from 0 over the
    run). `size` is (height, width) in pixels."""

    recipe: Recipe
    stage: int
    size: tuple[int, int]
    epochs: tuple[int, ...]
    rows: list[list[Picture]]


def preview(prepared: Prepared, stage: int = 0, images: int = 12, epochs: int = 6, first: int = 0) -> Preview:
    """`images` training images in the first `epochs` epochs of a stage, from its epoch `first` on.

    Classes take turns. Raises RecipeError for a stage that the recipe does not have.
    """
    recipe = prepared.recipe
    if not 0 <= stage < len(recipe.stage):
        raise RecipeError(f"stage {stage}: the recipe has stages 0 to {len(recipe.stage) - 1}")
    at = recipe.stage[stage]
    begin = sum(before.epochs for before in recipe.stage[:stage]) + first
    numbers = tuple(range(begin, begin + min(epochs, max(1, at.epochs - first))))
    config = backbone_config(recipe.model.backbone)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = dataclasses.replace(prepared.samples, taught=None)  # what a teacher says is not to be seen
    loader = Loader(samples, recipe.decode, device, recipe.augment.executor)
    policy = Policy(recipe.augment, config.mean, config.std, config.interpolation)
    contract = Contract.of(recipe.augment, at.size, config.mean, config.std, config.interpolation)
    rows_N = _turns(prepared, images)

    columns = [loader.valid([rows_N], contract)]
    for number in numbers:
        mix = at.mix or mix_at(recipe.augment.mix, number)
        columns.append(loader.train([rows_N], policy, Epoch(recipe.seed, number, *at.size, mix)))
    shown: dict[int, list[Picture]] = {}
    for i, column in enumerate(columns):
        with closing(column):
            for row, picture in _pictures(column, prepared, config.mean, config.std, scored=i == 0):
                shown.setdefault(row, []).append(picture)
    return Preview(recipe, stage, at.size, numbers, [shown[row] for row in rows_N.tolist() if row in shown])


def write_preview(shown: Preview, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_page(path, _PAGE, shown=shown, url=_url, width=_shown_width(shown.size))


def _turns(prepared: Prepared, images: int) -> np.ndarray:
    """Rows to show: in an order of the recipe's seed, a first one of each class, then a second one, and so on."""
    labels_N = prepared.samples.labels_N
    order_N = np.random.default_rng(prepared.recipe.seed).permutation(len(labels_N))
    turn_N = np.zeros(len(order_N), dtype=np.int64)
    for label in range(len(prepared.classes)):
        own = labels_N[order_N] == label
        turn_N[own] = np.arange(own.sum())
    return order_N[np.argsort(turn_N, kind="stable")][:images]


def _pictures(
    batches: Iterator[Batch], prepared: Prepared, mean: tuple[float, ...], std: tuple[float, ...], scored: bool
) -> Iterator[tuple[int, Picture]]:
    for batch in batches:
        pixels = batch.images_BCHW.permute(0, 2, 3, 1).float().cpu() * torch.tensor(std) + torch.tensor(mean)
        pixels_BHW3 = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy().copy()
        assert isinstance(batch.labels, MixedLabels)
        labels = zip(*(label_B.tolist() for label_B in batch.labels), strict=True)
        for row, pixels_HW3, (own, partner, share) in zip(batch.rows_B.tolist(), pixels_BHW3, labels, strict=True):
            name = prepared.classes[own]
            if scored:
                caption = f"{name} · {Path(prepared.samples.source.where(row)).name}"
            elif share < 1:
                caption = f"{share:.2f} {name} + {1 - share:.2f} {prepared.classes[partner]}"
            else:
                caption = ""
            yield row, Picture(pixels_HW3, caption)


def _url(picture: Picture) -> str:
    return data_url(Image.fromarray(picture.pixels_HW3), quality=88)


def _shown_width(size: tuple[int, int]) -> int:
    """Pixels of the screen that a picture takes: some of them side by side, small ones enlarged."""
    return min(224, max(112, size[1]))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Preview: {{ shown.recipe.name }}</title>
<style>
:root { --ink: #1c2530; --soft: #64707d; --ground: #f5f6f8; --card: #fff; --line: #dde2e7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #98a3ae; --ground: #14181d; --card: #1d232a;
  --line: #333c46; } }
body { margin: 0; padding: 24px; color: var(--ink); background: var(--ground);
  font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans KR", sans-serif; }
h1 { font-size: 24px; margin: 0; } p { margin: 2px 0 18px; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th { text-align: left; font-size: 12px; font-weight: 600; padding: 0 8px 6px 0; color: var(--soft); }
td { padding: 0 8px 10px 0; vertical-align: top; }
td:first-child, th:first-child { padding-right: 20px; }
img { display: block; width: {{ width }}px; border-radius: 4px; border: 1px solid var(--line); }
div.caption { font-size: 11px; line-height: 1.35; width: {{ width }}px; overflow-wrap: anywhere; color: var(--soft); }
</style>
</head>
<body>
<h1>{{ shown.recipe.name }}</h1>
<p>Stage {{ shown.stage }}, {{ shown.size[0] }} x {{ shown.size[1] }} pixels (height x width),
seed {{ shown.recipe.seed }}.
The first column is what is scored and served, the others what those epochs train on.</p>
<div class="scroll">
<table>
<tr><th>scored</th>{% for epoch in shown.epochs %}<th>epoch {{ epoch + 1 }}</th>{% endfor %}</tr>
{% for row in shown.rows %}
<tr>{% for picture in row %}
<td><img src="{{ url(picture) }}" alt=""><div class="caption">{{ picture.caption }}</div></td>
{% endfor %}</tr>
{% endfor %}
</table>
</div>
</body>
</html>
"""
