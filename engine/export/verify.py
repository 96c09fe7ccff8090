"""Whether a file answers here as it did where it was made; if not, where it first differs. And whether somebody's own
program does, which has answered about the proof's photos; if not, what it does otherwise.

The first question is asked stage by stage: pixels, what networks are shown, logits, answers. The second knows nothing
of the other side but its answers, and compares them with those of faults that are planted on purpose (see faults.py).
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError, DataError, EngineError
from engine.export.faults import (
    CHANNELS,
    DECODER,
    ORIENTATION,
    RESIZE,
    Diagnosis,
    Heard,
    Mistake,
    Told,
    diagnose,
    planted,
)
from engine.export.proof import Between, Proof
from engine.export.prove import decoded
from engine.export.runner import Exported
from engine.export.stages import ANSWER, stages_of
from engine.files import atomic_write, write_bytes
from engine.text import nfc, some

_LEVELS = 48.0  # of 255, that a pixel may be off by another decoder, where chroma is made large in another way
GRAPH = "graph"
_SHOWN_OFF = 2e-3  # of what networks are shown: float32 in another order


@dataclasses.dataclass(frozen=True)
class Row:
    """A photo: its name, what it is there for, the highest difference of a probability, and how high it may be."""

    name: str
    what: str
    apart: float
    tolerance: float

    @property
    def same(self) -> bool:
        return self.apart <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Verdict:
    """same: whether all answers are within the tolerance. worst: the highest difference of a probability. Where they
    are not the same: the first stage that differs, in words, and the remedy; diagnosis: where it is somebody's answers
    that were looked at, and what they come from is known."""

    same: bool
    worst: float
    rows: tuple[Row, ...]
    stage: str = ""
    words: str = ""
    remedy: str = ""
    diagnosis: Diagnosis | None = None


def verify(path: Path, threads: int | None = None) -> Verdict:
    """Ask the file about its own photos, on this machine. Raises CheckpointError for a file that is none, or carries no
    proof."""
    exported, proof = opened(path, threads)
    pixels = [decoded(shot.content) for shot in proof.shots]
    off = [shot.pixels.difference(each) for shot, each in zip(proof.shots, pixels, strict=True)]
    if exported.about["takes"] == "bytes":
        answers_NC = exported.of_bytes([shot.content for shot in proof.shots])
    else:
        answers_NC = exported.probabilities(pixels)
    exact_N = np.array(off) == 0
    if exported.about["takes"] == "bytes":
        exact_N[:] = False  # another decoder is in the file
    verdict = _verdict(proof, answers_NC, np.where(exact_N, proof.tolerance, proof.tolerance_N))
    if verdict.same:
        return verdict
    if max(off) > _LEVELS:
        return _of_pixels(verdict, proof, pixels, off)
    found = _of_graph(verdict, proof, path, exported, pixels)
    if exported.about["takes"] == "bytes" and found.stage == GRAPH:
        told = "the runtime decodes the photos' bytes to other pixels, and what follows is as it should be"
        return dataclasses.replace(verdict, stage=DECODER, words=told, remedy="use the file that takes pixels")
    return found


@contextlib.contextmanager
def unproven(path: Path) -> Iterator[Path]:
    """A file to be written under another name in the same folder, which becomes `path` when it verifies, and is removed
    when it does not, or when writing it fails. Raises EngineError, naming what differs, StorageError."""
    with atomic_write(path) as file:
        yield file
        verdict = verify(file)
        if not verdict.same:
            raise EngineError(
                f"{path} was not written: the exported file does not verify here. {verdict.stage}: {verdict.words} (a "
                f"probability is off by {verdict.worst:.2g}). {verdict.remedy}"
            )


def opened(path: Path, threads: int | None = None) -> tuple[Exported, Proof]:
    """A file and its proof. Raises CheckpointError."""
    exported = Exported.open(path, threads)
    if not exported.proof:
        raise CheckpointError(f"{path} carries no proof: it was changed after the export; export the run again")
    proof, between = Proof.from_json(exported.proof, path), Between.of(exported.about, path)
    names = {one.name for one in between.shown} | {one.logits for one in between.asked}
    if proof.probabilities_NC.shape[1] != len(exported.classes) or {*proof.prepared, *proof.logits} != names:
        raise CheckpointError(f"{path}: its proof is that of another file; export the run again")
    return exported, proof


def _verdict(proof: Proof, answers_NC: NDArray[np.floating], tolerance_N: NDArray[np.float64]) -> Verdict:
    apart_N = np.nan_to_num(np.abs(answers_NC - proof.probabilities_NC).max(1), nan=np.inf)
    rows = tuple(
        Row(shot.name, shot.what, float(apart), float(tolerance))
        for shot, apart, tolerance in zip(proof.shots, apart_N, tolerance_N, strict=True)
    )
    return Verdict(bool((apart_N <= tolerance_N).all()), float(apart_N.max()), rows)


def _of_pixels(verdict: Verdict, proof: Proof, pixels: Sequence[NDArray[np.uint8]], off: Sequence[float]) -> Verdict:
    place = int(np.argmax(off))
    shot, there = proof.shots[place], pixels[place].shape
    if np.isinf(off[place]) and there == (shot.pixels.shape[1], shot.pixels.shape[0], 3):
        words = f"{shot.name} is not turned as EXIF says: {there[:2]} pixels in place of {shot.pixels.shape[:2]}"
        return dataclasses.replace(verdict, stage=ORIENTATION, words=words, remedy="mend or update Pillow here")
    words = f"{shot.name} is decoded to other pixels, up to {off[place]:.0f} of 255 apart"
    return dataclasses.replace(verdict, stage=DECODER, words=words, remedy="mend or update Pillow here")


def _of_graph(
    verdict: Verdict, proof: Proof, path: Path, exported: Exported, pixels: Sequence[NDArray[np.uint8]]
) -> Verdict:
    """Where a runtime's answers first differ. What each stage is handed is right, as far as it can be seen."""
    try:
        stages = stages_of(path, exported.about)
    except CheckpointError:
        return _of_runtime(verdict)
    values = [stages.run(each) for each in pixels]
    for name, prints in proof.prepared.items():
        apart = max(each.difference(one[name]) for each, one in zip(prints, values, strict=True))
        if not apart <= _SHOWN_OFF:
            words = f"photos are prepared otherwise: {name} is off by {apart:.2g}"
            return dataclasses.replace(verdict, stage=RESIZE, words=words, remedy=_RUNTIME)
    for name, logits_NVC in proof.logits.items():
        apart = float(np.abs(np.stack([one[name] for one in values]) - logits_NVC).max())
        if not apart <= max(0.05, 50 * proof.tolerance):
            words = f"the network computes otherwise: {name} are off by {apart:.2g}"
            return dataclasses.replace(verdict, stage="network", words=words, remedy=_RUNTIME)
    answers_NC = np.stack([one[ANSWER] for one in values])
    if np.abs(answers_NC - proof.probabilities_NC).max() <= proof.tolerance_N.max():
        return _of_runtime(verdict)
    words = "logits are as they should be, and what is made of them is not"
    return dataclasses.replace(verdict, stage="answer", words=words, remedy=_RUNTIME)


