"""Which views are worth their time: the fold models are shown every candidate view of what they held out, once, and
lists of views are then compared by arithmetic.

A list is found by forward selection: the view that helps most is added for as long as it pays for its time. Views are
chosen among many by the very images that they are scored on, so such a score flatters; what is told of the list, and
whether it is taken, goes by the nested answers (engine.ensemble.nested): chosen on all parts but one, asked about that
one. Source of the selection: Caruana et al., "Ensemble Selection from Libraries of Models", 2004, without replacement.

A fold's kept epochs are joined view by view, before views are; for the rules soft and logit the order does not matter,
for others the out-of-fold answers that are made afterwards say exactly what it comes to.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from engine.augment.contract import Contract
from engine.augment.views import VIEWS, View, sets_of, view_named
from engine.data.ingest import Progress
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.nested import Apply, honest
from engine.ensemble.vote import Rule, blend, vote, vote_of_fold
from engine.errors import CheckpointError, DataError, EngineError, Interrupted, RecipeError
from engine.events import HeldOutAnswered, Stop, Watcher
from engine.inference.ask import ask_each, check_views
from engine.inference.members import Members
from engine.intervals import Difference, compare
from engine.metrics import log_loss
from engine.predictions import LabelledPredictions, joined
from engine.ranks import Ranks
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.recipe.sections.predict import whole_names
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import CHECKPOINT, RunFolder
from engine.training.prepare import Prepared, prepare
from engine.training.run import refuse_other_run, refuse_second

KEEP = 5
WORTH = 0.001
"""What a view has to gain: a share of the log loss, for each time that the plain view takes."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What each view came to by itself, by name: `answers` about all that was held out, of all folds, and its `costs`
    in times of the plain view. `seconds_each`: of one image and the time of one plain view, measured with all views
    together. `left_out`: candidates that were not asked, with the reason."""

    answers: Mapping[str, LabelledPredictions]
    costs: Mapping[str, float]
    rule: Rule
    seconds_each: float
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of(self, names: Sequence[str]) -> LabelledPredictions:
        """What these views answer together."""
        return vote([self.answers[name] for name in names], self.rule)

    def cost(self, names: Sequence[str]) -> float:
        return sum(self.costs[name] for name in names)


@dataclasses.dataclass(frozen=True)
class Row:
    """A list of views, compared with the plain one."""

    names: tuple[str, ...]
    cost: float
    difference: Difference

    @property
    def log_loss(self) -> float:
        return self.difference.second


@dataclasses.dataclass(frozen=True)
class Selection:
    """What views are worth: each `alone`, each `added` to the plain one, the `steps` of the forward selection, whose
    end is `chosen`. `present`: what the run answers with now. `nested`: the honest answers of the selection compared
    with those of `present`, `over_plain` with the plain view's."""

    alone: tuple[Row, ...]
    added: tuple[Row, ...]
    steps: tuple[Row, ...]
    present: Row
    nested: Difference
    over_plain: Difference

    @property
    def chosen(self) -> tuple[str, ...]:
        return self.steps[-1].names

    @property
    def is_taken(self) -> bool:
        """Only what is better than what there is."""
        return self.nested.verdict == "better" and set(self.chosen) != set(self.present.names)


# --- the run --------------------------------------------------------------------------------------------------------


def open_run(folder: Path, sets: Sequence[str] = (), progress: Progress | None = None) -> Prepared:
    """The run in a folder, with its data looked at, asked as it is answered with now; `sets` change its recipe.

    Raises CheckpointError, RecipeError, DataError or EngineError where nothing can be measured, naming the remedy.
    """
    run = RunFolder(folder)
    if not run.claim.is_file():
        raise CheckpointError(
            f"{run.claim} is missing: views are measured on a run that `engine train` made. Name its folder"
        )
    try:
        tables = json.loads(run.claim.read_text("utf-8"))["recipe"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{run.claim} is damaged ({error}); copy it again from where the run was trained"
        ) from None
    ensemble = Ensemble.load(run.ensemble)
    recipe = parse_saved(tables, (*(ensemble.sets if ensemble else ()), *sets), origin=str(run.claim))
    recipe = recipe.model_copy(update={"output": str(folder)})
    if recipe.data.folds.count == 1:
        raise RecipeError(
            f"{folder}: holds nothing out (data.folds.count = 1), so there is nothing to measure views on"
        )
    refuse_second(recipe)
    try:
        prepared = prepare(recipe, progress)
    except DataError as error:
        told = f"{folder}: views are measured on the images that the run held out, which have to be where they were"
        raise DataError(f"{told} (or name where they are: --set data.train=...): {error}") from error
    refuse_other_run(prepared)
    for name in ("", *(course.name for course in prepared.courses)):
        place = run.specialist(name) if name else run
        if open_ := [fold for fold in prepared.folds if not place.is_finished(fold)]:
            raise EngineError(
                f"{place.path}: fold {open_[0]} is not trained to its end; let `engine train` finish first"
            )
    return prepared


