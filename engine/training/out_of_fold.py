"""Out-of-fold predictions: what a fold's models answer about the images that they never saw, asked as `engine infer`
will ask them: with the views, the rule, the kept epochs and the specialists that the recipe predicts with.

They are made from the checkpoints once a fold is trained, and not kept from its validations, which are of one plain
view each, since they only have to find the best epoch. So they can be made again when the recipe comes to predict
otherwise, and a run that was stopped before them goes on with them. Each model's lie beside its checkpoint; those of
all folds are joined, after specialists were heard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.augment.views import views_of
from engine.ensemble.fitting import Candidates
from engine.ensemble.neighbours import Found, embedded, search_out_of_fold
from engine.ensemble.specialist import Effect, Specialist, effect_of
from engine.ensemble.vote import Rule, blend, vote_of_fold
from engine.errors import DataError, EngineError, Interrupted
from engine.events import HeldOutAnswered, Stop, Watcher
from engine.inference.ask import ask, members_for
from engine.inference.scoring import Extra
from engine.predictions import LabelledPredictions, Predictions, joined
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.bank import Bank, bank_of
from engine.store.run_folder import FoldFolder, RunFolder
from engine.training.feed import FoldData

_GOES_ON = "the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class Near:
    """The neighbours `found` of out-of-fold images, each in the bank of the fold that held it out, by the embedding
    that is the features of `asked`."""

    asked: LabelledPredictions
    banks: Mapping[int, Bank]
    found: Found


@dataclasses.dataclass(frozen=True)
class Collected:
    """The out-of-fold predictions of all folds: the main models' `candidates`, of which one answer is to be made; what
    each specialist answers about all of these images, `own` by its name; and their neighbours, where they are asked
    for."""

    candidates: Candidates
    own: Mapping[str, LabelledPredictions]
    near: Near | None = None


def about(recipe: Recipe) -> dict[str, Any]:
    """The views and the rule that the recipe has images answered with, and what it asks for beside that, as the files
    say it: predictions that were made with others are made again."""
    made = {"views": [view.name for view in views_of(recipe.predict)], "vote": recipe.ensemble.vote}
    return made | ({"extras": list(extras)} if (extras := extras_of(recipe)) else {})


def extras_of(recipe: Recipe) -> tuple[Extra, ...]:
    """What is asked of the models beside answers: features, to find neighbours by, and logits, to know strangers by."""
    features: tuple[Extra, ...] = ("features",) if recipe.ensemble.neighbours != "off" else ()
    return (*features, "logits") if recipe.predict.false_alarms else features


def answer_held_out(
    recipe: Recipe, fold: int, data: FoldData, folder: FoldFolder, ranks: Ranks, watcher: Watcher, stop: Stop
) -> None:
    """Have the models in `folder` answer about what `data` holds out, on all ranks together, unless they have.

    A specialist's fold answers about everything that the main fold holds out, since it may be asked about any of it:
    its `recipe`, the main fold's `data`. `stop` is asked after every batch; of several ranks, which have not as many
    batches each, at the end. Raises EngineError when none of the images can be read, Interrupted.
    """
    # The leading rank looks: it wrote what there is, and the others must not look before it has.
    if not ranks.any(ranks.leads and len(data.held_rows_N) > 0 and not is_answered(recipe, folder)):
        return
    images = len(data.held_rows_N)

    def told(done: int) -> None:
        watcher.hear(HeldOutAnswered(fold, min(done * ranks.world, images), images))
        if done < images and ranks.world == 1 and stop():
            raise Interrupted(f"stopped while fold {fold} answered for what it held out; {_GOES_ON}")

    members = folder.members()
    views = partial(blend, rule=recipe.ensemble.vote)
    models = members_for([checkpoint.load(member.path) for member in members], recipe, ranks.device)
    rows_N = data.held_rows_N
    found, quarantine = ask(models, data.samples, rows_N, recipe, views, ranks, told, extras_of(recipe))
    if not len(found[0]):
        raise EngineError(f"fold {fold}: none of its {images} held-out images could be read: {quarantine.some(1)}")
    if ranks.leads:
        for member, answers in zip(members, found, strict=True):
            data.labelled(answers, fold).write(member.out_of_fold, about=about(recipe))
    if ranks.any(stop()):
        raise Interrupted(f"stopped after fold {fold} answered for what it held out; {_GOES_ON}")


def collect(
    models: RunFolder, folds: Sequence[int], specialists: Sequence[Specialist], recipe: Recipe
) -> Collected | None:
    """What all folds in `models` answered, joined; None when nothing is held out."""
    by_fold, rule = _read(models, folds), recipe.ensemble.vote
    if not by_fold:
        return None
    own = {one.name: _voted(_read(models.specialist(one.name), folds), rule) for one in specialists}
    candidates = _candidates(by_fold, rule)
    return Collected(candidates, own, _near(models, candidates, recipe))


def hear(
    main: LabelledPredictions, specialists: Sequence[Specialist], own: Mapping[str, LabelledPredictions]
) -> tuple[LabelledPredictions, tuple[Effect, ...]]:
    """The main models' answers once the specialists were asked, in order, and what each of them did."""
    heard, effects = main, []
    for one in specialists:
        before, heard = heard, one.heard(heard, own[one.name])
        effects.append(effect_of(one, before, heard, own[one.name]))
    return heard, tuple(effects)


