"""A recipe for a folder or a table, with a comment behind every line that says why it is there.

It is short on purpose. A recipe with every key written out looks like work; what is a default stands in
docs/recipes.md, and what is written here is what somebody might want otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.advice.labels import has_sides
from engine.advice.lines import Lines
from engine.advice.machine import Machine, this_machine
from engine.advice.network import FRESH_EPOCHS, FRESH_LR, Network, network_for
from engine.advice.survey import Given, Survey, Watch, survey
from engine.data.checks import UNEVEN, Finding
from engine.errors import DataError, RecipeError
from engine.files import as_written
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.system import GIB
from engine.text import count
from engine.training.prepare import prepare

_PATHS = ("images", "test", "sample_submission")
_USUAL = re.compile(r"(train|training|images?|photos?|labels?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Suggestion:
    """A first recipe. `text`: TOML with comments; `recipe`: the same, read; `survey`: what it was made of. `refused`:
    what training has against it as it stands, "" for nothing."""

    text: str
    recipe: Recipe
    survey: Survey
    refused: str


def suggest(
    source: str | Path,
    *,
    test: str = "",
    submission: str = "",
    images: str = "",
    label: str = "",
    group: str = "",
    machine: Machine | None = None,
    watch: Watch = lambda _: None,
) -> Suggestion:
    """Look at `source`, a folder of images or a table, and suggest a recipe that can be trained as it is.

    `test` and `submission` are test images and a sample submission; `images`, `label` and `group` say what a table does
    not: the folder its paths start from, and the columns of labels and groups. The recipe is for `machine`, this one if
    none is given. `watch` is asked with what is begun and answers whom to tell numbers of files done.

    Raises DataError for a source that cannot be trained on, saying what to mend.
    """
    source = str(source)
    if Path(source).is_dir() and (images or label or group):
        raise DataError(f"{source}: is a folder; images, label and group are for tables")
    try:
        source.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{source!r}: this path is not UTF-8, as a recipe has to be. Rename it, or link to it"
        ) from None
    machine = machine or this_machine()
    found = survey(source, Given(test, submission, images, label, group), watch)
    network = network_for(machine, found.trained_on, len(found.classes), found.manifest.sizes_N2)
    text = _written(found, network, machine)
    recipe = parse_recipe(text, origin="the suggested recipe")
    if refused := _refused(recipe):
        text = _written(found, network, machine, refused)
    return Suggestion(text, recipe, found, refused)


def findings(found: Survey) -> list[str]:
    """What was found in the data, a line each: what is wrong with it, and what training does about it."""
    notices = [notice.removeprefix(f"{found.section.train}: ") for notice in found.notices]
    return notices + [_line(finding) for finding in found.checked.findings]


def baseline(classes: dict[str, int]) -> tuple[float, float]:
    """(log loss, accuracy) of answering every image with the shares of the classes."""
    share_C = np.array(list(classes.values())) / sum(classes.values())
    return float(-(share_C * np.log(share_C)).sum()), float(share_C.max())


def _refused(recipe: Recipe) -> str:
    """What training would refuse it for. The images have been looked at, so this asks no more of the disk."""
    try:
        prepare(recipe)
    except (RecipeError, DataError) as error:
        return str(error)
    return ""


def _line(finding: Finding) -> str:
    number = count(finding.images, "image") if finding.images else ""
    return f"{finding.title}{f', {number}' if number else ''}, such as {finding.such_as}"


def _written(found: Survey, network: Network, machine: Machine, refused: str = "") -> str:
    lines = Lines()
    _head(lines, found, machine)
    if refused:
        lines.say()
        lines.say(f"As it stands, engine train refuses it: {refused}")
    name = _name(found.section.train)
    lines.gap()
    lines.key("name", name, "of the run, in logs and reports")
    lines.key("output", f"models/{name}", "folder for models, log and out-of-fold predictions")
    _data(lines, found, machine)
    _augment(lines, found, network)
    _model(lines, network, machine)
    _train(lines, found)
    _stages(lines, network, machine)
    return str(lines)


def _name(train: str) -> str:
    """What the data is called, for people and as a folder: of photos/clothes/train.csv, clothes."""
    path = Path(train).absolute()
    nearest = (path.stem, path.parent.name, path.parent.parent.name)
    named = next((part for part in nearest if part and not _USUAL.match(part)), path.stem)
    return re.sub(r"[^\w.-]+", "_", named).strip("._") or "run"


def _head(lines: Lines, found: Survey, machine: Machine) -> None:
    counts = found.classes
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    lines.say(f"Suggested by `engine init` for {found.section.train}, to be read and changed, on {machine}.")
    lines.say()
    lines.say(
        f"{count(sum(counts.values()), 'image')} in {len(counts):,} classes, from {counts[most]:,} of {most} to "
        f"{counts[least]:,} of {least}."
    )
    loss, accuracy = baseline(counts)
    lines.say(
        f"Answering with the class shares alone has log loss {loss:.4f}, accuracy {accuracy:.3f}: a run beats that."
    )
    if told := findings(found):
        lines.say()
        lines.say("Found (with pictures, and what to do: engine data check RECIPE --page check.html):")
        for line in told:
            lines.say(f"  {line}")
    lines.say()
    lines.say("All keys: docs/recipes.md. Relative paths start at the folder that the command runs in.")


def _data(lines: Lines, found: Survey, machine: Machine) -> None:
    section = found.section
    what = "a table: a row an image" if Path(section.train).is_file() else "a folder: each sub-folder is a class"
    lines.section("data")
    lines.key("train", as_written(section.train), what)
    for key, why in (
        ("images", "where the table's paths start"),
        ("path_column", "the column whose values are files"),
        ("label_column", "the column of the classes"),
        ("fold_column", "says what is held out; without it folds are drawn"),
        ("group_column", _why_group(found)),
        ("drop_classes", "labels that mean none; take out what is a class"),
        ("test", "images to answer: engine infer"),
        ("sample_submission", "shapes submission.csv"),
    ):
        if value := getattr(section, key):
            lines.key(key, as_written(value) if key in _PATHS else value, why)
    for column in found.maybe_groups[:3]:
        why = f"{column.values:,} values: split by it instead if these are persons, sessions or sources"
        lines.key("group_column", column.name, why, off=True)
    for key, path in found.beside:
        lines.key(key, as_written(path), "lies beside the data", off=True)
    if section.missing != "error":
        lines.key("missing", section.missing, "rows whose file is not there")
    if section.rare_classes != "error":
        why = "classes that cannot be divided are learnt and not validated; drop leaves them out"
        lines.key("rare_classes", section.rare_classes, why)
    number = section.folds.count
    if number == 1:
        lines.key("folds", {"count": 1}, "nothing is held out: the images cannot be divided so that all is learnt")
    elif found.run == (0,):
        lines.key("folds", {"count": number, "run": [0]}, "fold 0 is what the data itself says is held out")
    elif machine.gpu:
        lines.key("folds", {"count": number}, "each model holds out a part; together they answer")
    else:
        why = f"one of {number} parts held out, to begin with; without run, a model for each"
        lines.key("folds", {"count": number, "run": [0]}, why)


def _why_group(found: Survey) -> str:
    group = found.group
    if group is None:
        return "equal values are never on both sides of a split"
    if group.sure:
        seen = f"the picture most like another has its value {group.lift:.1f} times as often as by chance"
    else:
        seen = "called like a person, session or source"
    return f"{group.values:,} values; {seen}: kept on one side of every split, or scores are too good"


def _augment(lines: Lines, found: Survey, network: Network) -> None:
    lines.section("augment")
    if has_sides(found.classes):
        lines.key("flip", 0.0, "no mirror images: classes are called left or right")
    else:
        lines.key("flip", 0.5, "chance of a mirror image; 0 where left and right, letters or digits matter")
    if network.letterbox:
        lines.key("crop", {"letterbox_p": 0.5}, "photos are long: half of the time all of one, padded, is shown")
        lines.key("valid", {"fit": "letterbox"}, "scored whole, too: a square of the middle would leave out a third")
    else:
        why = "scored on a square of the middle, of the share that the weights were made with"
        lines.key("valid", {"fit": "center", "crop": network.crop_share}, why)
    if network.epochs >= 12:
        lines.section("[augment.mix]")
        lines.key("mixup", 0.2, "blends of two images, and labels: surer answers in runs of a dozen epochs or more")
        lines.key("cutmix", 1.0, "or a part of one in another")
        lines.key("p", 0.5, "chance of a batch")


def _model(lines: Lines, network: Network, machine: Machine) -> None:
    lines.section("model")
    where = "fast enough without a GPU" if not machine.gpu else f"for {machine.gpu}"
    licence = f"; weights: {network.licence}" if network.licence else ""
    lines.key("backbone", network.backbone, f"{where}{licence}. Others: engine compare")
    if network.weights == "cached":
        lines.key("pretrained", True, "the weights are on this machine already")
    elif network.weights == "fetched":
        lines.say(
            "Fetched from huggingface.co when training begins. Without a network: weights, a file of them; or "
            f"pretrained = false, and then lr = {FRESH_LR:g} and {FRESH_EPOCHS} times the epochs, for less."
        )
        lines.key("pretrained", True)
    else:
        why = "HF_HUB_OFFLINE is set and the weights are not here: learnt from nothing, which takes longer for less"
        lines.key("pretrained", False, why)


def _train(lines: Lines, found: Survey) -> None:
    lines.section("train")
    lines.key("select", "log_loss", "the epoch kept is the best by this; or accuracy, macro_f1")
    counts = found.classes.values()
    if max(counts) > UNEVEN * min(counts):
        uneven = f"classes are uneven ({max(counts):,} to {min(counts):,})"
        why = f"{uneven}: draws rare ones more often; better macro F1, worse log loss"
        lines.key("sampling", {"power": 0.5}, why, off=True)


def _stages(lines: Lines, network: Network, machine: Machine) -> None:
    side = network.stages[-1].side
    memory = f"about {network.step_bytes / GIB:.1f} of {machine.memory / GIB:.0f} GiB"
    lines.gap()
    lines.say(
        f"Rising sizes train faster than one. At {side} px a step takes {memory}. The rate: engine lr-find RECIPE"
    )
    for number, stage in enumerate(network.stages):
        lines.section("[stage]")
        lines.key("size", stage.side, "pixels" if number == 0 else "")
        lines.key("batch", stage.batch)
        lines.key("epochs", stage.epochs)
        lines.key("lr", stage.lr)
