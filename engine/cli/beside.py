"""What `engine infer` says of what stands beside answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # they import torch
    import pyarrow as pa

    from engine.predict.outcome import Outcome


def print_beside(outcome: Outcome) -> None:
    """How large sets are, and how many images are marked; nothing when nothing was asked for."""
    sizes: Counter[int] = Counter()
    marked: Counter[str] = Counter()
    there: set[str] = set()
    for piece in outcome.pieces():
        there |= set(piece.columns)
        sizes.update(len(names) for names in _values(piece.columns, "set") if names is not None)
        for name in ("abstain", "strange", "near"):
            marked[name] += sum(map(bool, _values(piece.columns, name)))
    predict, images = outcome.job.models.recipe.predict, outcome.images
    if total := sizes.total():
        mean = sum(size * times for size, times in sizes.items()) / total
        click.echo(f"sets at a risk of {predict.risk:.3g}: {mean:.2f} classes, {sizes[1] / total:.1%} of one alone")
    if "abstain" in there:
        aim = f"of the others {predict.abstain_accuracy:.3g} should be right"
        click.echo(f"abstains from {marked['abstain']:,} of {images:,} images; {aim}")
    if "strange" in there:
        usual = f"of ordinary ones {predict.false_alarms:.3g} would be"
        click.echo(f"{marked['strange']:,} of {images:,} images are like nothing in training; {usual}")
    if marked["near"]:
        click.echo(f"{marked['near']:,} of {images:,} images are near-duplicates of training images (column near)")


def _values(columns: Mapping[str, pa.Array], name: str) -> list[Any]:
    return columns[name].to_pylist() if name in columns else []
