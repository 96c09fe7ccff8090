"""What a teacher says of the images that a run is trained on, and of photos without labels.

Of a training image it is the teacher's out-of-fold answer (`oof.parquet`): by models that were not trained on the
image, after all that was fitted of the ensemble, each part of that by what it was not fitted on. In-sample answers
would repeat the labels, with the teacher's overfitting in place of its doubts. Photos without labels none of its models
has seen, so there the whole ensemble answers (`predictions.parquet`).

Held-out labels reach a student on one way: models of the teacher that answer about what is learnt have learnt what the
student holds out. To close it, a teacher would have to be trained for each pair of folds.

Training reads files and asks no teacher: who answers is decided once, by `engine distill` or `engine infer`, and a run
that goes on learns from the same answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from engine.augment.mix import Taught
from engine.data.manifest import OK, Manifest
from engine.errors import DataError
from engine.loader.batches import Samples
from engine.loader.source import Files
from engine.predictions import Predictions
from engine.recipe.sections import DistillSection
from engine.store.run_folder import RunFolder
from engine.store.samples import folds_in
from engine.text import count, some

_HARD = 0.0  # weight of a teacher that says nothing


@dataclasses.dataclass(frozen=True)
class Lesson:
    """samples: those that were given, then the photos without labels, with what the teacher says of all. Each of the
    latter has the teacher's likeliest class as its label, by which it is drawn where classes are balanced; the label
    itself is not learnt. unlabelled: how many. fingerprint: of all the answers. notices: in words."""

    samples: Samples
    unlabelled: int
    fingerprint: str
    notices: tuple[str, ...]


def lesson(section: DistillSection, samples: Samples, manifest: Manifest, classes: Sequence[str]) -> Lesson:
    """What `section`'s teacher says of `samples`, which are those of `manifest`.

    Augmented copies, and images that the teacher held out in no fold, are learnt by their labels alone. Raises
    DataError when the teacher has not answered about others, answers among other classes, or its photos are gone.
    """
    own, hard = _held_out(section, manifest, classes)
    photos = _unlabelled(section, manifest, classes)
    answers_NC = np.concatenate([own, photos.answers_UC])
    weight_N = np.concatenate([np.where(hard, _HARD, section.weight), np.ones(len(photos.ids))])
    told = [f"{count(int(hard.sum()), 'image')} without an out-of-fold answer of the teacher: learnt by labels alone"]
    taught = Taught(
        torch.from_numpy(_at(answers_NC, section.temperature).astype(np.float32)),
        torch.from_numpy(weight_N.astype(np.float32)),
        section.temperature,
    )
    keys_U = [hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in photos.ids]
    both = Samples(
        ids=[*samples.ids, *photos.ids],
        source=Files([*manifest.paths, *photos.paths]),
        keys_N=np.concatenate([samples.keys_N, np.frombuffer(b"".join(keys_U), dtype="<i8")]),
        labels_N=np.concatenate([samples.labels_N, photos.answers_UC.argmax(1)]),
        taught=taught,
    )
    notices = (*(told if hard.any() else []), *photos.notices)
    return Lesson(both, len(photos.ids), _fingerprint(both.ids, answers_NC, hard), notices)


@dataclasses.dataclass(frozen=True)
class _Photos:
    """Photos without labels: answers_UC of the teacher, float64."""

    ids: list[str]
    paths: list[str]
    answers_UC: NDArray[np.float64]
    notices: tuple[str, ...] = ()


def _held_out(
    section: DistillSection, manifest: Manifest, classes: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The out-of-fold answers about each of the images, (N, C); and who has none and needs none."""
    run = RunFolder(Path(section.teacher))
    if not run.out_of_fold.is_file():
        raise DataError(
            f"distill.teacher: {run.out_of_fold}: no such file. Give the folder of a finished run that held images out "
            "(data.folds.count of 2 or more), or of an ensemble of such runs"
        )
    answers = _among(Predictions.read(run.out_of_fold), classes, run.out_of_fold)
    row_of = {id_: row for row, id_ in enumerate(answers.ids)}
    place_N = np.array([row_of.get(id_, -1) for id_ in manifest.ids], dtype=np.int64)
    fold_of = folds_in(run.samples)
    never = np.array([fold_of.get(id_, 0) < 0 for id_ in manifest.ids], dtype=bool)
    hard = (place_N < 0) & (manifest.copies_N | never)
    if lacking := [id_ for id_, place, free in zip(manifest.ids, place_N, hard, strict=True) if place < 0 and not free]:
        known = [id_ for id_ in lacking if id_ in fold_of]
        why = (
            f"it was trained on {count(known, 'of them', 'of them')}, in folds that did not answer: train all its folds"
            if known
            else "their ids are none of its own: train both on the same images, or leave the others out (data.exclude)"
        )
        raise DataError(
            f"{run.out_of_fold}: the teacher has no answer about {len(lacking):,} of {count(manifest.ids, 'image')} "
            f"({some(lacking, 3)}; its own are like {some(answers.ids, 2)}); {why}"
        )
    blind_C = np.full(len(classes), 1 / len(classes))  # weighs nothing
    return np.where(hard[:, None], blind_C, answers.probabilities_NC.astype(np.float64)[place_N]), hard