def with_views(prepared: Prepared, names: Sequence[str]) -> Prepared:
    """The same run, answering with these views; `engine.training.run.train` then makes all that follows from them."""

    def changed(recipe: Recipe) -> Recipe:
        predict = parse_saved(recipe.model_dump(mode="json"), sets_of(names)).predict
        return recipe.model_copy(update={"predict": predict})

    courses = tuple(dataclasses.replace(course, recipe=changed(course.recipe)) for course in prepared.courses)
    return dataclasses.replace(prepared, recipe=changed(prepared.recipe), courses=courses)


# --- asking ---------------------------------------------------------------------------------------------------------


def measure(prepared: Prepared, names: Sequence[str], ranks: Ranks, watcher: Watcher, stop: Stop) -> Measured:
    """Have the fold models answer about what they held out, as each of these views shows it, of the plain one and of
    those that the run answers with. No names: all views there are.

    Views that show the same as another are left out, and, where no names are given, those that the models cannot be
    shown. Raises RecipeError for a named one, EngineError, Interrupted.
    """
    recipe, folder = prepared.recipe, RunFolder(Path(prepared.recipe.output))
    folds = {
        fold: [checkpoint.load(member.path) for member in folder.fold(fold).members()]
        for fold in prepared.folds
        if len(prepared.fold_data(fold).held_rows_N)
    }
    models = [saved for own in folds.values() for saved in own]
    views, left_out = candidates(names, recipe.predict.names, models)
    parts: dict[str, list[LabelledPredictions]] = {view.name: [] for view in views}
    seconds, images = 0.0, 0
    for fold, checkpoints in folds.items():
        data = prepared.fold_data(fold)
        members = Members.restored(checkpoints, ranks.device, views, recipe.augment.executor)
        told = partial(_tell, fold, len(data.held_rows_N), watcher, stop)
        before = time.perf_counter()
        found, quarantine = ask_each(members, data.samples, data.held_rows_N, recipe, ranks, told)
        seconds += time.perf_counter() - before
        images += len(found[0][0])
        if not len(found[0][0]):
            raise EngineError(f"fold {fold}: none of its held-out images could be read: {quarantine.some(1)}")
        for view, of_members in zip(views, zip(*found, strict=True), strict=True):
            parts[view.name].append(data.labelled(vote_of_fold(of_members, recipe.ensemble.vote), fold))
    first = Contract.from_dict(models[0].contract)
    costs = {view.name: view.cost(first.height, first.width) for view in views}
    answers = {name: joined(own) for name, own in parts.items()}
    return Measured(answers, costs, recipe.ensemble.vote, seconds / images / sum(costs.values()), left_out)


def _tell(fold: int, images: int, watcher: Watcher, stop: Stop, done: int) -> None:
    watcher.hear(HeldOutAnswered(fold, done, images))
    if done < images and stop():
        raise Interrupted("stopped while views were measured; nothing was changed")


