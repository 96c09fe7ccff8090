"""A whole run: the folds of a recipe one after the other, and their out-of-fold predictions joined.

Then the specialists, each in the same way in a folder of its own, and what they change in these predictions.

`models/run.json` remembers what a folder was trained with. The same command on a finished run says so, on an
interrupted one goes on, and with another recipe or other data it is refused rather than mixed with what is there.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engine.ensemble.specialist import Effect
from engine.errors import EngineError, Interrupted
from engine.events import Notice, Relay, Stop, Watcher
from engine.loader.decoded_cache import DecodedCache
from engine.loader.supply import shared_supplies
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store.claim import DATA, SPLIT, START, TEACHER, Claim, claim
from engine.store.log import Log
from engine.store.occupied import only_one, refuse_if_taken
from engine.store.run_folder import RunFolder
from engine.store.samples import TrainedSamples
from engine.training.bank import write_bank
from engine.training.decoded import cache_of
from engine.training.feed import FoldData
from engine.training.out_of_fold import answer_held_out
from engine.training.prepare import Prepared, check_starts
from engine.training.settle import Settled, Trained, settle
from engine.training.specialists import Course
from engine.training.trainer import FoldTrainer

ELSEWHERE = "Choose another folder with --set output=DIR"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to, all its trained folds together: see `Settled`, whose values stand here, too."""

    folder: Path
    folds: tuple[int, ...]
    settled: Settled
    already_finished: bool

    @property
    def metrics(self) -> dict[str, float]:
        return self.settled.metrics

    @property
    def baseline_log_loss(self) -> float | None:
        return self.settled.baseline_log_loss

    @property
    def main(self) -> dict[str, float]:
        return self.settled.main

    @property
    def effects(self) -> tuple[Effect, ...]:
        return self.settled.effects


def train(prepared: Prepared, ranks: Ranks, watcher: Watcher, stop: Stop, overwrite: bool = False) -> Result:
    """Train the recipe's folds into `recipe.output`, then its specialists, going on where an earlier run stopped.

    With `overwrite` what the folder holds of an earlier run is removed first. Raises Interrupted when `stop` says so,
    RecipeError when the folder holds another run, EngineError while another process trains in it.
    """
    folder = RunFolder(Path(prepared.recipe.output))
    alone = only_one(folder.occupied, "a run", ELSEWHERE) if ranks.leads else nullcontext()
    with alone, shared_supplies():
        return _train(prepared, folder, ranks, watcher, stop, overwrite)


def refuse_second(recipe: Recipe) -> None:
    """Raise EngineError, as `train` would, while another process trains in the recipe's folder: before an hour is spent
    on looking at its images."""
    refuse_if_taken(RunFolder(Path(recipe.output)).occupied, "a run", ELSEWHERE)


def _train(
    prepared: Prepared, folder: RunFolder, ranks: Ranks, watcher: Watcher, stop: Stop, overwrite: bool
) -> Result:
    recipe = prepared.recipe
    # Before anything is removed.
    said = check_starts(prepared, ranks, lambda name: not overwrite and _is_finished(folder, name, prepared.folds))
    if ranks.leads:
        if overwrite:
            folder.clear()
        changes = _claim(prepared)
    ranks.gather(None)  # nobody reads the folder before it is claimed
    if ranks.leads:
        if changes:
            watcher.hear(Notice(f"going on with {'; '.join(changes)}"))
        for notice in (*prepared.notices, *said):
            watcher.hear(Notice(notice))
        for entry in prepared.left_out.values():
            watcher.hear(Notice(f"left out: {entry}"))
    folds = {fold: prepared.fold_data(fold) for fold in prepared.folds}
    with cache_of(prepared, ranks) as cache:
        trained = _train_folds(recipe, folder, folds, folds, ranks, watcher, stop, cache=cache)
        for course in prepared.courses:
            trained |= _train_specialist(course, folder, folds, ranks, watcher, stop, cache)
        ranks.gather(None)  # all is written by now
    settled = ranks.gather(settle(folder, _run_of(prepared)) if ranks.leads else None)[0]
    assert settled is not None
    return Result(folder.path, prepared.folds, settled, already_finished=not trained)


def _is_finished(folder: RunFolder, specialist: str, folds: Sequence[int]) -> bool:
    return all(map((folder.specialist(specialist) if specialist else folder).is_finished, folds))


