"""A model card as Markdown: what whoever is handed the models should be told (Mitchell et al., "Model Cards for Model
Reporting", FAT* 2019). What nobody but the person who trained can know is left as a question, not made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.recipe.sections import Recipe
from engine.report.result.headline import Figure
from engine.report.result.told import Told
from engine.report.result.words import share
from engine.text import some

_MOST_CLASSES = 60
_SAID = {"version": "contract"}


def card(told: Told, shown: Sequence[Figure], said: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """rows: of the table of classes."""
    lines = [f"# {told.name}", "", "## What it is", ""]
    lines += [f"* {line}" for line in _architecture(told)]
    lines += ["", "## Intended use", ""]
    lines += [
        f"* Sorts photos like those it was trained on into {len(told.counts) or len(rows)} classes, one to a photo.",
        "* To be filled in: who uses it, for what decision, and what happens when it is wrong.",
        "* Not for photos of other things, cameras or places than the training data without scoring it on them first.",
    ]
    lines += ["", "## Data", ""]
    lines += _data(told)
    lines += ["", "## Scores", ""]
    lines += _scores(shown, said)
    lines += ["", "## Limits", ""]
    lines += _limits(told, rows)
    lines += ["", "## Licence", ""]
    lines += [f"* {line}" for line in licences(told.recipe)]
    lines += ["", "## Preprocessing and versions", ""]
    lines += [f"* {name}: {value}" for name, value in _contract(told).items()]
    return "\n".join(lines) + "\n"


def _architecture(told: Told) -> list[str]:
    recipe = told.recipe
    if recipe is None:
        return ["An image classifier; its recipe cannot be read by this version of the engine."]
    sizes = " then ".join(dict.fromkeys(f"{stage.size[0]} x {stage.size[1]}" for stage in recipe.stage))
    start = (
        f"weights from {recipe.model.weights.rpartition('/')[2]}"
        if recipe.model.weights
        else ("weights from timm's hub" if recipe.model.pretrained else "weights drawn at random")
    )
    found = [f"An image classifier: {recipe.model.backbone} (timm), {start}, trained at {sizes} pixels."]
    if told.models:
        found.append(f"{told.models} models of {told.folds} folds answer together.")
    return found


def _data(told: Told) -> list[str]:
    counts = sorted(told.counts.items(), key=lambda item: (-item[1], item[0]))
    if not counts:
        return ["* Not known: the run's folder holds no samples.parquet."]
    lines = [
        f"* {sum(told.counts.values()):,} labelled photos in {len(counts)} classes.",
        "* To be filled in: where the photos come from, who labelled them, and who may use them.",
        "",
        "| class | photos |",
        "|---|---:|",
    ]
    lines += [f"| {_cell(name)} | {number:,} |" for name, number in counts[:_MOST_CLASSES]]
    if len(counts) > _MOST_CLASSES:
        rest = counts[_MOST_CLASSES:]
        lines.append(f"| ... and {len(rest)} smaller classes | {sum(number for _, number in rest):,} |")
    return lines


def _scores(shown: Sequence[Figure], said: Sequence[str]) -> list[str]:
    lines = [f"* {line}" for line in said] + [""]
    if shown:
        lines += ["| | score | 95% interval | without a model |", "|---|---:|---:|---|"]
    for one in shown:
        write = share if one.percent else "{:.3f}".format
        low, high = one.score.low, one.score.high
        between = "" if low is None or high is None else f"{write(low)} to {write(high)}"
        shares = f"{write(one.shares)} ({one.about})"
        lines.append(f"| {one.title} | {write(one.score.value)} | {between} | {shares} |")
    return lines


def _limits(told: Told, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    weak = [row for row in rows if row["f1"] is not None][:3]
    if weak:
        named = ", ".join(f"{row['name']} (F1 {share(row['f1'])}, {row['support']:,} photos)" for row in weak)
        lines.append(f"* Weakest classes: {named}.")
    few = [row for row in rows if 0 < row["support"] < 20]
    if few:
        named = some([row["name"] for row in few], show=str)
        lines.append(f"* Scores of what has fewer than 20 photos are hardly known: {named}.")
    if told.ensemble is None or told.ensemble.hedges.strange is None:
        lines.append("* It answers photos of anything with one of its classes: strangers are not told apart.")
    lines.append("* Scores are of photos like the training data. Others have to be scored anew.")
    return lines


def licences(recipe: Recipe | None) -> list[str]:
    """As far as they are known: of the weights that training began with."""
    own = "The trained weights are yours, within what the licences of the photos and of the starting weights allow."
    if recipe is None:
        return [own]
    model = recipe.model
    known = _timm_licence(model.backbone)
    if model.weights:
        told = f"Starting weights: {model.weights.rpartition('/')[2]}, whose licence has to be looked up"
        told += f"; timm's own of this backbone are under {known}." if known else "."
    elif model.pretrained:
        told = f"Starting weights: {model.backbone} of timm, {f'under {known}' if known else 'of an unknown licence'}."
    else:
        told = "No starting weights."
    return [told, own]


def _timm_licence(backbone: str) -> str:
    """Of timm's pretrained weights; "" where it does not say."""
    from timm.models import get_pretrained_cfg

    return str(getattr(get_pretrained_cfg(backbone, allow_unregistered=True), "license", None) or "")


def _contract(told: Told) -> dict[str, str]:
    contract: Mapping[str, Any] = told.about.get("contract") or {}
    values = {name: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in contract.items()}
    shown = {_SAID.get(name, name): value for name, value in values.items()}
    versions: Mapping[str, str] = told.about.get("versions") or {}
    return shown | {f"version of {name}": version for name, version in versions.items()}


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
