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

from engine.augment.views import views_of
from engine.ensemble.fitting import Candidates
from engine.ensemble.neighbours import Found
from engine.ensemble.specialist import Effect, Specialist, effect_of
from engine.ensemble.vote import Rule, blend, vote_of_fold
from engine.errors import DataError, EngineError, Interrupted
from engine.events import HeldOutAnswered, Stop, Watcher
from engine.inference.ask import ask, members_for
from engine.predictions import LabelledPredictions, Predictions, joined
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.run_folder import FoldFolder, RunFolder
from engine.training.feed import FoldData

_GOES_ON = "the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class Collected:
    """The out-of-fold predictions of all folds: the main models' `candidates`, of which one answer is to be made, and
    what each specialist answers about all of these images, `own` by its name; and where they are asked for the images'
    neighbours, `found` each in the bank of the fold that held it out."""

    candidates: Candidates
    own: Mapping[str, LabelledPredictions]
    found: Found | None = None


def about(recipe: Recipe) -> dict[str, Any]:
    """The views and the rule that the recipe has images answered with, as the files say it: predictions that were made
    with others are made again."""
    return {"views": [view.name for view in views_of(recipe.predict)], "vote": recipe.ensemble.vote}


def answer_held_out(
    recipe: Recipe, fold: int, data: FoldData, folder: FoldFolder, ranks: Ranks, watcher: Watcher, stop: Stop
) -> None:
    """Have the models in `folder` answer about what `data` holds out, on all ranks together, unless they have.

    A specialist's fold answers about everything that the main fold holds out, since it may be asked about any of it:
    its `recipe`, the main fold's `data`. `stop` is asked after every batch; of several ranks, which have not as many
    batches each, at the end. Raises EngineError when none of the images can be read, Interrupted.
    """
    # The leading rank looks: it wrote what there is, and the others must not look before it has.
    if not ranks.any(ranks.leads and _is_to_do(recipe, data, folder)):
        return
    images = len(data.held_rows_N)

    def told(done: int) -> None:
        watcher.hear(HeldOutAnswered(fold, min(done * ranks.world, images), images))
        if done < images and ranks.world == 1 and stop():
            raise Interrupted(f"stopped while fold {fold} answered for what it held out; {_GOES_ON}")

    members = folder.members()
    views = partial(blend, rule=recipe.ensemble.vote)
    models = members_for([checkpoint.load(member.path) for member in members], recipe, ranks.device)
    found, quarantine = ask(models, data.samples, data.held_rows_N, recipe, views, ranks, told)
    if not len(found[0]):
        raise EngineError(f"fold {fold}: none of its {images} held-out images could be read: {quarantine.some(1)}")
    if ranks.leads:
        for member, answers in zip(members, found, strict=True):
            data.labelled(answers, fold).write(member.out_of_fold, about=about(recipe))
    if ranks.any(stop()):
        raise Interrupted(f"stopped after fold {fold} answered for what it held out; {_GOES_ON}")


def collect(models: RunFolder, folds: Sequence[int], specialists: Sequence[Specialist], rule: Rule) -> Collected | None:
    """What all folds in `models` answered, joined; None when nothing is held out."""
    by_fold = _read(models, folds)
    if not by_fold:
        return None
    own = {one.name: _voted(_read(models.specialist(one.name), folds), rule) for one in specialists}
    return Collected(_candidates(by_fold, rule), own)


def hear(
    main: LabelledPredictions, specialists: Sequence[Specialist], own: Mapping[str, LabelledPredictions]
) -> tuple[LabelledPredictions, tuple[Effect, ...]]:
    """The main models' answers once the specialists were asked, in order, and what each of them did."""
    heard, effects = main, []
    for one in specialists:
        before, heard = heard, one.heard(heard, own[one.name])
        effects.append(effect_of(one, before, heard, own[one.name]))
    return heard, tuple(effects)


def _is_to_do(recipe: Recipe, data: FoldData, folder: FoldFolder) -> bool:
    made_as = [_made_as(member.out_of_fold) for member in folder.members()]
    return len(data.held_rows_N) > 0 and any(how is None or not about(recipe).items() <= how.items() for how in made_as)


def _made_as(path: Path) -> dict[str, Any] | None:
    """How a model's predictions were made; None when there are none that can be read."""
    try:
        return Predictions.read_about(path)
    except DataError:
        return None


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