def _of_runtime(verdict: Verdict) -> Verdict:
    words = "the runtime answers otherwise than where the file was made"
    return dataclasses.replace(verdict, stage=GRAPH, words=words, remedy=_RUNTIME)


_RUNTIME = (
    "the file was changed, or the runtime computes wrongly: export it again, and try another version of onnxruntime"
)


# --- somebody's answers ----------------------------------------------------------------------------------------------


def judge(path: Path, theirs: Mapping[str, Any], told: Told = lambda done, total: None) -> Verdict:
    """Whether somebody's answers about the proof's photos are right, and what is wrong if not. theirs: by the photo's
    name, probabilities by class, or in the file's order. Raises DataError for other photos or classes."""
    exported, proof = opened(path)
    between = Between.of(exported.about, path)
    theirs_NC = _in_order(theirs, proof, between.classes)
    verdict = _verdict(proof, theirs_NC, proof.tolerance_N)
    if verdict.same:
        return verdict
    found = diagnose(theirs_NC, proof, between, _planted(path, exported, proof, between, told))
    if found is None:
        stage, words = _first_that_can(verdict)
        remedy = "compare your pixels, then what your network is shown, with those of the file"
        if path.suffix != ".onnx":
            remedy += (
                "; faults in reading photos were not looked for, because a .pt2 file cannot be taken apart: have the "
                "same answers judged by the .onnx file of the run"
            )
        return dataclasses.replace(verdict, stage=stage, words=words, remedy=remedy)
    return dataclasses.replace(
        verdict,
        stage=found.faults[0].stage,
        words="; ".join(fault.words for fault in found.faults),
        remedy="; ".join(fault.remedy for fault in found.faults),
        diagnosis=found,
    )


