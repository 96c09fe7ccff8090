"""Deployments that go wrong are recognised by their answers, and those that do not are left alone.

Each is written here as a person would write it, with Pillow, numpy and torch alone; what the networks make of its
pixels is asked of the exported networks themselves.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from engine.export.about import about
from engine.export.faults import Heard, Mistake, as_probabilities, diagnose, in_another_order, planted
from engine.export.graph import Answer
from engine.export.proof import Between, Proof, Shown
from engine.export.proof_photos import photos_of
from engine.export.prove import asked_of, prove
from engine.export.stages import ANSWER, ModuleStages, Stages, Values
from engine.predict.models import Wishes, load_models

Read = Callable[[bytes], Image.Image]
Post = Callable[[Values], np.ndarray]


class Proved(NamedTuple):
    stages: Stages
    proof: Proof
    planted: list[tuple[Heard, Mistake]]


@pytest.fixture(scope="module")
def proved(finished_run: Path) -> Proved:
    """The run's two folds of two epochs, asked for two views, and how they answer with each fault in reading."""
    models = load_models(finished_run, Wishes(named=("plain", "zoom_in")))
    answer = Answer(models)
    told = about(models, answer, precision="fp32", batch=None, takes="pixels")
    stages = ModuleStages(answer, Between.of(told))
    proof = prove(stages, models, asked_of(models), "fp32", photos_of(models.recipe.data))
    return Proved(stages, proof, [*planted(proof, stages, stages.between)])


# --- what people write -----------------------------------------------------------------------------------------------


