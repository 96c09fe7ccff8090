"""The way to a GPU, on a double of one (tests/fake_cuda.py): nobody waits, and no memory is used again too early."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.decode import choose
from engine.kernels import Ragged, jpeg
from engine.kernels.extras import STAGES
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.neighbourhood import apply_extras
from engine.loader.source import Memory
from engine.quarantine import Fault, FaultKind
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.augment import AugmentSection, MixSection

from ..fake_cuda import DEVICE, FakeCuda, LendingDecoder

HOST = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
BATCHES = [np.arange(start, start + 4) for start in range(0, 24, 4)]
EPOCH = Epoch(0, 0, 32, 32, MixSection(mixup=0.2, cutmix=1.0, p=0.7))
EXTRAS = ("blur", "motion", "noise", "jpeg", "clahe", "equalize", "elastic")


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    with FakeCuda() as double:
        yield double


@pytest.fixture(params=["gpu", "cpu"])
def section(request: pytest.FixtureRequest, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> DecodeSection:
    """Decoding on the GPU, into memory that is the decoder's, and on the CPU, into slabs."""
    if request.param == "cpu" and not jpeg.available():
        pytest.skip(jpeg.why_not())
    monkeypatch.setattr(choose, "DaliDecoder", lambda *_: LendingDecoder(gpu))
    return DecodeSection(device=request.param, threads=2)


@pytest.fixture
def samples(scene: Callable[..., Image.Image]) -> Samples:
    """24 JPEGs of all sizes."""

    def encoded(number: int) -> bytes:
        stream = io.BytesIO()
        scene(number, 50 + number, 90 - number).save(stream, "JPEG", quality=95)
        return stream.getvalue()

    numbers = np.arange(24)
    return Samples([str(i) for i in numbers], Memory([encoded(i) for i in range(24)]), numbers * 7919, numbers % 3)


def policy(**extras: float) -> Policy:
    section = {"color": {"p": 1.0, "contrast": 0.4}, "affine": {"p": 0.5}, "erase": {"p": 0.5}, "extras": extras}
    return Policy(AugmentSection.model_validate(section), MEAN, STD)


def test_batches_are_those_of_the_cpu(gpu: FakeCuda, section: DecodeSection, samples: Samples) -> None:
    on_host = Loader(samples, DecodeSection(device="cpu", threads=2), HOST, executor="reference")
    on_gpu = Loader(samples, section, DEVICE)
    drawn = policy(most=1, blur=0.3, noise=0.3)
    for there, here in zip(on_gpu.train(BATCHES, drawn, EPOCH), on_host.train(BATCHES, drawn, EPOCH), strict=True):
        assert there.images_BCHW.device == there.labels.own_B.device == DEVICE
        for mine, expected in zip(there.labels, here.labels, strict=True):
            assert torch.equal(mine.cpu(), expected)
        # The double's decoder is another one, and photos come whole.
        assert (there.images_BCHW.cpu() - here.images_BCHW).abs().mean() < 0.03


def test_a_step_waits_for_nothing_and_uploads_little(gpu: FakeCuda, section: DecodeSection, samples: Samples) -> None:
    with closing(Loader(samples, section, DEVICE).train(BATCHES, policy(), EPOCH)) as running:
        next(running)
        gpu.clear()
        for _ in range(4):
            next(running)
        assert not gpu.waits_here and not gpu.blocking_uploads and not gpu.pageable_uploads
        here = [one for one in gpu.uploads if one.stream == gpu.default_stream.number]
        assert len(here) == 4  # a plan with its labels and the pass's table
        assert len(gpu.uploads) <= 4 * 2 + 2  # the pixels, a batch or two ahead
        assert gpu.launches == {"look": 4, "pass": 4}


@pytest.mark.parametrize("most", [1, 2])
def test_extras_wait_for_nothing_and_keep_to_their_launches(
    gpu: FakeCuda, section: DecodeSection, samples: Samples, most: int
) -> None:
    drawn = policy(most=most, **dict.fromkeys(EXTRAS, 0.4))
    with closing(Loader(samples, section, DEVICE).train(BATCHES * 2, drawn, EPOCH)) as running:
        next(running)
        gpu.clear()
        for _ in islice(running, 5):
            pass
        assert not gpu.waits_here and not gpu.blocking_uploads and not gpu.pageable_uploads
        here = [one for one in gpu.uploads if one.stream == gpu.default_stream.number]
        assert len(here) == 5  # as without extras
        assert set(gpu.launches) <= {"look", "pass", "count", "table", "shift", "smooth", "change", "chroma", "block"}
        assert gpu.launches["change"] > 0 and gpu.launches["block"] > 0
        assert gpu.launches.total() <= 5 * (3 + most * STAGES)


