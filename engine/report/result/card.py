"""A model card as Markdown: what whoever is handed the models should be told (Mitchell et al., "Model Cards for Model
Reporting", FAT* 2019). What nobody but the person who trained can know is left as a question, not made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.model.licence import Licence, starting_licence
from engine.recipe.sections import Recipe
from engine.report.result.headline import Figure
from engine.report.result.told import Told
from engine.report.result.words import share
from engine.text import count, some

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
    lines += [f"* {line}" for line in licences(told.recipes)]
    lines += ["", "## Preprocessing and versions", ""]
    lines += ["* Of the first run; the others may have their own.", ""] if len(told.parts) > 1 else []
    lines += [f"* {name}: {value}" for name, value in _contract(told).items()]
    return "\n".join(lines) + "\n"


def _architecture(told: Told) -> list[str]:
    if not told.recipes:
        return ["An image classifier; its recipe cannot be read by this version of the engine."]
    found = [f"An image classifier: {one}." for one in dict.fromkeys(_trained(recipe) for recipe in told.recipes)]
    if len(found) > 1:
        found = ["Image classifiers that answer together.", *found]
    if told.models:
        of = f" of {count(told.parts, 'run')}" if told.parts else ""
        together = "answers" if told.models == 1 else "answer together"
        found.append(f"{count(told.models, 'model')} of {count(told.folds, 'fold')}{of} {together}.")
    return found


def _trained(recipe: Recipe) -> str:
    sizes = " then ".join(dict.fromkeys(f"{stage.size[0]} x {stage.size[1]}" for stage in recipe.stage))
    start = (
        f"weights from {recipe.model.weights.rpartition('/')[2]}"
        if recipe.model.weights
        else ("weights from timm's hub" if recipe.model.pretrained else "weights drawn at random")
    )
    taught = ", taught by other models" if recipe.distill.teacher else ""
    return f"{recipe.model.backbone} (timm), {start}, trained at {sizes} pixels{taught}"


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
    weak = [row for row in rows if row["f1"] is not None and row["f1"] < 1][:3]
    if weak:
        named = ", ".join(f"{row['name']} (F1 {share(row['f1'])}, {row['support']:,} photos)" for row in weak)
        lines.append(f"* Weakest classes: {named}.")
    few = [row for row in rows if 0 < row["support"] < 20]
    if few:
        named = some([row["name"] for row in few], show=str)
        lines.append(f"* Scores of what has fewer than 20 photos are hardly known: {named}.")
    if unseen := [row["name"] for row in rows if not row["support"]]:
        lines.append(f"* Never held out, so that nothing is known of how well they are told: {some(unseen, show=str)}.")
    if told.ensemble is None or told.ensemble.hedges.strange is None:
        lines.append("* It answers photos of anything with one of its classes: strangers are not told apart.")
    lines.append("* Scores are of photos like the training data. Others have to be scored anew.")
    return lines


def licences(recipes: Sequence[Recipe]) -> list[str]:
    """As far as they are known: of the weights that training began with."""
    own = "The trained weights are yours, within what the licences of the photos and of the starting weights allow."
    return [*dict.fromkeys(_licence(starting_licence(recipe.model)) for recipe in recipes), own]


def _licence(one: Licence) -> str:
    match one.start:
        case "nothing":
            return f"No starting weights of {one.backbone}: nobody else's are in it."
        case "timm":
            known = f"under {one.timm}" if one.timm else "of an unknown licence"
            return f"Starting weights: {one.backbone} of timm, {known}."
        case "file":
            timms = f"; timm's own of {one.backbone} are under {one.timm}" if one.timm else ""
            return f"Starting weights: {one.file}, whose licence has to be looked up{timms}."


def _contract(told: Told) -> dict[str, str]:
    contract: Mapping[str, Any] = told.about.get("contract") or {}
    values = {name: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in contract.items()}
    shown = {_SAID.get(name, name): value for name, value in values.items()}
    versions: Mapping[str, str] = told.about.get("versions") or {}
    return shown | {f"version of {name}": version for name, version in versions.items()}


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