def opened(content: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")


def swapped(content: bytes) -> Image.Image:
    return Image.fromarray(np.asarray(opened(content))[:, :, ::-1].copy())


def letterboxed(image: Image.Image, shown: Shown, filter: Image.Resampling) -> np.ndarray:
    """(h, w, 3) from 0 to 1; the view zoom_in is the middle 1 / 1.15."""
    size = shown.contract.width
    share = size * shown.view.zoom / max(image.size)
    small = image.resize((round(image.width * share), round(image.height * share)), filter)
    left, top = (size - small.width) / 2, (size - small.height) / 2
    made = Image.new("RGB", (size, size), (128, 128, 128))
    made.paste(small, (int(left), int(top)))
    return np.asarray(made, dtype=np.float32) / 255


def interpolated(image: Image.Image, shown: Shown) -> np.ndarray:
    """The same by torch, which does not antialias unless told to."""
    size = shown.contract.width
    share = size * shown.view.zoom / max(image.size)
    photo = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    small = torch.nn.functional.interpolate(
        photo, (round(image.height * share), round(image.width * share)), mode="bilinear"
    )
    small_HW3 = small[0].permute(1, 2, 0).numpy()
    made = np.full((size, size, 3), 0.5, np.float32)
    left, top = int((size - small_HW3.shape[1]) / 2), int((size - small_HW3.shape[0]) / 2)
    inner = small_HW3[max(0, -top) : max(0, -top) + size, max(0, -left) : max(0, -left) + size]
    made[max(0, top) : max(0, top) + inner.shape[0], max(0, left) : max(0, left) + inner.shape[1]] = inner
    return made


def own_program(
    proved: Proved,
    read: Read = opened,
    resized: Callable[[Image.Image, Shown], np.ndarray] | None = None,
    normalised: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = lambda x, mean, std: (x - mean) / std,
    post: Post = lambda values: values[ANSWER],
) -> np.ndarray:
    """Answers of a program that prepares photos itself. resized: None for the file's own pixels."""
    everything = []
    for shot in proved.proof.shots:
        image, prepared = read(shot.content), {}
        right = proved.stages.run(np.asarray(image))
        for one in proved.stages.between.shown:
            mean, std = np.array(one.contract.mean, np.float32), np.array(one.contract.std, np.float32)
            x_HW3 = right[one.name].transpose(1, 2, 0) * std + mean if resized is None else resized(image, one)
            made = normalised(x_HW3, mean, std)
            prepared[one.name] = (made if made.shape[0] == 3 else made.transpose(2, 0, 1)).astype(np.float32)
        everything.append(prepared)
    return np.stack([post(values) for values in proved.stages.rest(everything)])


def whole_photos(proved: Proved, read: Read, post: Post = lambda values: values[ANSWER]) -> np.ndarray:
    """Answers of a program that gives the file whole photos."""
    return np.stack([post(proved.stages.run(np.asarray(read(shot.content)))) for shot in proved.proof.shots])


def softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def of_logits(*names: str, views: slice = slice(None)) -> Post:
    """The mean of these models' softmaxes, uncalibrated."""
    return lambda values: np.mean([softmax(values[name][views]).mean(0) for name in names], axis=0)


MODELS = [f"logits_{number}" for number in range(4)]
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CASES: dict[str, tuple[Callable[[Proved], np.ndarray], str, str]] = {
    "BGR": (lambda p: whole_photos(p, swapped), "channel order", "BGR"),
    "EXIF ignored": (
        lambda p: whole_photos(p, lambda content: Image.open(io.BytesIO(content)).convert("RGB")),
        "orientation",
        "EXIF ignored",
    ),
    "mirrored": (
        lambda p: whole_photos(p, lambda content: ImageOps.mirror(opened(content))),
        "orientation",
        "mirrored",
    ),
    "gray": (
        lambda p: whole_photos(p, lambda content: opened(content).convert("L").convert("RGB")),
        "channel order",
        "gray",
    ),
    "PIL bilinear": (
        lambda p: own_program(p, resized=lambda image, one: letterboxed(image, one, Image.Resampling.BILINEAR)),
        "resize",
        "PIL bilinear",
    ),
    "no antialias": (lambda p: own_program(p, resized=interpolated), "resize", "no antialias, bilinear"),
    "stretched before": (
        lambda p: whole_photos(p, lambda content: opened(content).resize((48, 48), Image.Resampling.BILINEAR)),
        "resize",
        "stretched before, bilinear",
    ),
    "center crop": (
        lambda p: whole_photos(p, lambda content: ImageOps.fit(opened(content), (min(opened(content).size),) * 2)),
        "resize",
        "center 1",
    ),
    "[0, 255]": (lambda p: own_program(p, normalised=lambda x, m, s: (x * 255 - m) / s), "normalisation", "[0, 255]"),
    "scaled twice": (
        lambda p: own_program(p, normalised=lambda x, m, s: (x / 255 - m) / s),
        "normalisation",
        "scaled twice",
    ),
    "another backbone's mean and std": (
        lambda p: own_program(p, normalised=lambda x, m, s: (x - IMAGENET[0]) / IMAGENET[1]),
        "normalisation",
        "ImageNet's mean and std",
    ),
    "not normalised": (
        lambda p: own_program(p, normalised=lambda x, m, s: x),
        "normalisation",
        "no mean and std",
    ),
    "layout": (
        lambda p: own_program(p, normalised=lambda x, m, s: np.ascontiguousarray((x - m) / s).reshape(3, *x.shape[:2])),
        "layout",
        "layout",
    ),
    "softmax twice": (lambda p: whole_photos(p, opened, lambda v: softmax(v[ANSWER])), "output", "softmax twice"),
    "no temperature": (lambda p: whole_photos(p, opened, of_logits(*MODELS)), "temperature", "not calibrated"),
    "one fold": (
        lambda p: whole_photos(p, opened, of_logits(*MODELS[:2])),
        "models",
        "fold 0 alone + not calibrated",
    ),
    "one model about one view": (
        lambda p: whole_photos(p, opened, of_logits(MODELS[3], views=slice(1))),
        "models",
        "fold 1 alone + epoch 2 alone + view plain alone + not calibrated",
    ),
    "a view left out": (
        lambda p: whole_photos(p, opened, of_logits(*MODELS, views=slice(1))),
        "views",
        "view plain alone + not calibrated",
    ),
    "classes sorted otherwise": (
        lambda p: np.asarray(p.proof.probabilities_NC)[:, [2, 0, 1, 3]],
        "class order",
        "class order",
    ),
    "rounded": (lambda p: np.round(p.proof.probabilities_NC.astype(np.float64), 2), "output", "rounded"),
    "BGR and one fold": (
        lambda p: whole_photos(p, swapped, of_logits(*MODELS[:2])),
        "channel order",
        "BGR + fold 0 alone + not calibrated",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_named(proved: Proved, name: str) -> None:
    answers, stage, faults = CASES[name]
    found = diagnose(answers(proved).astype(np.float64), proved.proof, proved.stages.between, proved.planted)
    assert found is not None, "nothing was recognised"
    assert " + ".join(fault.name for fault in found.faults) == faults, (found.left, found.other)
    assert found.faults[0].stage == stage
    assert all(fault.words and fault.remedy for fault in found.faults)


def test_answers_that_come_from_nothing_known_are_told_as_such(proved: Proved) -> None:
    random = np.random.default_rng(0)
    theirs = random.dirichlet(np.ones(4), len(proved.proof.shots))
    assert diagnose(theirs, proved.proof, proved.stages.between, proved.planted) is None


def test_what_another_decoder_rounds_is_no_fault(proved: Proved) -> None:
    """One level up or down in a JPEG moves no answer beyond its tolerance."""
    random = np.random.default_rng(7)
    for shot, own_C in zip(proved.proof.shots, proved.proof.probabilities_NC, strict=True):
        pixels = np.asarray(opened(shot.content)).astype(int)
        if shot.name.endswith(".jpg"):
            pixels = pixels + random.integers(-1, 2, pixels.shape)
        theirs_C = proved.stages.run(pixels.clip(0, 255).astype(np.uint8))[ANSWER]
        assert np.abs(theirs_C - own_C).max() <= shot.tolerance


def test_logits_are_the_answer_by_the_steps_of_the_proof(proved: Proved) -> None:
    assert proved.proof.steps is not None
    again = proved.proof.steps.answer(proved.proof.logits, proved.stages.between)
    np.testing.assert_allclose(again, proved.proof.probabilities_NC, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda p: p * 100, "per cent"),
        (np.log, "logarithms"),
        (lambda p: np.log(p) + 3, "logits"),
        (lambda p: p / (p + 0.4), "sigmoid"),
        (lambda p: np.eye(3)[p.argmax(1)], "labels alone"),
    ],
)
def test_other_forms_of_answers_are_understood(change: Callable[[np.ndarray], np.ndarray], name: str) -> None:
    p_NC = np.random.default_rng(1).dirichlet(np.ones(3), 5)
    found, form = as_probabilities(change(p_NC))
    assert form is not None and form.name == name
    if name != "labels alone":
        np.testing.assert_allclose(found, p_NC, atol=1e-6)
    assert as_probabilities(p_NC)[1] is None


def test_columns_that_nobody_can_tell_apart_stay() -> None:
    ours = np.array([[0.5, 0.25, 0.25], [0.6, 0.2, 0.2]])
    tolerance = np.full(2, 1e-3)
    assert in_another_order(ours, ours, tolerance) is None
    assert in_another_order(ours[:, [1, 0, 2]], ours, tolerance) == [1, 0, 2]
    assert in_another_order(ours[::-1], ours, tolerance) is None


def test_a_diagnosis_says_what_other_faults_would_answer_alike(proved: Proved) -> None:
    """With mean and std alike, values that are not divided come out nearly as if they were not normalised either."""
    heard, fault = proved.planted[0]
    twin = dataclasses.replace(fault, name="its twin")
    both: list[Any] = [(heard, fault), (heard, twin)]
    found = diagnose(heard.answers_NC, proved.proof, proved.stages.between, both)
    assert found is not None and found.exact and {found.faults[0].name, *found.other} == {fault.name, "its twin"}
