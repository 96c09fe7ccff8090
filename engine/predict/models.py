"""The models of a run that answer together, with what was settled in training on how they do, and what a user asks for
beside that."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.augment.contract import Contract
from engine.augment.views import views_of
from engine.ensemble.ensemble import RISK, Ensemble, keys_of
from engine.ensemble.hedges import NO_HEDGES, Hedges
from engine.ensemble.parts import NOTHING, Parts
from engine.ensemble.vote import Rule
from engine.errors import CheckpointError, DataError, RecipeError
from engine.inference.ask import check_views
from engine.predict.panel import Asked, find_specialists
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import CHECKPOINT, FoldFolder, MemberFolder, RunFolder
from engine.text import count, some

# What is asked of several runs together, and of none by itself.
_HEDGES = ("risk", "abstain_accuracy", "false_alarms")
_ALONE = ("predict.prior=off", *(f"predict.{key}=0.0" for key in _HEDGES))
_FREE = "data, decode (not its background), predict, ensemble and augment.executor"


@dataclasses.dataclass(frozen=True)
class RunModels:
    """The models of one run: its folds, the specialists that they ask, what was fitted of how they become one, and the
    recipe that is followed: its data, decode, predict, ensemble and augment.executor.

    weight: how much the run's answer counts beside those of others.
    """

    name: str
    members: tuple[MemberFolder, ...]
    checkpoints: tuple[Checkpoint, ...]
    recipe: Recipe
    specialists: tuple[Asked, ...] = ()
    parts: Parts = NOTHING
    hedges: Hedges = NO_HEDGES
    notices: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def folds(self) -> list[list[int]]:
        """The models of each fold, by their places in `checkpoints`: one, or its kept epochs."""
        of_fold: dict[FoldFolder, list[int]] = {}
        for place, member in enumerate(self.members):
            of_fold.setdefault(member.fold, []).append(place)
        return list(of_fold.values())

    @property
    def fold_folders(self) -> list[FoldFolder]:
        """In the order of `folds`."""
        return list(dict.fromkeys(member.fold for member in self.members))


@dataclasses.dataclass(frozen=True)
class Models:
    """All who answer together: the models of one run, or of several, whose answers `parts` makes one of.

    recipe: the first run's, whose data is predicted, and whose predict section says what is asked beside probabilities.
    """

    runs: tuple[RunModels, ...]
    recipe: Recipe
    parts: Parts = NOTHING
    hedges: Hedges = NO_HEDGES

    @property
    def members(self) -> tuple[MemberFolder, ...]:
        return tuple(member for run in self.runs for member in run.members)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return tuple(saved for run in self.runs for saved in run.checkpoints)

    @property
    def names(self) -> list[str]:
        """What each model is called, as `members`: by its fold, and its run where there are several."""
        return [f"{run.name}{member.name}" for run in self.runs for member in run.members]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.runs[0].checkpoints[0].classes

    @property
    def fitted(self) -> dict[str, Any]:
        """All that was fitted, as JSON values."""
        return {
            "runs": [{"parts": run.parts.to_dict(), "weight": run.weight} for run in self.runs],
            "parts": self.parts.to_dict(),
            "hedges": self.hedges.to_dict(),
        }

    @property
    def notices(self) -> tuple[str, ...]:
        """What to know of how they are asked, in words."""
        return tuple(notice for run in self.runs for notice in run.notices)

    @property
    def specialists(self) -> tuple[Asked, ...]:
        """Of all runs."""
        return tuple(one for run in self.runs for one in run.specialists)


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the user asks for beside what was settled in training. None: as it was.

    data: images to predict, one source or several. The recipe's sample submission belongs to its own test images and is
    then left aside.
    truth: a table with the ids and labels of (some of) the images, to score the answers by; else folder names or the
    images' own table may hold labels. views: how many, the first ones of the family; named: which. weights: of the
    runs, where there are several; (): equal. sets: "key=value" changes of the recipe: of data, decode, predict,
    ensemble and augment.executor.
    """

    data: str | tuple[str, ...] | None = None
    truth: str | None = None
    views: int | None = None
    named: tuple[str, ...] = ()
    vote: Rule | None = None
    batch: int | None = None
    weights: tuple[float, ...] = ()
    sets: tuple[str, ...] = ()

    def sources(self, recipe: Recipe) -> tuple[str, ...]:
        """Where the images are: what the user names, else the recipe's data.test."""
        if self.data is None:
            return (recipe.data.test,)
        return (self.data,) if isinstance(self.data, str) else self.data

    def applied_to(self, saved: Checkpoint, *ensembles: Ensemble) -> Recipe:
        """The checkpoint's recipe, with what ensembles say in place of its keys, and these wishes in place of all.
        Raises RecipeError for one that a trained model cannot follow."""
        trained = parse_saved(saved.recipe, origin=CHECKPOINT)
        asked = {"predict.batch": self.batch, "ensemble.vote": self.vote}
        own = (*self.sets, *(f"{key}={value}" for key, value in asked.items() if value is not None))
        settled = tuple(text for one in ensembles for text in one.sets)
        views = parse_saved(saved.recipe, settled, origin=CHECKPOINT).predict.views
        if self.named:
            own = (*own, f"predict.views={json.dumps(self.named)}", f"predict.tta={self.views or len(self.named)}")
        elif self.views is not None:  # of a list there are no first ones
            own = (*(() if isinstance(views, str) else ("predict.views=zooms",)), *own, f"predict.tta={self.views}")
        recipe = parse_saved(saved.recipe, (*settled, *own), origin=CHECKPOINT)
        augment = trained.augment.model_copy(update={"executor": recipe.augment.executor})
        free = {name: getattr(recipe, name) for name in ("data", "decode", "predict", "ensemble")}
        free["decode"] = recipe.decode.model_copy(update={"background": trained.decode.background})
        if trained.model_copy(update=free | {"augment": augment}) != recipe:
            sets = [text for text in self.sets if text not in _ALONE]
            raise RecipeError(
                f"--set {' --set '.join(sets)}: a trained model is used as it was trained. Only {_FREE} can be changed"
            )
        data = {}
        if self.data is not None:
            data["test"] = self.data if isinstance(self.data, str) else next(iter(self.data), "")
            if not any(text.replace(" ", "").startswith("data.sample_submission=") for text in self.sets):
                data["sample_submission"] = ""
        return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def load_models(folders: Path | Sequence[Path], wishes: Wishes) -> Models:
    """The models in a run's folder, in one fold's own, in those of several runs, or in the runs that the folder of an
    `engine ensemble` names. Raises CheckpointError, RecipeError or DataError, naming the remedy."""
    folders = [folders] if isinstance(folders, Path) else list(folders)
    own = run_folders(folders)
    several = _ensemble_in(folders)
    if several is not None:
        if wishes.weights:
            raise RecipeError(f"--weights: {folders[0]} says itself how its {len(own)} runs are weighed")
        runs = _load_runs(own, wishes)
        recipe = wishes.applied_to(runs[0].checkpoints[0], _ensemble_of(runs[0]), several)
        hedges = _hedges_of(several, recipe, RunFolder(folders[0]).out_of_fold, joint=True)
        models = Models(runs, recipe, several.followed(recipe), hedges)
    elif len(own) > 1:
        runs = _load_runs(own, wishes)
        recipe = wishes.applied_to(runs[0].checkpoints[0], _ensemble_of(runs[0]))
        if asked := [key for key in _HEDGES if getattr(recipe.predict, key)]:
            told = ", ".join(f"predict.{key} = {getattr(recipe.predict, key):g}" for key in asked)
            raise RecipeError(
                f"{told}: is fitted on what the runs answer together: make an ensemble of them (engine ensemble RUN "
                "RUN --out DIR --set predict.risk=0.01) and give its folder, or do without: --set "
                f"{' --set '.join(f'predict.{key}=0' for key in asked)}"
            )
        models = Models(runs, recipe)
    else:
        run = _load_run(own[0], wishes)
        models = Models((run,), run.recipe, hedges=run.hedges)
    _refuse_unknown_prior(models.recipe, models.classes)
    return _weighed(models, wishes.weights)