def test_extras_by_themselves_are_one_copy(gpu: FakeCuda, pictures: Ragged) -> None:
    """As offline copies ask for them; who drew none keeps his memory."""
    policies = policy(most=2, **dict.fromkeys(EXTRAS, 0.15))
    keys = torch.arange(len(pictures)) * 104_729
    plan, extras = policies.draw(keys, pictures.sizes_B2, 24, 24, 2, 1), policies.extras(keys, 2, 1)
    assert extras is not None
    expected, _ = apply_extras(extras, pictures, plan, "reference")
    there = Ragged([image.to(DEVICE) for image in pictures.tensors])
    gpu.clear()
    changed, _ = apply_extras(extras, there, plan)
    assert len(gpu.uploads) == 1 and not gpu.blocking_uploads and not gpu.waits
    drew_N = extras.op_BE.any(1).tolist()
    assert 0 < sum(drew_N) < len(drew_N)
    for drew, image, before, other in zip(drew_N, changed.tensors, there.tensors, expected.tensors, strict=True):
        assert drew or image is before
        # The double warps by another executor than the one that was asked for.
        assert (image.cpu().float() - other.float()).abs().mean() < 0.5


def test_memory_is_the_gpus_until_it_has_read_it(gpu: FakeCuda, section: DecodeSection, samples: Samples) -> None:
    """To the end, closed early, with an error, in validation, by views: the double would tell."""
    loader = Loader(samples, section, DEVICE)
    contract = Contract(32, 32, MEAN, STD)
    for start in (
        lambda: loader.train(BATCHES, policy(), EPOCH),
        lambda: loader.train(BATCHES, policy(most=1, blur=0.5), EPOCH),
        lambda: loader.valid(BATCHES, contract),
        lambda: (loader.augment(photos, policy(), EPOCH) for photos in loader.photos(BATCHES)),
    ):
        for taken in (len(BATCHES), 2, 0):
            read(start(), taken)
            gpu.finish()
    with pytest.raises(ZeroDivisionError), closing(loader.train(BATCHES, policy(), EPOCH)) as running:
        for batch in running:
            batch.images_BCHW.sum()
            raise ZeroDivisionError
    gpu.finish()


def test_two_streams_of_a_loader_at_once(gpu: FakeCuda, section: DecodeSection, samples: Samples) -> None:
    """The next epoch's batches are made while this one's is scored."""
    loader = Loader(samples, section, DEVICE)
    contract = Contract(32, 32, MEAN, STD)
    for _ in range(2):
        ahead = loader.train(BATCHES, policy(), EPOCH)
        read(loader.valid(BATCHES, contract), len(BATCHES))
        read(ahead, len(BATCHES))
    assert loader._supply.room.taken == 0


def test_an_error_in_the_decoding_thread_leaves_nothing_taken(
    gpu: FakeCuda, section: DecodeSection, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(samples, section, DEVICE)
    monkeypatch.setattr("engine.loader.stream.Decoded.of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(loader.train(BATCHES, policy(), EPOCH))
    assert loader._supply.room.taken == 0


def test_pictures_beside_the_slab_come_along(gpu: FakeCuda, section: DecodeSection, samples: Samples) -> None:
    """A PNG among JPEGs is decoded by another decoder, into memory of its own."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(samples.source.contents[1])).save(stream, "PNG")  # type: ignore[attr-defined]
    contents = list(samples.source.contents)  # type: ignore[attr-defined]
    contents[2] = stream.getvalue()
    contents[3] = Fault(FaultKind.UNREADABLE, "is gone")
    changed = Samples(samples.ids, Memory(contents), samples.keys_N, samples.labels_N)
    with closing(Loader(changed, section, DEVICE).photos([np.arange(4)])) as running:
        (photos,) = running
        one, other = (photos.images.tensors[i].cpu().float() for i in (1, 2))
        assert photos.rows_B.tolist() == [0, 1, 2] and one.shape == other.shape
        assert (one - other).abs().mean() < 1
    assert not gpu.pageable_uploads


def read(running: Iterator[Batch], count: int) -> None:
    """Look at so many batches as a model does, and close."""
    with closing(running):  # type: ignore[type-var]
        for batch in islice(running, count):
            batch.images_BCHW.mean(dim=1)
