"""Right first: what the GPU makes is what the CPU makes, at real sizes and under load. A row a check, with the largest
difference seen and the one that is allowed.

The definition is the CPU's path, which the tests hold to the plain torch reference on every machine.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.augment.mix import MixedLabels
from engine.augment.policy import Policy
from engine.bench.envelope import Row
from engine.bench.photos import photos
from engine.decode.choose import decoder_for
from engine.decode.decoder import Opened, Pixels
from engine.kernels import Ragged, one_pass
from engine.kernels.files import Content
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.source import Files
from engine.model.runtime import Runtime
from engine.quarantine import Fault
from engine.recipe.load import parse_recipe
from engine.recipe.sections import DecodeSection, Recipe
from engine.recipe.sections.augment import AugmentSection, MixSection
from engine.training.learner import Learner
from gpu_parts.context import DEVICE, Context
from gpu_parts.passes import FULL, MEAN, STD

HOST = torch.device("cpu")
MIX = MixSection(mixup=0.2, cutmix=1.0, p=0.5)
EXTRAS = dict.fromkeys(("blur", "motion", "noise", "jpeg", "clahe", "equalize", "elastic"), 0.15)
CLASSES = 10
_LEVEL = 1 / 255 / min(STD)  # one of 256 levels, after normalising


class Found(NamedTuple):
    """The largest difference, how much is allowed, and what was compared."""

    worst: float
    allowed: float
    words: str = ""


def run(context: Context) -> Iterator[Row]:
    """A row a check; one that raises is a failed one and stops no other."""
    for name, check in CHECKS.items():
        began = time.perf_counter()
        try:
            found = check(context)
            row: Row = {"ok": found.worst <= found.allowed, **found._asdict()}
        except Exception as error:
            row = {"ok": False, "worst": None, "allowed": None, "words": f"{type(error).__name__}: {error}"[:500]}
        yield {"check": name, **row, "seconds": round(time.perf_counter() - began, 2)}


# --- the pass ---------------------------------------------------------------------------------------------------------


def pass_on_every_size(context: Context) -> Found:
    """Triton's answers against the C++ kernel's, photos up to 12 megapixels, every operation on."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randint(0, 256, (context.few(3000, 90), context.few(4000, 120), 3), generator=generator)
    images = [*(photo.cpu() for photo in context.photos(context.few(15, 3))), large.to(torch.uint8)]
    policy = Policy(AugmentSection.model_validate(FULL), MEAN, STD)
    sizes_B2 = torch.tensor([image.shape[:2] for image in images], dtype=torch.int32)
    there, here = Ragged([image.to(DEVICE) for image in images]), Ragged(images)
    worst = 0.0
    for size, _ in context.stages:
        plan = policy.draw(torch.arange(len(images)), sizes_B2, size, size, seed=1, epoch=size, mix=MIX)
        worst = max(worst, _apart(one_pass(there, plan), one_pass(here, plan)))
    return Found(worst, 1e-3 / min(STD) * 2, "the pass, normalised values")


# --- batches ----------------------------------------------------------------------------------------------------------


def batches_with_and_without_extras(context: Context) -> Found:
    """Training batches with mixing on the GPU against the CPU's, decoded on the CPU in both."""
    worst, section = 0.0, DecodeSection(device="cpu")
    for extras in (False, True):
        mine, theirs = ([*_batches(context, device, section, extras)] for device in (DEVICE, HOST))
        for (images, labels), (their_images, their_labels) in zip(mine, theirs, strict=True):
            # Extras end in 8 bits: a value at the edge of two levels goes either way, and colours may double it.
            apart_N = (images - their_images).abs().flatten()
            worst = max(worst, float(apart_N.kthvalue(int(len(apart_N) * 0.999)).values))
            worst = max(worst, *(_apart(a, b) for a, b in zip(labels, their_labels, strict=True)))
    return Found(worst, 4 * _LEVEL, "999 of 1,000 normalised values, and all labels")


def decoding_on_the_gpu(context: Context) -> Found:
    """DALI's pixels on the GPU against libjpeg-turbo's: decoders differ by a level or two, on average by less."""
    opened, contents = _opened(context, context.few(64, 4))
    mine = decoder_for(DecodeSection(device="gpu"), DEVICE).pixels(opened)
    theirs = decoder_for(DecodeSection(device="cpu"), HOST).pixels(opened)
    worst = 0.0
    for one, other in zip(mine, theirs, strict=True):
        assert isinstance(one, Pixels) and isinstance(other, Pixels), (one, other)
        worst = max(worst, float((one.pixels_HW3.cpu().int() - other.pixels_HW3.int()).abs().float().mean()))
    return Found(worst, 2.0, f"mean difference in levels of the worst of {len(contents)} photos")