def candidates(
    names: Sequence[str], present: Sequence[str], models: Sequence[Checkpoint]
) -> tuple[tuple[View, ...], dict[str, str]]:
    """The views to ask these models for, each showing what no other does, and why others are not asked.

    Of `names` (none: all there are), the plain view, and what is `present`. Raises RecipeError for a named one that a
    model cannot be shown.
    """
    seen: dict[tuple[object, ...], str] = {}
    left_out: dict[str, str] = {}
    names = whole_names(tuple(names)) if names else ()
    for name in dict.fromkeys(("plain", *present, *(names or VIEWS))):
        view = view_named(name)
        try:
            for saved in models:
                _check_view(view, saved)
        except RecipeError as error:
            if name in names:
                raise
            left_out[name] = str(error)
            continue
        shown = tuple(_shown(view, Contract.from_dict(saved.contract)) for saved in models)
        if shown in seen:
            left_out[name] = f"shows these models what {seen[shown]} shows them"
        seen.setdefault(shown, name)
    return tuple(map(view_named, seen.values())), left_out


def _check_view(view: View, saved: Checkpoint) -> None:
    contract, own = Contract.from_dict(saved.contract), parse_saved(saved.recipe, origin=CHECKPOINT)
    check_views([view], own.model, own.stage[0].size, (contract.height, contract.width))


def _shown(view: View, contract: Contract) -> tuple[object, ...]:
    """What a view shows a model of this contract; equal for views that show it the same."""
    return view.contract(contract), view.flip, view.zoom, view.anchor, view.turns


# --- choosing -------------------------------------------------------------------------------------------------------


def select(
    measured: Measured, present: Sequence[str], names: Sequence[str] = (), keep: int = KEEP, worth: float = WORTH
) -> Selection:
    """What the views of `names` (none: all that were measured) are worth, beside what is `present`; lists of up to
    `keep` are tried."""
    names = [name for name in (whole_names(tuple(names)) if names else measured.answers) if name in measured.answers]
    candidates, costs = [measured.answers[name] for name in names], [measured.costs[name] for name in names]
    plain = measured.of(["plain"])

    def row(*of: str) -> Row:
        return Row(of, measured.cost(of), compare(plain, measured.of(of)))

    def fit(training: Sequence[LabelledPredictions]) -> Apply:
        places = forward(training, costs, measured.rule, keep, worth)
        return lambda asked: vote([asked[place] for place in places], measured.rule)

    order = [names[place] for place in forward(candidates, costs, measured.rule, keep, worth)]
    try:
        nested = honest(candidates, fit)
    except ValueError as error:  # all images belong together
        raise DataError(
            f"views cannot be judged on images that they were not chosen on: {error}. Train more folds (data.folds.run)"
        ) from None
    present = tuple(present)
    return Selection(
        alone=tuple(row(name) for name in names),
        added=tuple(row("plain", name) for name in names if name != "plain"),
        steps=tuple(row(*order[:count]) for count in range(1, len(order) + 1)),
        present=row(*present),
        nested=compare(measured.of(present), nested),
        over_plain=compare(plain, nested),
    )


def forward(
    candidates: Sequence[LabelledPredictions], costs: Sequence[float], rule: Rule, keep: int, worth: float
) -> list[int]:
    """The places of the views to blend, in the order in which they were added: at each step the one with which the log
    loss, as a share of the best view's, and `worth` for each unit of cost are least together; as long as they fall, and
    up to `keep` views."""
    first = candidates[0]
    views_KNC = [one.in_order(first.ids, first.classes).probabilities_NC for one in candidates]
    labels_N = first.labels_N
    if rule == "soft":  # which needs to know of a view only how likely the true class is to it
        true_KN = [np.take_along_axis(p_NC, labels_N[:, None], 1)[:, 0].astype(np.float64) for p_NC in views_KNC]
        views_KNC, labels_N = [np.stack([p_N, 1 - p_N], 1) for p_N in true_KN], np.zeros_like(labels_N)
    unit = max(min(log_loss(p_NC, labels_N) for p_NC in views_KNC), float(np.finfo(np.float64).tiny))

    def loss(places: Sequence[int]) -> float:
        blended_NC = blend(np.stack([views_KNC[place] for place in places]), rule)
        return log_loss(blended_NC, labels_N) / unit + worth * sum(costs[place] for place in places)

    chosen: list[int] = []
    best = np.inf
    while len(chosen) < min(keep, len(candidates)):
        tried = {place: loss([*chosen, place]) for place in range(len(candidates)) if place not in chosen}
        place = min(tried, key=tried.__getitem__)
        if tried[place] >= best:
            break
        best = tried[place]
        chosen.append(place)
    return chosen
