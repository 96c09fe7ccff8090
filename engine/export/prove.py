"""A file gets its proof: photos are chosen, the file answers, and that these are the run's answers is seen to.

Who asks is the graph as it was written, by the runtime that will ask it, and not the module that it was made of: what
an exporter got wrong has to show here, and not elsewhere later.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.errors import EngineError
from engine.export.faults import Heard
from engine.export.proof import PARITY, SAME, Print, Proof, Shot, Steps
from engine.export.proof_photos import Made, drawn, make
from engine.export.stages import ANSWER, Stages
from engine.loader.batches import Samples
from engine.loader.source import Memory
from engine.pictures import read_pixels
from engine.predict.asking import Asking
from engine.predict.models import Models, RunModels
from engine.quarantine import Fault, Quarantine
from engine.store.checkpoint import Checkpoint

Pixels = NDArray[np.uint8]
Ask = Callable[[Sequence[Pixels]], NDArray[np.floating]]
"""Upright pixels (H, W, 3) to probabilities (N, C)."""

_MORE = 3.0  # than what a few drawings of noise change, others may
_NOISE = 4  # drawings of it


def prove(stages: Stages, models: Models, run: Ask, precision: str, sources: Sequence[Pixels] = ()) -> Proof:
    """The proof of a file that is taken apart as `stages`, made of `models`. run: what these answer themselves.
    sources: photos to make it of, upright RGB pixels; left out, drawn ones.

    Raises EngineError when the file answers otherwise than the run, and by how much.
    """
    sources = sources or drawn()
    size = max(one.view.size(one.contract.height, one.contract.width) for one in stages.between.shown)
    made = make(size, sources, lambda photos: np.stack([stages.run(one)[ANSWER] for one in photos]))
    pixels = [decoded(one.content) for one in made]
    values = [stages.run(each) for each in pixels]
    heard = Heard.of(values)
    _check(heard.answers_NC, run(pixels), [one.name for one in made], precision)
    same = SAME[precision]
    shots = [
        Shot(one.name, one.content, one.what, Print.of(own), max(same, _MORE * _moved(stages, one, own, answer_C)))
        for one, own, answer_C in zip(made, pixels, heard.answers_NC, strict=True)
    ]
    steps = steps_of(models)
    if steps is not None:
        again_NC = steps.answer(heard.logits, stages.between)
        steps = steps if np.abs(again_NC - heard.answers_NC).max() <= same else None
    return Proof(
        shots=tuple(shots),
        probabilities_NC=heard.answers_NC.astype(np.float32),
        prepared={one.name: tuple(Print.of(each[one.name]) for each in values) for one in stages.between.shown},
        logits=heard.logits,
        tolerance=same,
        steps=steps,
    )


def asked_of(models: Models) -> Ask:
    """What these models answer themselves, as `engine infer` asks them; in float32, whatever they were trained in, for
    that is what a file is the same as."""
    asking = Asking(_in_float32(models), torch.device("cpu"))

    def ask(photos: Sequence[Pixels]) -> NDArray[np.floating]:
        ids = [str(number) for number in range(len(photos))]
        nobody = np.zeros(len(photos), dtype=np.int64)
        found = asking(
            Samples(ids, Memory([_as_file(one) for one in photos]), nobody, nobody - 1), np.arange(len(photos))
        )
        if isinstance(found, Quarantine):
            raise EngineError(f"none of the proof's photos can be read: {found.some(1)}")
        return found.together.in_order(ids, models.classes).probabilities_NC

    return ask


def _in_float32(models: Models) -> Models:
    def single(saved: Checkpoint) -> Checkpoint:
        train = dict(saved.recipe.get("train", {})) | {"precision": "fp32"}
        return dataclasses.replace(saved, recipe={**saved.recipe, "train": train})

    def of_run(run: RunModels) -> RunModels:
        specialists = tuple(
            dataclasses.replace(one, folds=tuple(tuple(map(single, voters)) for voters in one.folds))
            for one in run.specialists
        )
        return dataclasses.replace(run, checkpoints=tuple(map(single, run.checkpoints)), specialists=specialists)

    return dataclasses.replace(models, runs=tuple(map(of_run, models.runs)))


def _as_file(pixels_HW3: Pixels) -> bytes:
    """As BMP, which holds exactly these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels_HW3).save(file, "BMP")
    return file.getvalue()


def decoded(content: bytes) -> Pixels:
    """Upright RGB pixels of a proof's photo. Raises EngineError where they cannot be had."""
    pixels = read_pixels(content)
    if isinstance(pixels, Fault):
        raise EngineError(f"a photo of the proof cannot be decoded here: {pixels}")
    return pixels


def steps_of(models: Models) -> Steps | None:
    """From logits to answers, of one run without specialists, neighbours and other class shares."""
    run = models.runs[0]
    if (
        len(models.runs) > 1
        or run.specialists
        or run.parts.neighbours
        or not isinstance(models.recipe.predict.prior, str)
    ):
        return None
    folds = tuple(tuple(f"logits_{place}" for place in places) for places in run.folds)
    return Steps(folds, run.recipe.ensemble.vote, run.parts)


def _check(file_NC: NDArray[np.floating], run_NC: NDArray[np.floating], names: Sequence[str], precision: str) -> None:
    apart_N = np.abs(file_NC - run_NC).max(1)
    if not apart_N.max() <= PARITY[precision]:  # NaN is not
        worst = int(np.nan_to_num(apart_N, nan=np.inf).argmax())
        raise EngineError(
            f"the exported file answers otherwise than the run: a probability is off by {apart_N[worst]:.2g} for "
            f"{names[worst]}, where {precision} may be off by {PARITY[precision]:g}. Nothing was written; "
            + (
                "choose a higher --precision"
                if precision != "fp32"
                else "this is a fault of the export: please report it with the versions that `engine doctor` lists"
            )
        )


def _moved(stages: Stages, photo: Made, own: Pixels, answer_C: NDArray[np.floating]) -> float:
    """By how much at most the rounding of a decoder of JPEG moves a probability: as noise of one level."""
    if not photo.name.endswith(".jpg"):
        return 0.0
    random = np.random.default_rng(0)
    noisy = (own.astype(np.int64) + random.integers(-1, 2, own.shape) for _ in range(_NOISE))
    others = [each.clip(0, 255).astype(np.uint8) for each in noisy]
    return max(float(np.abs(stages.run(other)[ANSWER] - answer_C).max()) for other in others)
