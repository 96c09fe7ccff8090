"""The page is put together: read, made, written, in the order in which a reader wants it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from engine.errors import CheckpointError, EngineError
from engine.files import write_text
from engine.recipe.load import dump_recipe
from engine.recipe.sections import Recipe
from engine.recipe.sections.decode import DEFAULT_DECODE
from engine.report.preview import Picture
from engine.report.result.card import card
from engine.report.result.compared import Compared, chosen, compared, last_run
from engine.report.result.confused import class_rows, matrix, mistakes, worst_pairs
from engine.report.result.curves import curves
from engine.report.result.data import NOTHING_KNOWN, Data, Heard, look_at
from engine.report.result.gained import folds, steps
from engine.report.result.galleries import galleries, predicted_key
from engine.report.result.headline import figures
from engine.report.result.photos import LARGE, SMALL, Photos, small_url
from engine.report.result.places import Places
from engine.report.result.plots import confidence_plot, reliability_plot, risk_plot, risk_rows
from engine.report.result.predictions import drift, read_predicted
from engine.report.result.told import Told, read_told
from engine.report.result.trust import reliability, selective, sets_seen
from engine.report.result.words import settled, summary
from engine.track.tracker import flatten

MOST_CLASSES = 1000  # in the table: the weakest
_AUGMENTED_BYTES = 6_000


def write_report(
    run: Path | str,
    out: Path | str | None = None,
    *,
    against: Path | str | None = None,
    heatmaps: bool = True,
    sets: Sequence[str] = (),
    heard: Heard = lambda what, done, total: None,
) -> Path:
    """Write all that is to be said of a run, or of an ensemble of several, as one HTML file that needs no network; by
    default as report.html in its folder. Returns where.

    against: another run to compare with; by default the one beside it that ended last before it. heatmaps: whether
    models say where they look in the photos of the galleries. sets: "data.train=..." and other changes of data and
    decode, where images lie elsewhere now. heard(what, done, total) is told how far it is.

    Raises CheckpointError for a folder that holds no run.
    """
    run = Path(run)
    told = read_told(run, sets)
    heard("reading", 0, None)
    page = _Page(told, Path(against) if against is not None else None, heatmaps, heard)
    path = Path(out) if out is not None else run / "report.html"
    write_text(path, page.render())
    return path


class _Page:
    """Makes the sections; each is a dictionary that its template shows."""

    def __init__(self, told: Told, against: Path | None, heatmaps: bool, heard: Heard) -> None:
        self.data = _data(told, heard)
        self.told = told = _with_groups(told, self.data)
        self.answers = told.answers
        self.against, self.heatmaps, self.heard = against, heatmaps, heard
        self.predicted = read_predicted(told.folder.predictions)
        self.galleries = galleries(self.answers, self.predicted)
        self.pairs = worst_pairs(self.answers) if self.answers else []
        self.photos = self._photos()

    def render(self) -> str:
        values, made = self.values(), environment()
        made.filters["near"] = self._places(values["against"])
        return made.get_template("result.html").render(**values)

    def _places(self, against: Compared | None) -> Places:
        told = self.told
        recipes = [flatten(recipe.model_dump(mode="json")) for recipe in told.recipes]
        beside = [str(run.path.absolute()) for run in told.parts]
        if against is not None:
            recipes.append(against.other.recipe)
            beside.append(str(against.other.folder.absolute()))
        return Places(told.folder.path, [*beside, *(value for one in recipes for value in one.values())])

    def values(self) -> dict[str, Any]:
        told, answers = self.told, self.answers
        shown = figures(told, answers) if answers else []
        curve = selective(answers) if answers else None
        said = summary(told, shown, curve)
        rows = class_rows(answers) if answers else []
        return {
            "told": told,
            "when": datetime.fromtimestamp(_last(told)).strftime("%-d %B %Y"),
            "figures": shown,
            "said": said,
            "settled": settled(told),
            "answers": answers,
            "pairs": self.pairs,
            "matrix": matrix(answers) if answers else None,
            "mistakes": mistakes(answers) if answers else [],
            "classes": rows[:MOST_CLASSES],
            "more_classes": max(0, len(rows) - MOST_CLASSES),
            "trust": self._trust(),
            "risk": self._risk(curve),
            "galleries": self.galleries,
            "heat": self._heat(),
            "predicted": self.predicted,
            "sure": confidence_plot(self.predicted, answers) if self.predicted else None,
            "drift": drift(told.counts, self.predicted),
            "gains": told.scores.get("ensemble", []),
            "steps": steps(told),
            "specialists": told.scores.get("specialists", []),
            "folds": folds(told),
            "curves": curves(told.records, _select(told.recipe)) if told.records else None,
            "against": self._against(),
            "chosen": chosen(told.recipe) if told.recipe else {},
            "toml": dump_recipe(told.recipe) if told.recipe else "",
            "data": self.data,
            "augmented": self._augmented(),
            "card": card(told, shown, said, rows),
            "photo": self.photos.url,
            "LARGE": LARGE,
            "SMALL": SMALL,
        }

    def _photos(self) -> Photos:
        answers, predicted = self.answers, self.predicted
        ids = [shot.id for gallery in self.galleries for shot in gallery.shots if not shot.predicted]
        if answers:
            ids += [answers.ids[row] for pair in self.pairs for row in pair.rows]
        paths = self.data.paths(ids)
        if predicted:
            paths |= {predicted_key(id_): path for id_, path in predicted.paths.items()}
        return Photos(paths, self.told.recipe.decode if self.told.recipe else DEFAULT_DECODE)

    def _trust(self) -> dict[str, Any] | None:
        if self.answers is None:
            return None
        self.heard("measuring", 0, None)
        found = reliability(self.answers)
        return {"found": found, "plot": reliability_plot(found)}

    def _risk(self, curve: Any) -> dict[str, Any] | None:
        if curve is None or self.answers is None:
            return None
        hedges = self.told.ensemble.hedges if self.told.ensemble else None
        threshold, sets = (hedges.threshold, hedges.risk) if hedges else (None, None)
        return {
            "plot": risk_plot(curve, threshold),
            "rows": risk_rows(curve),
            "threshold": threshold,
            "sets": sets,
            "seen": sets_seen(self.told.folder.out_of_fold, self.answers, sets) if sets else None,
        }

    def _against(self) -> Compared | None:
        other = self.against if self.against is not None else last_run(self.told.folder.path)
        return None if other is None else compared(self.told.folder.path, other, self.answers)

    def _augmented(self) -> list[dict[str, Any]]:
        return [
            {
                "size": one.size,
                "epochs": [epoch + 1 for epoch in one.epochs],
                "stage": one.stage,
                "rows": [[(_picture_url(picture), _caption(picture)) for picture in row] for row in one.rows],
            }
            for one in self.data.augmented
        ]

    def _heat(self) -> dict[str, str]:
        """By key of a photo, pictures of where the models looked; {} where nobody can be asked."""
        if not self.heatmaps or not self.told.models:
            return {}
        wanted = {shot.key: shot.answer for gallery in self.galleries for shot in gallery.shots}
        there = {id_: answer for id_, answer in wanted.items() if self.photos.path(id_) is not None}
        return _heatmaps(self.told.folder.path, there, self.photos, self.heard) if there else {}


def _heatmaps(run: Path, wanted: Mapping[str, str], photos: Photos, heard: Heard) -> dict[str, str]:
    """Of these photos, each for the class that it was answered with."""
    from engine.predict.predictor import Predictor

    made: dict[str, str] = {}
    try:
        predictor = Predictor(run, sets=["predict.prior=off"])  # which moves answers, and here they are given
    except EngineError:
        return made  # models that are there in part: the page says that there is no heat
    for done, (id_, answer) in enumerate(wanted.items()):
        heard("heatmaps", done, len(wanted))
        path = photos.path(id_)
        if path is not None:
            with contextlib.suppress(EngineError):  # a photo that cannot be read is said to be gone
                made[id_] = photos.warm_url(id_, predictor.heatmap(path, answer))
    return made


def environment() -> Environment:
    """Templates beside this module; what is put into them is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("engine.report.result"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {
        "share": _or_dash(lambda v: f"{100 * v:.1f}%"),
        "code": _code,
        "fixed": _or_dash(lambda v: f"{v:.3f}"),
        "fine": _or_dash(lambda v: f"{v:.4f}"),
        "signed": _or_dash(lambda v: f"{v:+.4f}"),
        "whole": _or_dash(lambda v: f"{v:,.0f}"),
        "words": lambda name: str(name).replace("_", " "),
    }
    return made


def _code(text: str) -> Markup:
    """Text with `code` in it, as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # escaped before


def _or_dash(show: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "–" if value is None or not math.isfinite(value) else show(value)


def _data(told: Told, heard: Heard) -> Data:
    if told.recipe is None:
        return NOTHING_KNOWN
    samples = next((run.samples for run in told.runs if run.samples.is_file()), told.folder.samples)
    return look_at(told.recipe, samples, heard)


def _with_groups(told: Told, data: Data) -> Told:
    """Out-of-fold answers that do not say which photos belong together are told by the images."""
    answers = told.answers
    if answers is None or answers.groups or not data.groups:
        return told
    groups = tuple(data.groups.get(id_, "") for id_ in answers.ids)
    return dataclasses.replace(told, answers=dataclasses.replace(answers, groups=groups))


def _last(told: Told) -> float:
    """When the run ended, as its files tell."""
    folder = told.folder
    there = [path for path in (folder.scores, folder.log, folder.claim, folder.ensemble) if path.is_file()]
    if not there:
        raise CheckpointError(f"{folder.path}: holds no run; give the folder that `engine train` wrote")
    return there[0].stat().st_mtime


def _select(recipe: Recipe | None) -> str:
    return recipe.train.select if recipe else "log_loss"


def _picture_url(picture: Picture) -> str:
    from PIL import Image

    shown = Image.fromarray(picture.pixels_HW3)
    shown.thumbnail((176, 176))
    return small_url(shown, _AUGMENTED_BYTES)


def _caption(picture: Picture) -> str:
    """Without the name of the file, which is of no use to who is sent the page."""
    return picture.caption.rpartition(" · ")[0] or picture.caption