def _planted(
    path: Path, exported: Exported, proof: Proof, between: Between, told: Told
) -> Iterator[tuple[Heard, Mistake]]:
    """What the file's networks say with each fault in reading; nothing where it cannot be taken apart."""
    try:
        stages = stages_of(path, exported.about)
    except CheckpointError:
        return
    yield from planted(proof, stages, between, told)


def _first_that_can(verdict: Verdict) -> tuple[str, str]:
    """The first stage that can be at fault, by which photos are answered rightly."""
    wrong, right = [one for one in verdict.rows if not one.same], [one.name for one in verdict.rows if one.same]
    told = f"no known fault gives these answers; {some([one.name for one in wrong], 7, str)} differ"
    if right and all("EXIF" in one.what for one in wrong):
        return ORIENTATION, f"{told}, which EXIF turns"
    if right and all(one.name.endswith(".jpg") for one in wrong):
        return DECODER, f"{told}, the JPEGs, and {some(right, 3, str)} do not"
    if "1_exact.png" in right:
        return RESIZE, f"{told}, and the one that needs no resize does not"
    return CHANNELS, f"{told}, also the one that needs no resize: it may be colours, normalisation, or what follows"


def read_answers(path: Path) -> dict[str, Any]:
    """Somebody's answers by the photo's name. A CSV file: the name first, then a column a class; JSON: {name: {class:
    probability}}, {name: [probabilities]}, or a list of {"photo": name, "probabilities": ...}. Raises DataError."""
    try:
        text = path.read_text("utf-8-sig")
        return _of_json(text) if path.suffix.lower() == ".json" else _of_csv(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
        raise DataError(
            f"{path}: expected a CSV file with the photo's name first and then one column of probabilities a class, or "
            f"JSON like {{name: {{class: probability}}}} ({error})"
        ) from None


def _of_json(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if isinstance(content, list):
        content = {each["photo"]: each["probabilities"] for each in content}
    return {str(name): value for name, value in content.items()}


def _of_csv(text: str) -> dict[str, Any]:
    header, *rows = [row for row in csv.reader(text.splitlines()) if row]
    if len(header) < 2:
        raise ValueError("no header with classes")
    return {row[0]: dict(zip(header[1:], map(float, row[1:]), strict=True)) for row in rows}


def _in_order(theirs: Mapping[str, Any], proof: Proof, classes: Sequence[str]) -> NDArray[np.float64]:
    by_stem = {Path(name).stem: answer for name, answer in theirs.items()}
    missing = [shot.name for shot in proof.shots if Path(shot.name).stem not in by_stem]
    if missing:
        raise DataError(
            f"no answer about {some(missing, 7, str)}; write the photos out with --photos DIR and answer all of them"
        )
    rows = []
    for shot in proof.shots:
        answer = by_stem[Path(shot.name).stem]
        if isinstance(answer, Mapping):
            named = {nfc(str(name)): value for name, value in answer.items()}
            if lacking := [name for name in classes if nfc(name) not in named]:
                raise DataError(
                    f"{shot.name}: no probability of {some(lacking)}; give all {len(classes)} classes by name: "
                    f"{some(classes)}"
                )
            answer = [named[nfc(name)] for name in classes]
        try:
            rows.append([float(value) for value in answer])
        except (TypeError, ValueError) as error:
            told = f"{shot.name}: expected a probability of each class, by name or in the file's order ({error})"
            raise DataError(told) from None
        if len(rows[-1]) != len(classes):
            raise DataError(f"{shot.name}: {len(rows[-1])} probabilities for {len(classes)} classes")
    found = np.array(rows, dtype=np.float64)
    if not np.isfinite(found).all():
        raise DataError("answers that are no numbers (NaN or infinite): a network whose input is no number gives these")
    return found


def write_photos(path: Path, folder: Path) -> list[Path]:
    """Write the proof's photos into a folder, for somebody's program to answer about."""
    _, proof = opened(path)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / shot.name for shot in proof.shots]
    for file, shot in zip(written, proof.shots, strict=True):
        write_bytes(file, shot.content)
    return written


TEN_LINES = """\
import base64, io, json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
proof = json.loads(session.get_modelmeta().custom_metadata_map["engine.proof"])
batch = session.get_inputs()[0].shape[0]
for photo in proof["photos"]:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(base64.b64decode(photo["file"])))).convert("RGB")
    images = np.stack([np.asarray(image)] * (batch if isinstance(batch, int) else 1))
    apart = abs(session.run(["probabilities"], {"images": images})[0][0] - photo["answer"]).max()
    print(photo["name"], "same" if apart <= photo["tolerance"] else "OTHER", apart)
"""
"""The same in plain onnxruntime, for a machine without this engine: python prove.py FILE.onnx"""
