"""The way to a GPU, on a double of one (tests/fake_cuda.py): nobody waits, and no memory is used again too early."""

from __future__ import annotations

import dataclasses
import io
import time
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
        # All that the pass reads but pixels in one copy, and the pixels, of a batch or two more or less: all beside the
        # model.
        assert 2 <= len(gpu.uploads) <= 2 * 6
        assert all(one.stream != gpu.default_stream.number for one in gpu.uploads)
        assert set(gpu.launches) == {"prepare", "pass"} and not gpu.on_default_stream


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
        made = gpu.launches["prepare"] // 2  # batches, the one or two among them that are ahead: extras, pass
        assert 5 - 2 <= made <= 5 + 2
        assert len(gpu.uploads) <= 2 * (made + 2)  # as without extras
        assert not gpu.on_default_stream
        assert set(gpu.launches) <= {
            "prepare",
            "pass",
            "count",
            "table",
            "shift",
            "smooth",
            "change",
            "chroma",
            "block",
        }
        assert gpu.launches["change"] > 0 and gpu.launches["block"] > 0
        assert gpu.launches.total() <= (made + 1) * (3 + most * STAGES)


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


def test_finished_batches_go_round_and_stay_until_the_next_is_asked_for(
    gpu: FakeCuda, section: DecodeSection, samples: Samples
) -> None:
    """The model's kernels never end by themselves here: what writes into a buffer again must be queued behind them."""
    loader = Loader(samples, section, DEVICE)
    buffers: list[set[int]] = [set(), set(), set()]
    for own in buffers:
        with closing(loader.train(BATCHES * 3, policy(), EPOCH)) as running:
            for batch in running:
                before = batch.images_BCHW.cpu()
                batch.images_BCHW.mean(dim=1)
                batch.labels.own_B + 1
                own.add(batch.images_BCHW.data_ptr())
                time.sleep(0.002)
                assert torch.equal(batch.images_BCHW.cpu(), before)
    assert all(1 < len(own) <= section.prefetch + 3 for own in buffers) and len(set.union(*buffers)) <= 6
    gpu.finish()
    assert loader._supply.room.taken == 0


def test_answers_may_be_kept_and_let_go_of_while_the_model_still_reads(
    gpu: FakeCuda, section: DecodeSection, samples: Samples
) -> None:
    loader = Loader(samples, section, DEVICE)
    kept = []
    for batch in loader.train(BATCHES * 2, policy(), EPOCH):
        kept.append(batch.labels)
        for labels in kept:
            labels.own_B * 2
        kept = kept[-2:]
    gpu.finish()


@pytest.mark.parametrize("bad", [[0], [5], [2, 3], [0, 1, 4, 5], [0, 1, 2, 3, 4, 5]])
def test_bad_batches_are_filled_as_on_the_cpu(
    gpu: FakeCuda, section: DecodeSection, samples: Samples, bad: list[int]
) -> None:
    gone = Fault(FaultKind.UNREADABLE, "is gone")
    contents = list(samples.source.contents)  # type: ignore[attr-defined]
    for row in (9, *(row for number in bad for row in BATCHES[number])):
        contents[row] = gone
    changed = dataclasses.replace(samples, source=Memory(contents))
    there, here = Loader(changed, section, DEVICE), Loader(changed, DecodeSection(device="cpu", threads=1), HOST)
    contract = Contract(32, 32, MEAN, STD)
    for start in (
        lambda loader: loader.train(BATCHES, policy(), EPOCH),
        lambda loader: loader.valid(BATCHES, contract),
    ):
        found = [batch.rows_B.tolist() for batch in start(there)]
        assert found == [batch.rows_B.tolist() for batch in start(here)]
    assert [*there.quarantine.values()] == [*here.quarantine.values()] and len(there.quarantine)
    assert there._supply.room.taken == 0


def test_the_ring_counts_among_what_may_be_made_ahead(gpu: FakeCuda, section: DecodeSection, samples: Samples) -> None:
    """One MiB holds one batch of 4 x 192 x 192 pixels in float32 and not two."""
    tight = section.model_copy(update={"prefetch": 8, "prefetch_mb": 1})
    loader = Loader(samples, tight, DEVICE)
    large = dataclasses.replace(EPOCH, height=192, width=192)
    most = 0
    with closing(loader.train(BATCHES, policy(), large)) as running:
        for _ in running:
            time.sleep(0.05)
            most = max(most, loader._supply.room.taken)
    one = 4 * 3 * 192 * 192 * 4
    assert one < most < 3 * one


def read(running: Iterator[Batch], count: int) -> None:
    """Look at so many batches as a model does, and close."""
    with closing(running):  # type: ignore[type-var]
        for batch in islice(running, count):
            batch.images_BCHW.mean(dim=1)
