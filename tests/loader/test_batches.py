"""The loader: files to batches, the same whatever decodes them, whatever file is broken, and whoever stops early."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.augment.views import tta_views, view_plan
from engine.kernels import Plan, jpeg, one_pass
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.source import Files, Memory
from engine.quarantine import FaultKind
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.augment import (
    AffineSection,
    AugmentSection,
    ColorSection,
    CropSection,
    ExtrasSection,
    MixSection,
    RandomErasingSection,
)

MEAN, STD = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
HOST = torch.device("cpu")
EPOCH = Epoch(seed=3, number=1, height=48, width=40, mix=None)
SECTION = AugmentSection(
    crop=CropSection(scale=(0.2, 1.0)),
    affine=AffineSection(p=0.7),
    color=ColorSection(p=0.8),
    random_erasing=RandomErasingSection(p=0.5, fill="noise"),
)
turbo_only = pytest.mark.skipif(not jpeg.available(), reason=jpeg.why_not())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Samples]:
    """Write `count` photos of about `height` x `width` and hand out samples of them; labels are the row numbers."""

    def write(count: int, height: int = 90, width: int = 120) -> Samples:
        paths = []
        for i in range(count):
            coarse = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((width + i, height + 2 * i), Image.Resampling.BICUBIC)
            exif = Image.Exif()
            exif[0x0112] = 1 + i % 8
            paths.append(str(tmp_path / f"{i}.jpg"))
            image.save(paths[-1], quality=92, exif=exif)
        return samples_of(paths)

    return write


def samples_of(paths: Sequence[str]) -> Samples:
    """The id of a sample is "photo" and its row, its label the row."""
    ids = [f"photo{row}" for row in range(len(paths))]
    return Samples(ids, Files(paths), np.arange(len(paths)) * 7919, np.arange(len(paths)))


def path_of(samples: Samples, row: int) -> Path:
    return Path(samples.source.where(row))


def section(decoder: str = "auto") -> DecodeSection:
    return DecodeSection(device="cpu", decoder=decoder, threads=1)


def train(loader: Loader, batches: Sequence[Sequence[int]], policy: Policy, epoch: Epoch = EPOCH) -> list[Batch]:
    made = loader.train([np.array(rows) for rows in batches], policy, epoch)
    return [batch._replace(images_BCHW=batch.images_BCHW.clone()) for batch in made]


def colour_difference(one: Batch, other: Batch) -> float:
    """Mean absolute, of values 0 to 255."""
    return float((one.images_BCHW - other.images_BCHW).abs().mean()) * STD[0] * 255


@turbo_only
def test_both_decoders_make_the_same_batches(write: Callable[..., Samples]) -> None:
    samples, policy = write(12), Policy(SECTION, MEAN, STD)
    rows = [range(6), range(6, 12)]
    for turbo, dali in zip(
        train(Loader(samples, section("turbo"), HOST), rows, policy),
        train(Loader(samples, section("dali"), HOST), rows, policy),
        strict=True,
    ):
        assert turbo.rows_B.tolist() == dali.rows_B.tolist()
        assert colour_difference(turbo, dali) < 0.5


@turbo_only
@pytest.mark.parametrize("size", [(500, 700), (1100, 800)])
def test_a_large_photo_decoded_smaller_makes_nearly_the_same_batch(
    write: Callable[..., Samples], size: tuple[int, int]
) -> None:
    samples, policy = write(4, *size), Policy(SECTION, MEAN, STD)
    (turbo,) = train(Loader(samples, section("turbo"), HOST), [range(4)], policy)
    (dali,) = train(Loader(samples, section("dali"), HOST), [range(4)], policy)
    assert colour_difference(turbo, dali) < 1.0


@turbo_only
def test_fast_decoding_is_for_training_and_leaves_what_is_scored_exact(write: Callable[..., Samples]) -> None:
    samples, policy = write(4), Policy(SECTION, MEAN, STD)
    contract = Contract(48, 40, MEAN, STD, fit="letterbox")
    exact, fast = (
        Loader(samples, section("turbo").model_copy(update={"fast": switch}), HOST) for switch in ("off", "on")
    )
    (one,), (other,) = (train(loader, [[0, 1, 2, 3]], policy) for loader in (exact, fast))
    assert 0 < colour_difference(one, other) < 4
    (one,), (other,) = (list(loader.valid([np.arange(4)], contract)) for loader in (exact, fast))
    assert torch.equal(one.images_BCHW, other.images_BCHW)


def test_a_sample_looks_the_same_in_any_batch(write: Callable[..., Samples]) -> None:
    loader, policy = Loader(write(6), section(), HOST), Policy(SECTION, MEAN, STD)
    together = train(loader, [range(6)], policy)[0]
    apart = train(loader, [[4, 1], [3, 5], [2, 0]], policy)
    for batch in apart:
        for image, row in zip(batch.images_BCHW, batch.rows_B, strict=True):
            assert torch.allclose(image, together.images_BCHW[row], atol=1e-4)
    other_epoch = train(loader, [range(6)], policy, dataclasses.replace(EPOCH, number=2))[0]
    assert colour_difference(together, other_epoch) > 5


def test_batches_are_channels_last_of_the_epoch_size_in_memory_that_is_used_again(
    write: Callable[..., Samples],
) -> None:
    loader = Loader(write(4), section(), HOST, dtype=torch.bfloat16)
    seen = set()
    for batch in loader.train([np.arange(4)] * 5, Policy(SECTION, MEAN, STD), EPOCH):
        assert batch.images_BCHW.shape == (4, 3, 48, 40) and batch.images_BCHW.dtype == torch.bfloat16
        assert batch.images_BCHW.is_contiguous(memory_format=torch.channels_last)
        seen.add(batch.images_BCHW.data_ptr())
    assert len(seen) == 1


def test_mixing_names_both_partners_and_their_shares(write: Callable[..., Samples]) -> None:
    samples = write(8)
    mix = MixSection(mixup=0.4, cutmix=1.0)
    policy = Policy(AugmentSection(), MEAN, STD)
    (plain,) = train(Loader(samples, section(), HOST), [range(8)], policy)
    (mixed,) = train(Loader(samples, section(), HOST), [range(8)], policy, dataclasses.replace(EPOCH, mix=mix))
    assert torch.equal(plain.labels.own_B, plain.labels.partner_B)
    assert torch.equal(plain.labels.share_B, torch.ones(8))
    own_B, partner_B, share_B = mixed.labels
    assert own_B.tolist() == list(range(8)) and set(partner_B.tolist()) <= set(range(8))
    assert bool(((share_B >= 0) & (share_B <= 1)).all())
    changed = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(plain.images_BCHW, mixed.images_BCHW, strict=True)]
    expected = [o != p and s < 1 for o, p, s in zip(*mixed.labels, strict=True)]
    assert changed == expected and any(changed)


@pytest.mark.parametrize("decoder", ["dali", pytest.param("turbo", marks=turbo_only)])
def test_a_bad_file_changes_no_shape_in_training_and_is_missing_in_validation(
    write: Callable[..., Samples], decoder: str
) -> None:
    samples = write(6)
    path_of(samples, 2).write_bytes(b"no image")
    path_of(samples, 4).unlink()
    for row in (0, 1):
        path_of(samples, row).write_bytes(b"")
    loader = Loader(samples, section(decoder), HOST)
    batches = [np.array([0, 1]), np.array([2, 3, 4, 5]), np.array([1, 0, 2])]
    made = train(loader, batches, Policy(SECTION, MEAN, STD))
    assert [batch.rows_B.tolist() for batch in made] == [[3, 5], [3, 5, 3, 5], [3, 5, 3]]
    assert [batch.labels.own_B.tolist() for batch in made] == [[3, 5], [3, 5, 3, 5], [3, 5, 3]]
    kinds = {id_: entry.fault.kind for id_, entry in loader.quarantine.items()}
    empty, missing, other = FaultKind.EMPTY, FaultKind.UNREADABLE, FaultKind.NOT_AN_IMAGE
    assert kinds == {"photo0": empty, "photo1": empty, "photo2": other, "photo4": missing}
    assert str(loader.quarantine["photo0"]) == f"{path_of(samples, 0)}: is empty (0 bytes)"
    (scored,) = loader.valid(batches, Contract(32, 32, MEAN, STD))
    assert scored.rows_B.tolist() == [3, 5] and scored.images_BCHW.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("decoder", ["dali", pytest.param("turbo", marks=turbo_only)])
def test_a_file_that_is_damaged_behind_its_header_is_as_if_it_were_not_there(
    write: Callable[..., Samples], decoder: str
) -> None:
    """It is met when the plan is drawn already: the plan that counts is of the images that are there."""
    samples, policy = write(6), Policy(SECTION, MEAN, STD)
    epoch = dataclasses.replace(EPOCH, mix=MixSection(mixup=0.4, cutmix=1.0))
    whole = path_of(samples, 3).read_bytes()
    made = []
    for content in (whole[: len(whole) // 2], b"no image"):
        path_of(samples, 3).write_bytes(content)
        loader = Loader(samples, section(decoder), HOST)
        made.append(train(loader, [range(6), [3, 3], [3]], policy, epoch))
        (scored,) = loader.valid([np.arange(6)], Contract(32, 32, MEAN, STD))
        assert scored.rows_B.tolist() == [0, 1, 2, 4, 5]
        assert list(loader.quarantine) == ["photo3"]
    assert [batch.rows_B.tolist() for batch in made[0]] == [[0, 1, 2, 4, 5, 0], [0, 1], [0]]
    for damaged, missing in zip(*made, strict=True):
        assert torch.equal(damaged.images_BCHW, missing.images_BCHW)
        for one, other in zip(damaged.labels, missing.labels, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("decoder", ["dali", pytest.param("turbo", marks=turbo_only)])
def test_the_plan_of_a_batch_is_drawn_once_whatever_formats_are_in_it(
    write: Callable[..., Samples], tmp_path: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpegs = write(6)
    for row, suffix in ((1, "png"), (4, "webp"), (5, "bmp")):
        with Image.open(path_of(jpegs, row)) as image:
            image.save(tmp_path / f"{row}.{suffix}")
    files = [tmp_path / name for name in ("0.jpg", "1.png", "2.jpg", "3.jpg", "4.webp", "5.bmp")]
    samples = samples_of([str(path) for path in files])
    drawn = []
    draw = Policy.draw

    def counted(self: Policy, *args: object, **options: object) -> Plan:
        drawn.append(threading.current_thread().name)
        return draw(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Policy, "draw", counted)
    epoch = dataclasses.replace(EPOCH, mix=MixSection(mixup=0.4, cutmix=1.0))
    made = train(Loader(samples, section(decoder), HOST), [range(6), [5, 0], [1]], Policy(SECTION, MEAN, STD), epoch)
    assert [len(batch.rows_B) for batch in made] == [6, 2, 1]
    assert drawn == ["decode"] * 3, "and while the batch is decoded, not when it is asked for"


@pytest.mark.parametrize("fit", ["letterbox", "center", "stretch"])
def test_what_is_scored_is_what_is_served(write: Callable[..., Samples], fit: str) -> None:
    """Several views are made of whole photos; scoring by one may leave out what it does not show, and nothing else."""
    samples = write(8, 200, 310)
    contract = Contract(64, 64, MEAN, STD, fit=fit)
    loader = Loader(samples, section(), HOST)
    (whole,) = loader.photos([np.arange(8)])
    assert whole.frame_B5 is None
    for view in tta_views(4):
        served_BCHW = one_pass(whole.images, view_plan(view, contract, whole.images.sizes_B2, HOST))
        (scored,) = loader.valid([np.arange(8)], contract, view)
        assert torch.allclose(scored.images_BCHW, served_BCHW, atol=2e-3)


def test_photos_leave_out_what_cannot_be_decoded(write: Callable[..., Samples]) -> None:
    samples = write(4)
    path_of(samples, 1).write_bytes(b"")
    loader = Loader(samples, section(), HOST)
    found = [decoded.rows_B.tolist() for decoded in loader.photos([np.arange(2), np.array([1]), np.arange(2, 4)])]
    assert found == [[0], [2, 3]] and list(loader.quarantine) == ["photo1"]


def test_photos_in_memory_make_the_batches_that_their_files_make(write: Callable[..., Samples]) -> None:
    samples, policy = write(4), Policy(SECTION, MEAN, STD)
    contents = [path_of(samples, row).read_bytes() for row in range(4)]
    held = dataclasses.replace(samples, source=Memory([*contents[:3], b""]))
    (expected,) = train(Loader(samples, section(), HOST), [range(3)], policy)
    loader = Loader(held, section(), HOST)
    made, _ = train(loader, [range(3), [3]], policy)
    assert torch.equal(made.images_BCHW, expected.images_BCHW)
    assert str(loader.quarantine["photo3"]) == "photo3: is empty (0 bytes)"


def test_blur_and_its_company_run_on_parts_of_photos_too(write: Callable[..., Samples]) -> None:
    extras = AugmentSection(crop=CropSection(scale=(0.2, 0.5)), extras=ExtrasSection(blur=1.0))
    samples = write(4)
    without = extras.model_copy(update={"extras": ExtrasSection()})
    (plain,) = train(Loader(samples, section(), HOST), [range(4)], Policy(without, MEAN, STD))
    (blurred,) = train(Loader(samples, section(), HOST), [range(4)], Policy(extras, MEAN, STD))
    (dali,) = train(Loader(samples, section("dali"), HOST), [range(4)], Policy(extras, MEAN, STD))
    assert 0.1 < colour_difference(plain, blurred) < 10
    assert colour_difference(blurred, dali) < 0.6


def test_stopping_early_stops_the_threads_and_keeps_the_names_of_bad_files(write: Callable[..., Samples]) -> None:
    samples = write(4)
    path_of(samples, 0).write_bytes(b"")
    loader = Loader(samples, section(), HOST)
    before = set(threading.enumerate())
    batches = loader.train([np.arange(4)] * 100, Policy(SECTION, MEAN, STD), EPOCH)
    next(batches)
    batches.close()
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith(("decode", "read"))]
    assert list(loader.quarantine) == ["photo0"]


def test_a_sample_drawn_again_in_an_epoch_is_augmented_anew(write: Callable[..., Samples]) -> None:
    loader, policy = Loader(write(4), section(), HOST), Policy(SECTION, MEAN, STD)
    first = train(loader, [range(4)], policy)[0]
    (again,) = train(loader, [[0, 1, 4 + 1, 8 + 1]], policy)  # the second sample three times
    assert again.rows_B.tolist() == [0, 1, 1, 1] == again.labels.own_B.tolist()
    assert torch.allclose(again.images_BCHW[:2], first.images_BCHW[:2], atol=1e-4)
    different = [again.images_BCHW[i] - again.images_BCHW[j] for i, j in ((1, 2), (1, 3), (2, 3))]
    assert all(difference.abs().mean() > 0.05 for difference in different)