def run_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders of the runs that answer: these, or those that the folder of an `engine ensemble` names. Raises
    CheckpointError for one that holds no models, RecipeError for one that is named twice."""
    several = _ensemble_in(folders)
    own = list(folders) if several is None else [folders[0] / name for name in several.runs]
    for folder in own:
        if several is None and len(own) > 1 and _ensemble_in([folder]) is not None:
            raise RecipeError(f"--folds {folder}: is an ensemble of runs, and answers alone; give the runs themselves")
        RunFolder(folder).members()
    if len({folder.resolve() for folder in own}) < len(own):
        raise RecipeError(f"--folds {' --folds '.join(map(str, own))}: one is named twice; to count it more: --weights")
    return own


def _ensemble_in(folders: Sequence[Path]) -> Ensemble | None:
    """That of several runs, where the only folder is one's."""
    found = Ensemble.load(RunFolder(folders[0]).ensemble) if len(folders) == 1 else None
    return found if found is not None and found.runs else None


def _load_runs(folders: Sequence[Path], wishes: Wishes) -> tuple[RunModels, ...]:
    """Of several runs, each by itself: what stands beside an answer is asked of all of them together."""
    wishes = dataclasses.replace(wishes, sets=(*wishes.sets, *_ALONE))
    runs = tuple(_load_run(folder, wishes, f"{os.path.normpath(folder)}/") for folder in folders)
    for run in runs[1:]:
        _refuse_others(runs[0].members[0], runs[0].checkpoints[0], run.members[0], run.checkpoints[0])
    return runs


