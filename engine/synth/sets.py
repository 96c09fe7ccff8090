"""Drawn data sets: vehicles in folders (made fine-grained) and documents in tables (made messy), for demos and tests.

A set is described by a few numbers and drawn from them alone. Every picture has an address (seed, part, number) from
which its own generator is seeded, so the bytes do not depend on how many processes draw, in what order, or what was
there before. That is also what makes an interrupted run cheap to finish: what exists is kept, since it could not come
out otherwise. (Bytes may differ between versions of OpenCV and numpy.)

`synth.json` is written last and says what the folder holds. While the drawing goes on it is named `synth.json.part`,
which tells an unfinished set of ours from somebody else's folder; the latter is never touched.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np

from engine.data.ingest import Progress
from engine.errors import DataError
from engine.files import write_text
from engine.synth.drawn.cars import photograph
from engine.synth.drawn.documents import KINDS, LOOK_ALIKES, photograph_document
from engine.synth.drawn.scenes import Scene, draw_scene
from engine.synth.drawn.vehicles import MOST_CLASSES, Vehicle, class_names, design
from engine.system import cores

MARKER, UNFINISHED = "synth.json", "synth.json.part"
DRAWING = 1  # goes up when the drawing changes, so that an older set is not taken for a new one
CHUNK = 32  # pictures to a task: small enough to share evenly, large enough that passing tasks around costs nothing


class Picture(Protocol):
    """One picture to be drawn; a set adds what its drawing needs."""

    @property
    def path(self) -> str:
        """Where it belongs, relative to the set's folder."""


