"""Whoever asks models asks them here: by row and class, over ranks, one view or several, whole or in part."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from torch.utils._python_dispatch import TorchDispatchMode

from engine.augment.views import tta_views
from engine.inference.member import Member
from engine.inference.members import Members
from engine.inference.scoring import Images, NotFinite, score
from engine.kernels import Ragged
from engine.loader.batches import Loader, Samples
from engine.loader.source import Memory
from engine.predictions import Predictions
from engine.quarantine import FaultKind
from engine.ranks import Ranks
from engine.recipe.sections import DecodeSection
from engine.store.checkpoint import Checkpoint

from ..fake_cuda import DEVICE, FakeCuda

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
COUNT = 9
FoldMaker = Callable[..., Checkpoint]


@pytest.fixture
def photos(picture: Callable[..., np.ndarray]) -> list[bytes]:
    contents = []
    for i in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(picture(i, 40 + i, 56 - i)).save(file, "PNG")
        contents.append(file.getvalue())
    return contents


def images_of(photos: Sequence[bytes], rows: Sequence[int] = range(COUNT), batch: int = 4) -> Images:
    ids = [f"id {i}" for i in range(len(photos))]
    samples = Samples(ids, Memory(photos), np.arange(len(photos)), np.full(len(photos), -1))
    return Images(Loader(samples, DecodeSection(threads=1), CPU), np.array(rows, dtype=np.int64), batch)


def logits_of(members: Members, photos: Sequence[bytes]) -> list[np.ndarray]:
    """(V, N, C) of each member, by the members alone, from whole photos."""
    tensors = [torch.from_numpy(np.array(Image.open(io.BytesIO(photo)))) for photo in photos]
    return [logits_VNC.numpy() for logits_VNC in members.logits(Ragged(tensors))]


def close(a: Predictions, b: Predictions, atol: float = 1e-4) -> None:
    assert (a.ids, a.classes) == (b.ids, b.classes)
    np.testing.assert_allclose(a.probabilities_NC, b.probabilities_NC, atol=atol)


def test_of_one_view_it_is_the_softmax_of_each_members_logits(fold: FoldMaker, photos: list[bytes]) -> None:
    members = Members.restored([fold(0), fold(1, ("x", "y"), counts=(1, 1))], CPU)
    found = score(members, images_of(photos), ALONE)
    assert [one.classes for one in found] == [("가방", "모자", "신발"), ("x", "y")]
    for one, (logits_NC,) in zip(found, logits_of(members, photos), strict=True):
        assert one.ids == tuple(f"id {i}" for i in range(COUNT)) and one.probabilities_NC.dtype == np.float32
        np.testing.assert_allclose(one.probabilities_NC, softmax(logits_NC, axis=1), atol=1e-4)
        assert one.logits_NC is None and one.features_NE is None


def test_several_views_are_blended_as_asked_and_no_view_is_left_out(fold: FoldMaker, photos: list[bytes]) -> None:
    members = Members.restored([fold(0)], CPU, tta_views(3))
    shapes = []

    def highest(views_VBC: np.ndarray) -> np.ndarray:
        shapes.append(views_VBC.shape)
        most_BC = views_VBC.max(0)
        return most_BC / most_BC.sum(1, keepdims=True)

    (found,) = score(members, images_of(photos), ALONE, highest)
    assert shapes == [(3, 4, 3), (3, 4, 3), (3, 1, 3)] and found.probabilities_NC.dtype == np.float32
    most_NC = softmax(logits_of(members, photos)[0], axis=2).max(0)
    np.testing.assert_allclose(found.probabilities_NC, most_NC / most_NC.sum(1, keepdims=True), atol=1e-4)
    (plain,) = score(members, images_of(photos), ALONE)
    mean_NC = softmax(logits_of(members, photos)[0], axis=2).mean(0)
    np.testing.assert_allclose(plain.probabilities_NC, mean_NC, atol=1e-4)


def test_any_one_view_can_be_asked_alone(fold: FoldMaker, photos: list[bytes]) -> None:
    for view in tta_views(4):
        members = Members.restored([fold(0)], CPU, [view])
        (found,) = score(members, images_of(photos), ALONE)
        np.testing.assert_allclose(found.probabilities_NC, softmax(logits_of(members, photos)[0][0], 1), atol=1e-3)


def test_members_that_see_other_pixels_answer_as_they_do_alone(fold: FoldMaker, photos: list[bytes]) -> None:
    folds = [fold(0, size=32), fold(1, size=48)]
    together = score(Members.restored(folds, CPU), images_of(photos), ALONE)
    for one, found in zip(folds, together, strict=True):
        close(found, score(Members.restored([one], CPU), images_of(photos), ALONE)[0])


@pytest.mark.parametrize("views", [1, 2])
def test_logits_and_features_come_with_it_when_asked_for(fold: FoldMaker, photos: list[bytes], views: int) -> None:
    members = Members.restored([fold(0)], CPU, tta_views(views))
    (found,) = score(members, images_of(photos), ALONE, extras=("logits", "features"))
    assert found.logits_NC is not None and found.features_NE is not None
    np.testing.assert_allclose(found.logits_NC, logits_of(members, photos)[0].mean(0), atol=1e-3)
    head = members[0].model.head
    with torch.no_grad():  # linear: the mean of logits is the logits of the mean
        again_NC = head(torch.from_numpy(found.features_NE)).numpy()
    np.testing.assert_allclose(again_NC, found.logits_NC, atol=1e-3)
    (plain,) = score(members, images_of(photos), ALONE)
    close(plain, found, atol=1e-6)


def test_rows_are_answered_in_their_order_whatever_order_they_are_asked_in(
    fold: FoldMaker, photos: list[bytes]
) -> None:
    members = Members.restored([fold(0)], CPU)
    (whole,) = score(members, images_of(photos), ALONE)
    (some,) = score(members, images_of(photos, [7, 2, 5], batch=2), ALONE)
    assert some.ids == ("id 2", "id 5", "id 7")
    close(some, whole.take([2, 5, 7]))


def test_files_that_cannot_be_read_are_missing_and_known_by_id(fold: FoldMaker, photos: list[bytes]) -> None:
    members = Members.restored([fold(0), fold(1)], CPU)
    whole = score(members, images_of(photos), ALONE)
    bad = [*photos[:3], b"no picture", *photos[4:]]
    images, told = images_of(bad), []
    for found, all_ in zip(score(members, images, ALONE, told=told.append), whole, strict=True):
        close(found, all_.take([0, 1, 2, 4, 5, 6, 7, 8]))
    assert sum(told) == COUNT - 1 and images.loader.quarantine["id 3"].fault.kind == FaultKind.NOT_AN_IMAGE
    none = score(members, images_of([b"no picture"] * 2, [0, 1]), ALONE)
    assert [(one.ids, one.classes) for one in none] == [((), ("가방", "모자", "신발"))] * 2


def test_answers_that_are_no_number_are_an_error_of_their_own(fold: FoldMaker, photos: list[bytes]) -> None:
    members = Members.restored([fold(0)], CPU)
    torch.nn.init.constant_(members[0].model.head.linear.weight, float("nan"))
    with pytest.raises(NotFinite, match="train the fold again"):
        score(members, images_of(photos), ALONE)


def test_a_model_in_training_is_asked_as_it_would_be_used_and_learns_on(fold: FoldMaker, photos: list[bytes]) -> None:
    shipped = Member.restored(fold(0), CPU)
    shipped.model.head.dropout.p = 0.9
    shipped.model.train()
    (first,), (second,) = (score(Members([shipped]), images_of(photos), ALONE) for _ in range(2))
    np.testing.assert_array_equal(first.probabilities_NC, second.probabilities_NC)  # nothing is dropped
    shipped.model.train()
    shipped.model(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert shipped.model.head.linear.weight.grad is not None


class Together(Ranks):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, pieces: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(pieces), CPU)
        object.__setattr__(self, "shared", (pieces, barrier))

    def gather(self, piece: Any) -> list[Any]:
        pieces, barrier = self.shared  # type: ignore[attr-defined]
        pieces[self.rank] = piece
        barrier.wait()
        return list(pieces)


@pytest.mark.parametrize(("world", "rows"), [(2, 9), (3, 2)])  # of three ranks, one has nothing to do
def test_ranks_take_a_share_each_and_all_get_everything(
    fold: FoldMaker, photos: list[bytes], world: int, rows: int
) -> None:
    checkpoint = fold(0)
    (alone,) = score(Members.restored([checkpoint], CPU), images_of(photos, range(rows)), ALONE)
    pieces, barrier = [None] * world, threading.Barrier(world)

    def on_rank(rank: int) -> list[Predictions]:
        ranks = Together(rank, pieces, barrier)
        return score(Members.restored([checkpoint], CPU), images_of(photos, range(rows)), ranks)

    with ThreadPoolExecutor(world) as threads:
        for (found,) in threads.map(on_rank, range(world)):
            close(found, alone)


def test_on_a_gpu_answers_are_fetched_for_many_batches_at_once(fold: FoldMaker, photos: list[bytes]) -> None:
    expected = score(Members.restored([fold(1)], CPU), images_of(photos, batch=2), ALONE)[0]
    with FakeCuda() as gpu:
        there = Ranks(0, 1, DEVICE)
        members = Members.restored([fold(1)], DEVICE)
        ids = [f"id {i}" for i in range(COUNT)]
        samples = Samples(ids, Memory(photos), np.arange(COUNT), np.full(COUNT, -1))
        images = Images(Loader(samples, DecodeSection(device="cpu", threads=1), DEVICE), np.arange(COUNT), 2)
        gpu.clear()
        close(score(members, images, there)[0], expected, atol=0.02)
        assert [wait.why for wait in gpu.waits_here].count("cpu") == 5  # after the last of five batches
        assert not gpu.blocking_uploads
        waits = gpu.waits_here
        assert all(wait.why == "cpu" for wait in waits[-5:])


def test_weights_are_cast_once_for_all_batches_and_answers_are_the_same(
    fold: FoldMaker, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, also those that do not learn: of an average, or frozen."""

    class Casts(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter)
            return func(*args, **(kwargs or {}))

    members = Members.restored([fold(1, precision="bf16")], CPU)
    for parameter in [*members[0].model.parameters()][::2]:
        parameter.requires_grad_(False)
    learns = [parameter.requires_grad for parameter in members[0].model.parameters()]
    model = members[0].model

    def counted() -> tuple[Predictions, int]:
        casts = Casts()

        def features(images_BCHW: torch.Tensor) -> torch.Tensor:
            with casts:  # in the thread that asks the model
                return type(model).features(model, images_BCHW)

        monkeypatch.setattr(model, "features", features)
        return score(members, images_of(photos, batch=1), ALONE)[0], casts.count

    kept, few = counted()
    monkeypatch.setattr(Members, "weights_cast_once", lambda self: contextlib.nullcontext())
    anew, many = counted()
    assert few > 0 and many == COUNT * few
    assert np.array_equal(kept.probabilities_NC, anew.probabilities_NC)
    assert [parameter.requires_grad for parameter in members[0].model.parameters()] == learns