def dali_on_the_cpu_beside_a_gpu(context: Context) -> Found:
    """Where a GPU is there, DALI pins what it decodes on the CPU."""
    opened, _ = _opened(context, context.few(16, 4))
    section = DecodeSection(device="cpu", decoder="dali")
    found = [*_batches(context, DEVICE, section)]
    again = [*_batches(context, DEVICE, section)]
    return Found(max(_apart(a[0], b[0]) for a, b in zip(found, again, strict=True)), 0.0, f"{len(opened)} files, twice")


def bad_files(context: Context) -> Found:
    """What is no picture, or no plain JPEG, has the same verdict as on the CPU."""
    contents = [_encoded("PNG"), _encoded("JPEG", "CMYK"), _encoded("WEBP"), b"text", b"\xff\xd8\xff\xe0", b""]
    contents.append(_encoded("JPEG")[:-200])
    verdicts = []
    for section, device in ((DecodeSection(device="gpu"), DEVICE), (DecodeSection(device="cpu"), HOST)):
        decoder = decoder_for(section, device)
        opened = decoder.open([content or b"\0" for content in contents])
        good = [one for one in opened if isinstance(one, Opened)]
        pixels = iter(decoder.pixels(good))
        verdicts.append([_verdict(one if isinstance(one, Fault) else next(pixels)) for one in opened])
    return Found(float(sum(a != b for a, b in zip(*verdicts, strict=True))), 0.0, f"verdicts: {verdicts[0]}")


def streams_under_load(context: Context) -> Found:
    """Batches while the GPU is far behind its host are the bits of those that were waited for one by one."""
    section = DecodeSection(device="auto")
    waited = [float(images.double().sum()) for images, _ in _batches(context, DEVICE, section, extras=True)]
    burden = torch.randn(context.few(4096, 8), context.few(4096, 8), device=DEVICE)
    sums: list[Tensor] = []
    for batch in _running(context, DEVICE, section, extras=True):
        for _ in range(context.few(40)):
            burden = (burden @ burden).tanh_()
        sums.append(batch.images_BCHW.double().sum())
    loaded = [float(one) for one in sums]
    return Found(max(abs(a - b) for a, b in zip(waited, loaded, strict=True)), 0.0, f"sums of {len(sums)} batches")


def no_step_waits(context: Context) -> Found:
    """An epoch's steps with torch told to raise wherever the host waits for the GPU."""
    learner, waits = _learner(context, {}), 0
    steps = _running(context, DEVICE, DecodeSection(device="auto"), extras=True)
    with closing(steps):
        learner.take_step(next(steps))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in steps:
                learner.take_step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Found(float(waits), 0.0, "torch.cuda.set_sync_debug_mode raised nothing")


def memory_stays(context: Context) -> Found:
    """An epoch more takes no more memory of torch's on the device."""
    section = DecodeSection(device="auto")
    for _ in range(2):
        _ = [images.shape for images, _ in _batches(context, DEVICE, section, extras=True)]
    before = torch.cuda.memory_reserved()
    for _ in range(context.few(4, 1)):
        _ = [images.shape for images, _ in _batches(context, DEVICE, section, extras=True)]
    return Found(float(torch.cuda.memory_reserved() - before), float(2 << 20), "bytes that torch reserved more")


# --- steps ------------------------------------------------------------------------------------------------------------


def compiled_step(context: Context) -> Found:
    """Losses of three steps in fp32, compiled and not."""
    if context.rehearsed:
        return Found(0.0, 0.0, "not tried on a double, which torch.compile does not see")
    return _as_by_default(context, {"train.compile": "on"}, 1e-3)


def fused_norms(context: Context) -> Found:
    """Losses of three steps in fp32 with the norms, GELU and LayerScale of ConvNeXt in kernels of our own."""
    return _as_by_default(context, {"model.fused": "norm"}, 1e-3)


def fused_depthwise(context: Context) -> Found:
    """The same with the depthwise convolutions in ours."""
    return _as_by_default(context, {"model.fused": "depthwise"}, 1e-3)


def cuda_graphs(context: Context) -> Found:
    """The same with the step recorded and launched as one graph."""
    if context.rehearsed:
        return Found(0.0, 0.0, "not tried on a double, which records nothing")
    return _as_by_default(context, {"train.cuda_graphs": True}, 1e-4)


def activations_computed_again(context: Context) -> Found:
    """The same with the backbone's activations computed again for the gradients."""
    return _as_by_default(context, {"stage.0.checkpoint_activations": True}, 1e-5)


def bf16_weights(context: Context) -> Found:
    """Losses with a bf16 copy of the weights beside those of autocast: both round, at other places."""
    if context.rehearsed:
        return Found(0.0, 0.0, "not tried on a double, which has no bf16")
    found = [_losses(context, {"train.precision": name}) for name in ("bf16", "bf16_weights")]
    return Found(max(abs(a - b) for a, b in zip(*found, strict=True)), 0.1, f"losses {found[1]}")