def _weighed(models: Models, weights: Sequence[float]) -> Models:
    if not weights:
        return models
    if (
        len(weights) != len(models.runs)
        or not all(weight >= 0 for weight in weights)
        or not 0 < sum(weights) < math.inf
    ):
        told = ",".join(f"{weight:g}" for weight in weights)
        wanted = count(models.runs, "number")
        raise RecipeError(f"--weights {told}: expected {wanted} of at least 0, not all 0, one for each --folds")
    runs = (dataclasses.replace(run, weight=weight) for run, weight in zip(models.runs, weights, strict=True))
    return dataclasses.replace(models, runs=tuple(runs))


def _refuse_unknown_prior(recipe: Recipe, classes: Sequence[str]) -> None:
    prior = recipe.predict.prior
    if isinstance(prior, str):
        return
    if missing := [name for name in classes if name not in prior]:
        raise RecipeError(f"predict.prior: there is no share for {some(missing)}; name all {len(classes)} classes")
    if strange := [name for name in prior if name not in classes]:
        raise RecipeError(f"predict.prior: {some(strange)}: no class of the models; they know {some(classes)}")


def _hedges_of(ensemble: Ensemble, recipe: Recipe, answers: Path, joint: bool = False) -> Hedges:
    """What was fitted of what stands beside an answer, or, where something else is asked for, is fitted now: on the
    out-of-fold `answers` that lie beside the ensemble."""
    hedges, predict = ensemble.hedges, recipe.predict
    if predict.false_alarms and hedges.strange is None:
        raise RecipeError(
            "predict.false_alarms: strangers are known by what models say out of fold beside their answers; run the "
            f"same `engine train` again with --set predict.false_alarms={predict.false_alarms}, and nothing is trained"
        )
    wanted = keys_of(recipe)
    if predict.risk or predict.abstain_accuracy:
        without = [part for part in ensemble.parts.names if part not in ensemble.followed(recipe).names]
        if ensemble.specialists and not predict.specialists and ensemble.keys.get("predict.specialists", True):
            without.append("specialists")
        if without:
            raise RecipeError(
                f"predict.risk and abstain_accuracy were fitted on answers with {', '.join(without)}, which are not to "
                "be given: do without both, or have all of it fitted anew with the same --set: engine ensemble RUN"
            )
    lacking = (predict.risk and hedges.risk is None) or (predict.abstain_accuracy and hedges.threshold is None)
    as_fitted = all(wanted[key] == ensemble.keys[key] for key in RISK)
    if not (predict.risk or predict.abstain_accuracy) or (as_fitted and not lacking):
        return hedges
    if not answers.is_file():
        raise RecipeError(
            f"predict.risk and abstain_accuracy are fitted on {answers}, which is not there: copy it from where the "
            "run was trained, or, where nothing was held out (data.folds.count = 1), do without them: --set "
            "predict.risk=0.0 --set predict.abstain_accuracy=0.0"
        )
    labelled = Predictions.read(answers)
    assert isinstance(labelled, LabelledPredictions)
    return dataclasses.replace(Hedges.fit(labelled, predict, joint), strange=hedges.strange)