def _train_folds(
    recipe: Recipe,
    folder: RunFolder,
    folds: Mapping[int, FoldData],
    asked: Mapping[int, FoldData],
    ranks: Ranks,
    watcher: Watcher,
    stop: Stop,
    specialist: str = "",
    cache: DecodedCache | None = None,
) -> bool:
    """Train the folds that are not finished; whether there were any. Each then answers about what `asked` holds out."""
    watchers = Relay(Log(folder.log), watcher) if ranks.leads else Watcher()
    trained = False
    for fold, data in folds.items():
        if not folder.is_finished(fold):
            FoldTrainer(recipe, fold, data, folder.fold(fold), ranks, specialist, cache).train(watchers, stop)
            trained = True
        answer_held_out(recipe, fold, asked[fold], folder.fold(fold), ranks, watchers, stop)
        if recipe.ensemble.neighbours != "off" and not specialist:
            write_bank(recipe, fold, data, folder.fold(fold), ranks, watchers, stop)
    return trained


def _train_specialist(
    course: Course,
    models: RunFolder,
    folds: Mapping[int, FoldData],
    ranks: Ranks,
    watcher: Watcher,
    stop: Stop,
    cache: DecodedCache | None,
) -> bool:
    """Train a specialist's folds, each of which answers about all that the main fold holds out; whether there was
    anything left to train."""
    name, folder = course.name, models.specialist(course.name)
    own = {fold: course.fold_data(main) for fold, main in folds.items()}
    if ranks.leads and not all(map(folder.is_finished, own)):
        watcher.hear(Notice(f"specialist {name}: {', '.join(course.specialist.answers)}"))
    try:
        return _train_folds(course.recipe, folder, own, folds, ranks, watcher, stop, name, cache)
    except Interrupted as error:
        raise Interrupted(f"specialist {name}: {error}") from None
    except EngineError as error:
        raise EngineError(f"specialist {name}: {error}. To begin it alone afresh, remove {folder.path}") from error


def refuse_other_run(prepared: Prepared) -> list[str]:
    """What of the recipe differs from that of the run in its folder, and may. As `train` would, raises RecipeError when
    the folder or a specialist's holds another run, and CheckpointError when a fold has lost a part."""
    return [change for one in _claims(prepared) for change in one.check()]


def _claim(prepared: Prepared) -> list[str]:
    """Write down what the folders of the run and its specialists are trained with; the rest as `refuse_other_run`."""
    return claim(*_claims(prepared))


def _claims(prepared: Prepared) -> list[Claim]:
    folder = RunFolder(Path(prepared.recipe.output))
    samples = TrainedSamples(
        prepared.ids,
        prepared.manifest.labels,
        prepared.manifest.table["sha1"].to_pylist(),
        prepared.fold_N.tolist(),
    )
    content = _content(prepared.recipe, prepared) | {SPLIT: samples.split}
    if prepared.lesson is not None:
        content[TEACHER] = prepared.lesson.fingerprint
    remedy = f"{ELSEWHERE}, or start afresh with --overwrite"
    claims = [Claim(folder.claim, "a run", content, remedy, samples, folder.samples)]
    for course in prepared.courses:
        own = _content(course.recipe, prepared) | {SPLIT: samples.split, "classes": list(course.specialist.classes)}
        remedy = "Give the specialist another name, or remove this folder to train it again"
        claims.append(Claim(folder.specialist(course.name).claim, "a run", own, remedy, samples, folder.samples))
    for one in claims:
        one.check()
    for one in claims:
        _check_folds(one, RunFolder(one.path.parent), prepared.folds)
    return claims


def _content(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    content: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), DATA: prepared.fingerprint}
    weights = Path(recipe.model.weights)
    if recipe.model.weights and weights.is_file():  # a finished run does without the file
        with weights.open("rb") as file:
            content[START] = hashlib.file_digest(file, "sha256").hexdigest()
    return content


def _check_folds(claim: Claim, folder: RunFolder, folds: Sequence[int]) -> None:
    """Refuse folds that were copied here without what training would have to know of them, and those of another run,
    before anything is trained."""
    for fold in folds:
        folder.is_finished(fold)
        for member in (folder.fold(fold), *folder.fold(fold).epochs()):
            remedy = f"Move {member.path} away, or choose another folder with --set output=DIR"
            content = {name: claim.content[name] for name in ("recipe", DATA)}
            Claim(member.checkpoint, "a model", content, remedy).check(of_model=True)


def _run_of(prepared: Prepared) -> Trained:
    return Trained(
        recipe=prepared.recipe,
        folds=prepared.folds,
        specialists=tuple(course.specialist for course in prepared.courses),
        labels=prepared.manifest.labels,
        class_groups=prepared.groups,
    )