def _unlabelled(section: DistillSection, manifest: Manifest, classes: Sequence[str]) -> _Photos:
    if not section.unlabelled:
        return _Photos([], [], np.empty((0, len(classes))))
    path = Path(section.unlabelled)
    if not path.is_file():
        raise DataError(
            f"distill.unlabelled: {path}: no such file. `engine distill RUN RECIPE --unlabelled PHOTOS` makes it, or "
            "`engine infer --folds RUN --data PHOTOS` (its predictions.parquet)"
        )
    answers = _among(Predictions.read(path), classes, path)
    try:
        files = pq.read_table(path, columns=["path", "status"])
    except (pa.ArrowException, KeyError):
        raise DataError(
            f"{path}: does not say where the photos lie; give the predictions.parquet of `engine infer`"
        ) from None
    paths: list[str] = files["path"].to_pylist()
    seen = np.array([status == OK for status in files["status"].to_pylist()], dtype=bool)
    if gone := [paths[row] for row in np.flatnonzero(seen) if not Path(paths[row]).is_file()]:
        raise DataError(
            f"{path}: {count(gone, 'photo')} of {len(paths):,} {'is' if len(gone) == 1 else 'are'} gone "
            f"({some(gone, 3)}); put them back, or have the teacher answer about those that are there"
        )
    twins = _same_contents([paths[row] if seen[row] else "" for row in range(len(paths))], manifest)
    rows = np.flatnonzero(seen & ~twins)
    notices = [f"{count(rows, 'photo')} without labels: learnt from the teacher's answers"]
    if not seen.all():
        notices.append(f"{count(int((~seen).sum()), 'photo')} of {path} could not be seen by the teacher: left out")
    if twins.any():
        first = some([paths[row] for row in np.flatnonzero(twins)], 3)
        notices.append(
            f"{count(int(twins.sum()), 'photo')} of {path} left out, the same files as training images ({first}): the "
            "teacher has learnt their labels, and they would be learnt where they are held out"
        )
    ids = [f"unlabelled:{answers.ids[row]}" for row in rows]
    return _Photos(ids, [paths[row] for row in rows], answers.probabilities_NC.astype(np.float64)[rows], tuple(notices))


def _among(answers: Predictions, classes: Sequence[str], path: Path) -> Predictions:
    """The answers with their columns as the classes stand; those of another order are joined by name."""
    if unlike := sorted(set(answers.classes) ^ set(classes)):
        ours = [name for name in unlike if name in classes]
        told = f"{some(ours)} {'is' if len(ours) == 1 else 'are'} none of its own" if ours else ""
        theirs = [name for name in unlike if name not in classes]
        more = f"the images have none of its {some(theirs)}" if theirs else ""
        raise DataError(
            f"{path}: the teacher answers among other classes: {'; '.join(filter(None, (told, more)))}. Teach the same "
            "classes: data.aliases joins and renames them, data.drop_classes leaves them out"
        )
    return answers.in_order(answers.ids, classes)


def _same_contents(paths: Sequence[str], manifest: Manifest) -> NDArray[np.bool_]:
    """Which of these files ("": none) are a training image's, byte for byte."""
    sizes = set(manifest.table["bytes"].to_pylist())
    hashes = set(manifest.table["sha1"].to_pylist())

    def is_same(path: str) -> bool:
        if not path or Path(path).stat().st_size not in sizes:
            return False
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest() in hashes

    return np.array([is_same(path) for path in paths], dtype=bool)


def _at(p_NC: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities whose logits were divided by a temperature."""
    raised_NC = p_NC ** (1 / temperature)
    return np.asarray(raised_NC / raised_NC.sum(1, keepdims=True))


def _fingerprint(ids: Sequence[str], answers_NC: NDArray[np.float64], hard: NDArray[np.bool_]) -> str:
    """Hexadecimal hash over who was answered about and how, whatever the order."""
    rows = np.argsort(np.array(ids, dtype=object))
    hashed = hashlib.blake2b("\x1f".join(ids[row] for row in rows).encode(), digest_size=16)
    own = rows[rows < len(hard)]
    hashed.update(np.ascontiguousarray(answers_NC[rows], dtype="<f4").tobytes())
    hashed.update(hard[own].tobytes())
    return hashed.hexdigest()
