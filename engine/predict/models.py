"""The models of a run that answer together, with what was settled in training on how they do, and what a user asks for
beside that."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.augment.contract import Contract
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.vote import Rule
from engine.errors import CheckpointError, DataError, RecipeError
from engine.predict.panel import Asked, find_specialists
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import CHECKPOINT, FoldFolder, MemberFolder, RunFolder
from engine.text import some

_FREE = "data, decode (not its background), predict, ensemble and augment.executor"


@dataclasses.dataclass(frozen=True)
class Models:
    """Fold models, the specialists that they ask, and the recipe that is followed: its data, decode, predict, ensemble
    and augment.executor."""

    members: tuple[MemberFolder, ...]
    checkpoints: tuple[Checkpoint, ...]
    recipe: Recipe
    specialists: tuple[Asked, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.checkpoints[0].classes

    @property
    def folds(self) -> list[list[int]]:
        """The models of each fold, by their places in `checkpoints`: one, or its kept epochs."""
        of_fold: dict[FoldFolder, list[int]] = {}
        for place, member in enumerate(self.members):
            of_fold.setdefault(member.fold, []).append(place)
        return list(of_fold.values())


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the user asks for beside what was settled in training. None: as it was.

    data: images to predict, one source or several. The recipe's sample submission belongs to its own test images and is
    then left aside.
    truth: a table with the ids and labels of (some of) the images, to score the answers by; else folder names or the
    images' own table may hold labels. sets: "key=value" changes of the recipe: of data, decode, predict, ensemble and
    augment.executor.
    """

    data: str | tuple[str, ...] | None = None
    truth: str | None = None
    views: int | None = None
    vote: Rule | None = None
    batch: int | None = None
    sets: tuple[str, ...] = ()

    def sources(self, recipe: Recipe) -> tuple[str, ...]:
        """Where the images are: what the user names, else the recipe's data.test."""
        if self.data is None:
            return (recipe.data.test,)
        return (self.data,) if isinstance(self.data, str) else self.data

    def applied_to(self, saved: Checkpoint, ensemble: Ensemble | None) -> Recipe:
        """The checkpoint's recipe, with what the ensemble says in place of its keys, and these wishes in place of both.
        Raises RecipeError for one that a trained model cannot follow."""
        trained = parse_saved(saved.recipe, origin=CHECKPOINT)
        asked = {"predict.tta": self.views, "predict.batch": self.batch, "ensemble.vote": self.vote}
        own = (*self.sets, *(f"{key}={value}" for key, value in asked.items() if value is not None))
        recipe = parse_saved(saved.recipe, (*(ensemble.sets if ensemble else ()), *own), origin=CHECKPOINT)
        augment = trained.augment.model_copy(update={"executor": recipe.augment.executor})
        free = {name: getattr(recipe, name) for name in ("data", "decode", "predict", "ensemble")}
        free["decode"] = recipe.decode.model_copy(update={"background": trained.decode.background})
        if trained.model_copy(update=free | {"augment": augment}) != recipe:
            raise RecipeError(
                f"--set {' --set '.join(self.sets)}: a trained model is used as it was trained. "
                f"Only {_FREE} can be changed"
            )
        data = {}
        if self.data is not None:
            data["test"] = self.data if isinstance(self.data, str) else next(iter(self.data), "")
            if not any(text.replace(" ", "").startswith("data.sample_submission=") for text in self.sets):
                data["sample_submission"] = ""
        return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def load_models(folder: Path, wishes: Wishes) -> Models:
    """The models in a run's folder, or in one fold's own. Raises CheckpointError, RecipeError or DataError, naming the
    remedy."""
    members = RunFolder(folder).members()
    _refuse_half_copied(folder)
    checkpoints = [checkpoint.load(member.path) for member in members]
    first = checkpoints[0]
    for member, other in zip(members, checkpoints, strict=True):
        try:
            Contract.from_dict(other.contract)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{member.checkpoint}: {error}") from None
        if set(other.classes) != set(first.classes):
            only = sorted(set(other.classes) ^ set(first.classes))
            raise DataError(
                f"{member.path} and {members[0].path} know different classes ({some(only)}); "
                "they do not answer the same question. Give folds of one training only"
            )
    ensemble = Ensemble.load(RunFolder(members[0].fold.path.parent).ensemble)
    recipe = wishes.applied_to(first, ensemble)
    specialists = ensemble.specialists if ensemble and recipe.predict.specialists else ()
    return Models(
        members=tuple(members),
        checkpoints=tuple(checkpoints),
        recipe=recipe,
        specialists=find_specialists(specialists, members, first.classes),
    )


def _refuse_half_copied(folder: Path) -> None:
    """A fold that has only its weights would be left out without a word, and the others answer alone."""
    for path in sorted(folder.glob("*/")):
        member = MemberFolder(path)
        if member.weights.is_file() and not member.holds_checkpoint:
            raise CheckpointError(
                f"{member.checkpoint} is missing beside its weights; copy it from where the fold was trained, or move "
                f"{path} away to do without this fold"
            )