def _load_run(folder: Path, wishes: Wishes, name: str = "") -> RunModels:
    members = RunFolder(folder).members()
    _refuse_half_copied(folder)
    checkpoints = [checkpoint.load(member.path) for member in members]
    first = checkpoints[0]
    for member, other in zip(members, checkpoints, strict=True):
        try:
            Contract.from_dict(other.contract)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{member.checkpoint}: {error}") from None
        _refuse_others(members[0], first, member, other)
    ensemble = _ensemble(members[0], first)
    try:
        ensemble.parts.refuse_other_classes(first.classes)
    except ValueError as error:
        path = RunFolder(members[0].fold.path.parent).ensemble
        raise CheckpointError(
            f"{path} is not of these models: {error}. Copy the run's own, or have it fitted anew: engine ensemble "
            f"{path.parent}"
        ) from None
    recipe = wishes.applied_to(first, ensemble)
    specialists = ensemble.specialists if recipe.predict.specialists else ()
    asked = find_specialists(specialists, members, first.classes)
    for saved in (*checkpoints, *(each for one in asked for voters in one.folds for each in voters)):
        _check_views(recipe, saved)
    run = RunModels(
        name=name,
        members=tuple(members),
        checkpoints=tuple(checkpoints),
        recipe=recipe,
        specialists=asked,
        parts=ensemble.followed(recipe),
        hedges=_hedges_of(ensemble, recipe, RunFolder(members[0].fold.path.parent).out_of_fold),
    )
    _refuse_other_epochs(run)
    return dataclasses.replace(run, notices=_otherwise(run, ensemble))


def _otherwise(run: RunModels, ensemble: Ensemble) -> tuple[str, ...]:
    """What was fitted is followed, and told, also where other views, another rule or not all of it are asked for."""
    fitted, predict, vote = (*run.parts.names, *run.hedges.to_dict()), run.recipe.predict, run.recipe.ensemble.vote
    left_out = [name for name in ensemble.parts.names if name not in run.parts.names]
    as_fitted = predict.names == ensemble.views and vote == ensemble.keys["ensemble.vote"]
    if not fitted or (as_fitted and not left_out):
        return ()
    told = f"{', '.join(ensemble.views)} and the rule {ensemble.keys['ensemble.vote']}"
    told += f", with {', '.join(left_out)}" if left_out else ""
    return (
        f"{', '.join(fitted)} of {run.members[0].fold.path.parent}: fitted on answers by the views {told}; to have "
        "them fitted on what is asked for now, give it to `engine train`, which trains nothing anew",
    )


def _ensemble_of(run: RunModels) -> Ensemble:
    return _ensemble(run.members[0], run.checkpoints[0])


def _ensemble(member: MemberFolder, saved: Checkpoint) -> Ensemble:
    """What lies beside the folds, else what the recipe says that they were trained by."""
    beside = Ensemble.load(RunFolder(member.fold.path.parent).ensemble)
    return beside or Ensemble.of(parse_saved(saved.recipe, origin=CHECKPOINT), ())


def _refuse_others(mine: MemberFolder, own: Checkpoint, member: MemberFolder, other: Checkpoint) -> None:
    if set(other.classes) != set(own.classes):
        only = sorted(set(other.classes) ^ set(own.classes))
        raise DataError(
            f"{member.path} and {mine.path} know different classes ({some(only)}); "
            "they do not answer the same question. Give folds of one training only, or runs over the same classes"
        )


def _refuse_other_epochs(run: RunModels) -> None:
    """Weights of epochs that are not there, or not the only ones, would be taken for those of others."""
    join = run.parts.join
    for places in run.folds:
        if join is not None and len(places) not in (1, len(join.names)):
            raise CheckpointError(
                f"the ensemble weighs {count(join.names, 'epoch')} of each fold ({some(join.names)}), and "
                f"{run.members[places[0]].fold.path} has {len(places)}; copy the folder again, or do without the "
                "weights: --set ensemble.weights=equal --set ensemble.stack=off"
            )


def _check_views(recipe: Recipe, saved: Checkpoint) -> None:
    """Refuse views that the checkpoint's model cannot be shown."""
    contract, own = Contract.from_dict(saved.contract), parse_saved(saved.recipe, origin=CHECKPOINT)
    check_views(views_of(recipe.predict), own.model, own.stage[0].size, (contract.height, contract.width))


def _refuse_half_copied(folder: Path) -> None:
    """A fold that has only its weights would be left out without a word, and the others answer alone."""
    for path in sorted(folder.glob("*/")):
        member = MemberFolder(path)
        if member.weights.is_file() and not member.holds_checkpoint:
            raise CheckpointError(
                f"{member.checkpoint} is missing beside its weights; copy it from where the fold was trained, or move "
                f"{path} away to do without this fold"
            )