class DrawnSet(Protocol):
    """What the writing needs to know of a set."""

    kind: ClassVar[str]

    def pictures(self) -> Sequence[Any]: ...

    def draw(self, picture: Any) -> bytes: ...

    def tables(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class VehiclePicture:
    """One photograph: the class on it, and which part (0 train, 1 test) and number its scene is drawn from."""

    path: str
    label: int
    part: int
    number: int


@dataclass(frozen=True)
class VehicleSet:
    """A fine-grained set: train/<class>/<class>_NNNN.jpg, test/TEST_NNNNN.jpg with test.csv, sample_submission.csv and,
    to score by, test_labels.csv. Raises ValueError for numbers that make no set."""

    kind: ClassVar[str] = "vehicles"

    classes: int = 12
    per_class: int = 60  # train pictures
    test_per_class: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _expect("classes", self.classes, 2, MOST_CLASSES)
        _expect("per_class", self.per_class, 1, 9999)
        _expect("test_per_class", self.test_per_class, 0, 99_999 // self.classes)
        _expect("seed", self.seed, 0, 2**32 - 1)

    @cached_property
    def names(self) -> list[str]:
        """Class names by class number."""
        return class_names(self.seed, self.classes)

    @cached_property
    def test_classes(self) -> list[int]:
        """The class of each test picture, in the order of their ids: shuffled, so that the order tells nothing."""
        labels = np.repeat(np.arange(self.classes), self.test_per_class)
        return np.random.default_rng([self.seed, 20]).permutation(labels).tolist()

    def pictures(self) -> list[VehiclePicture]:
        train = [
            VehiclePicture(f"train/{name}/{name}_{k + 1:04d}.jpg", label, 0, label * self.per_class + k)
            for label, name in enumerate(self.names)
            for k in range(self.per_class)
        ]
        return train + [
            VehiclePicture(f"test/{_test_id(i)}.jpg", label, 1, i) for i, label in enumerate(self.test_classes)
        ]

    def vehicle(self, picture: VehiclePicture) -> Vehicle:
        """What is on a picture: from its class alone."""
        return design(self.seed, picture.label)

    def scene(self, picture: VehiclePicture) -> Scene:
        """How it is photographed: from the picture's number alone."""
        return draw_scene(np.random.default_rng([self.seed, 10 + picture.part, picture.number]))

    def draw(self, picture: VehiclePicture) -> bytes:
        return photograph(self.vehicle(picture), self.scene(picture))

    def tables(self) -> dict[str, str]:
        ids = [_test_id(i) for i in range(len(self.test_classes))]
        columns = sorted(self.names)
        share = repr(1 / self.classes)
        return {
            "test.csv": _csv(["ID", "img_path"], ([i, f"./test/{i}.jpg"] for i in ids)),
            "sample_submission.csv": _csv(["ID", *columns], ([i, *[share] * self.classes] for i in ids)),
            "test_labels.csv": _csv(
                ["ID", "label"], ([i, self.names[c]] for i, c in zip(ids, self.test_classes, strict=True))
            ),
        }


@dataclass(frozen=True)
class DocumentPicture:
    """One document: its true kind, and which part (0 train, 1 test) and number it is drawn from."""

    path: str
    label: int
    part: int
    number: int


@dataclass(frozen=True)
class DocumentSet:
    """A messy set of seventeen kinds: train/ and test/ without class folders, train.csv (ID, target) of which a share
    `wrong` is mislabelled (wrong_labels.csv has what is right, for data.relabel, and what was given), meta.csv (target,
    class_name), sample_submission.csv (ID, target) and, to score by, test_labels.csv. Classes differ in size up to
    threefold. Raises ValueError for numbers that make no set."""

    kind: ClassVar[str] = "documents"

    train: int = 1570  # pictures in all
    test: int = 3140
    wrong: float = 0.02  # share of train pictures with a wrong label
    seed: int = 0

    def __post_init__(self) -> None:
        _expect("train", self.train, 2 * len(KINDS), 1_000_000)
        _expect("test", self.test, 0, 1_000_000)
        _expect("wrong", self.wrong, 0.0, 0.5)
        _expect("seed", self.seed, 0, 2**32 - 1)

    def _labels(self, part: int) -> list[int]:
        """True classes by picture number: unbalanced, the same classes large in both parts, shuffled."""
        weights = np.random.default_rng([self.seed, 21]).permutation(np.linspace(0.35, 1.0, len(KINDS)))
        total = self.test if part else self.train
        least = 0 if part else min(2, total // len(KINDS))  # two of a class can still be stratified
        counts = least + np.floor((total - least * len(KINDS)) * weights / weights.sum()).astype(int)
        counts[np.argsort(-weights)[: total - counts.sum()]] += 1
        labels = np.repeat(np.arange(len(KINDS)), counts)
        return np.random.default_rng([self.seed, 22, part]).permutation(labels).tolist()

    def _given_labels(self) -> list[int]:
        """The train part's labels as train.csv has them: look-alikes are taken for each other, others for anything."""
        names, given = list(KINDS), self._labels(0)
        twins = {names.index(a): names.index(b) for pair in LOOK_ALIKES for a, b in (pair, pair[::-1])}
        rng = np.random.default_rng([self.seed, 23])
        for i in rng.permutation(len(given))[: round(self.wrong * len(given))]:
            other = (given[i] + int(rng.integers(1, len(names)))) % len(names)
            given[i] = twins.get(given[i], other)
        return given

    def _id(self, part: int, number: int) -> str:
        return hashlib.blake2b(f"{self.seed}/{part}/{number}".encode(), digest_size=8).hexdigest() + ".jpg"

    def pictures(self) -> list[DocumentPicture]:
        return [
            DocumentPicture(f"{folder}/{self._id(part, number)}", label, part, number)
            for part, folder in enumerate(("train", "test"))
            for number, label in enumerate(self._labels(part))
        ]

    def draw(self, picture: DocumentPicture) -> bytes:
        rng = np.random.default_rng([self.seed, 12 + picture.part, picture.number])
        return photograph_document(list(KINDS)[picture.label], rng, disturbed=picture.part == 1)

    def tables(self) -> dict[str, str]:
        truth, given, test = self._labels(0), self._given_labels(), self._labels(1)
        wrong = [[self._id(0, i), t, g] for i, (g, t) in enumerate(zip(given, truth, strict=True)) if g != t]
        return {
            "train.csv": _csv(["ID", "target"], ([self._id(0, i), label] for i, label in enumerate(given))),
            "meta.csv": _csv(["target", "class_name"], enumerate(KINDS)),
            "sample_submission.csv": _csv(["ID", "target"], ([self._id(1, i), 0] for i in range(len(test)))),
            "test_labels.csv": _csv(["ID", "target"], ([self._id(1, i), label] for i, label in enumerate(test))),
            "wrong_labels.csv": _csv(["ID", "target", "given"], wrong),
        }


def draw_set(folder: Path, spec: DrawnSet, workers: int = 0, progress: Progress | None = None) -> bool:
    """Draw a set into a new or empty folder, or finish one of the same spec that was interrupted.

    `workers` processes draw (0: one for each core this process may use); the bytes do not depend on it. Returns whether
    anything had to be done: False says that the finished set is already there. Raises DataError when the folder holds
    anything else.
    """
    folder = Path(folder)
    description = {"kind": spec.kind, "drawing": DRAWING} | asdict(spec)  # type: ignore[call-overload]
    if _is_finished(folder, description):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / UNFINISHED, json.dumps(description, indent=2) + "\n")

    pictures = spec.pictures()
    for parent in {(folder / p.path).parent for p in pictures}:
        parent.mkdir(parents=True, exist_ok=True)
    _draw_all(folder, spec, pictures, workers or cores(), progress)
    for name, text in spec.tables().items():
        write_text(folder / name, text)
    (folder / UNFINISHED).replace(folder / MARKER)
    return True


def _is_finished(folder: Path, description: dict[str, Any]) -> bool:
    """Whether the set is there; DataError when the folder is not ours to write into."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder that is new or empty.")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    for name in (MARKER, UNFINISHED):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if found == description:
            return name == MARKER
        raise DataError(
            f"{folder} holds another drawn set ({_differences(found, description)}); "
            "choose another folder, repeat the command with the same numbers, or delete the folder."
        )
    raise DataError(
        f"{folder} is not empty and holds no drawn set ({MARKER} is missing or unreadable); "
        "choose a new or an empty folder."
    )


def _differences(found: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return f"{MARKER} is not a description"
    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key} {found.get(key)!r} there, {wanted.get(key)!r} asked for" for key in keys)


def _draw_all(folder: Path, spec: DrawnSet, pictures: Sequence[Any], workers: int, progress: Progress | None) -> None:
    chunks = [pictures[i : i + CHUNK] for i in range(0, len(pictures), CHUNK)]
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, len(pictures))

    if min(workers, len(chunks)) <= 1:
        for chunk in chunks:
            advance(_draw_chunk(folder, spec, chunk))
        return
    # spawned, not forked: the caller may hold threads and GPU contexts that do not survive a fork
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        tasks = [pool.submit(_draw_chunk, folder, spec, chunk) for chunk in chunks]
        for task in as_completed(tasks):
            advance(task.result())
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # one process to a core already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _draw_chunk(folder: Path, spec: DrawnSet, pictures: Sequence[Picture]) -> int:
    for picture in pictures:
        path = folder / picture.path
        if not path.exists():
            unfinished = path.with_suffix(".part")  # renamed when whole, but not synced: a lost picture is drawn again
            unfinished.write_bytes(spec.draw(picture))
            unfinished.replace(path)
    return len(pictures)


def _expect(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} = {value}: expected {least} to {most}")


def _test_id(number: int) -> str:
    return f"TEST_{number:05d}"


def _csv(header: list[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