def is_answered(recipe: Recipe, folder: FoldFolder) -> bool:
    """Whether the models of a fold have answered as the recipe asks for."""
    made_as = [_made_as(member.out_of_fold) for member in folder.members()]
    wanted, extras = about(recipe), {*extras_of(recipe)}

    def is_had(how: dict[str, Any] | None) -> bool:
        alike = how is not None and how | {"extras": ()} == wanted | {"extras": ()}
        return how is not None and alike and extras <= {*how.get("extras", ())}

    return all(map(is_had, made_as))


def _made_as(path: Path) -> dict[str, Any] | None:
    """How a model's predictions were made; None when there are none that can be read."""
    try:
        return Predictions.read_about(path)
    except DataError:
        return None


def _near(models: RunFolder, candidates: Candidates, recipe: Recipe) -> Near | None:
    """The neighbours of the images, where the recipe asks for them and there are features to find them by: not where
    folds kept different numbers of epochs, whose embeddings are not alike."""
    first = candidates.answers[0]
    if recipe.ensemble.neighbours == "off" or first.features_NE is None:
        return None
    banks = {fold: bank_of(models.fold(fold)) for fold in np.unique(first.fold_N).tolist()}
    asked = embedded(first, candidates.answers)
    return Near(asked, banks, search_out_of_fold(asked, banks, max(recipe.ensemble.neighbours_k)))


_ByFold = list[dict[str, LabelledPredictions]]  # of each fold, by the name of the folder of the model


def _read(models: RunFolder, folds: Sequence[int]) -> _ByFold:
    """What the models of each fold answered."""
    found = []
    for fold in folds:
        files = {member.path.name: member.out_of_fold for member in models.fold(fold).members()}
        if all(file.is_file() for file in files.values()):
            found.append({name: _labelled(file) for name, file in files.items()})
    return found


def _voted(by_fold: _ByFold, rule: Rule) -> LabelledPredictions:
    """The folds' predictions, joined: for each the vote of those who answer for it."""
    return joined([vote_of_fold([*fold.values()], rule) for fold in by_fold])


def _candidates(by_fold: _ByFold, rule: Rule) -> Candidates:
    """The first of the epochs that each fold kept, the second, and so on, over all folds. One candidate, their vote,
    where folds did not keep as many as each other."""
    counts = {len(fold) for fold in by_fold}
    if counts == {1} or len(counts) > 1:
        return Candidates(("vote",) if len(counts) > 1 else ("best",), (_voted(by_fold, rule),))
    places = range(counts.pop())
    named = [{[*fold][place] for fold in by_fold} for place in places]
    names = tuple(name.pop() if len(name) == 1 else f"kept_{place + 1}" for place, name in enumerate(named))
    return Candidates(names, tuple(joined([[*fold.values()][place] for fold in by_fold]) for place in places))


def _labelled(path: Path) -> LabelledPredictions:
    read = Predictions.read(path)
    if not isinstance(read, LabelledPredictions):
        raise DataError(f"{path}: out-of-fold predictions without labels; remove it, and `engine train` makes it again")
    return read