def _as_by_default(context: Context, sets: dict[str, Any], allowed: float) -> Found:
    found = [_losses(context, own) for own in ({}, sets)]
    return Found(max(abs(a - b) for a, b in zip(*found, strict=True)), allowed, f"losses {found[1]}")


def _losses(context: Context, sets: dict[str, Any]) -> list[float]:
    learner = _learner(context, sets)
    count, size = context.few(16, 4), context.stages[0][0]
    generator = torch.Generator().manual_seed(1)
    images_BCHW = torch.randn(count, 3, size, size, generator=generator).to(DEVICE)
    images_BCHW = images_BCHW.to(memory_format=torch.channels_last, dtype=learner.runtime.dtype)
    labels_B = torch.arange(count).to(DEVICE) % CLASSES
    batch = Batch(
        images_BCHW, MixedLabels(labels_B, labels_B.flip(0), torch.full((count,), 0.7).to(DEVICE)), np.arange(count)
    )
    return [round(float(learner.take_step(batch)), 6) for _ in range(3)]


def recipe_of(context: Context, sets: dict[str, Any]) -> Recipe:
    """The model of the suite without chance in it, in fp32 and not compiled; then `sets`."""
    values = {
        "model": {"backbone": context.backbone, "pretrained": False},
        "train": {"precision": "fp32", "compile": "off"},
        "stage": [{"size": context.stages[0][0], "batch": 16, "epochs": 1, "lr": 1e-4}],
    }
    words = [f"{key}={json.dumps(value)}" for key, value in sets.items()]
    return parse_recipe(values, tuple(words), "the suite")


def _learner(context: Context, sets: dict[str, Any]) -> Learner:
    recipe = recipe_of(context, sets)
    torch.manual_seed(0)
    stage = recipe.stage[0]
    learner = Learner(recipe.model, recipe.train, CLASSES, stage.size, Runtime.of(recipe.train, DEVICE))
    learner.begin_stage(stage)
    learner.begin_epoch(stage, 0)
    learner.set_rate(stage.lr)
    return learner


# --- what the checks share --------------------------------------------------------------------------------------------


def _samples(context: Context) -> Samples:
    paths = photos(count=context.few(256, 16))
    rows_N = np.arange(len(paths))
    return Samples(paths, Files(paths), rows_N * 7919, rows_N % CLASSES)


def _running(
    context: Context, device: torch.device, section: DecodeSection, extras: bool = False
) -> Generator[Batch, None, None]:
    samples = _samples(context)
    size, _ = context.stages[0]
    of = FULL | ({"extras": {"most": 2, **EXTRAS}} if extras else {})
    policy = Policy(AugmentSection.model_validate(of), MEAN, STD)
    batches = np.split(np.arange(len(samples.ids)), len(samples.ids) // context.few(32, 4))
    return Loader(samples, section, device).train(batches, policy, Epoch(0, 0, size, size, MIX))


def _batches(
    context: Context, device: torch.device, section: DecodeSection, extras: bool = False
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Images and labels of an epoch's batches, on the host."""
    running = _running(context, device, section, extras)
    with closing(running):
        for batch in running:
            assert isinstance(batch.labels, MixedLabels)
            # Copies: the memory is used again for the next batch.
            yield batch.images_BCHW.cpu().float().clone(), [one.cpu().float().clone() for one in batch.labels]


def _opened(context: Context, count: int) -> tuple[list[Opened], list[Content]]:
    source = Files(photos(count=count))
    contents = [content for content in source.read(np.arange(count)) if not isinstance(content, Fault)]
    assert len(contents) == count, "the photos drawn for the suite cannot be read"
    opened = decoder_for(DecodeSection(device="cpu"), HOST).open(contents)
    return [one for one in opened if isinstance(one, Opened)], contents


def _encoded(kind: str, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).convert(mode).save(stream, kind)
    return stream.getvalue()


def _verdict(answer: Pixels | Fault) -> str:
    if isinstance(answer, Fault):
        return str(answer.kind)
    return f"{answer.height} x {answer.width}"


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one.float().cpu() - other.float().cpu()).abs().max())


CHECKS: dict[str, Callable[[Context], Found]] = {
    check.__name__.replace("_", " "): check
    for check in (
        pass_on_every_size,
        batches_with_and_without_extras,
        decoding_on_the_gpu,
        dali_on_the_cpu_beside_a_gpu,
        bad_files,
        streams_under_load,
        no_step_waits,
        memory_stays,
        fused_norms,
        fused_depthwise,
        activations_computed_again,
        bf16_weights,
        cuda_graphs,
        compiled_step,
    )
}
