"""Models answer as their checkpoints say, view by view, and share the pixels they agree on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

import engine.loader.passes
from engine.augment.views import tta_views
from engine.inference.members import Members
from engine.kernels import Ragged
from engine.store.checkpoint import Checkpoint

CPU = torch.device("cpu")
FoldMaker = Callable[..., Checkpoint]
Picture = Callable[..., np.ndarray]


@pytest.fixture
def images(picture: Picture) -> Ragged:
    return Ragged([torch.from_numpy(picture(i, 40 + 3 * i, 60 - 4 * i).copy()) for i in range(4)])


def test_restoring_a_model_leaves_the_callers_random_numbers_alone(fold: FoldMaker) -> None:
    saved = fold(0)
    before = torch.get_rng_state()
    Members.restored([saved], CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("saved", "expected"), [("auto", False), ("off", False), ("on", True)])
def test_a_model_answers_in_the_memory_format_it_was_scored_in(fold: FoldMaker, saved: str, expected: bool) -> None:
    """`auto` is saved no longer; where it was, it meant channels-first on a CPU."""
    made = fold(0)
    made = dataclasses.replace(made, recipe={**made.recipe, "train": {**made.recipe["train"], "channels_last": saved}})
    (member,) = Members.restored([made], CPU)
    kernel = next(p for p in member.model.parameters() if p.ndim == 4 and p.shape[1] == 3)
    assert kernel.is_contiguous(memory_format=torch.channels_last) == expected


def test_one_tensor_a_model_with_a_row_of_logits_for_each_view_and_image(fold: FoldMaker, images: Ragged) -> None:
    answers = Members.restored([fold(0), fold(1)], CPU, views=tta_views(3)).logits(images)
    assert [tuple(logits_VBC.shape) for logits_VBC in answers] == [(3, 4, 3)] * 2
    assert all(logits_VBC.dtype == torch.float32 for logits_VBC in answers)


def test_every_view_shows_the_model_something_else(fold: FoldMaker, images: Ragged) -> None:
    (logits_VBC,) = Members.restored([fold(0)], CPU, views=tta_views(10)).logits(images)
    distances_VV = torch.cdist(logits_VBC.flatten(1), logits_VBC.flatten(1)) + torch.eye(10)
    assert distances_VV.min() > 0.2


def test_the_second_view_is_the_mirror_image(fold: FoldMaker, images: Ragged) -> None:
    members = Members.restored([fold(0)], CPU, views=tta_views(2))
    mirrored = Ragged([image.flip(1).contiguous() for image in images.tensors])
    torch.testing.assert_close(members.logits(images)[0][1], members.logits(mirrored)[0][0], atol=0.02, rtol=0)


def test_more_views_only_add_to_fewer(fold: FoldMaker, images: Ragged) -> None:
    few, many = (Members.restored([fold(0)], CPU, views=tta_views(views)).logits(images)[0] for views in (2, 5))
    torch.testing.assert_close(many[:2], few)


def test_an_answer_does_not_depend_on_who_else_is_in_the_batch_or_was_before(fold: FoldMaker, images: Ragged) -> None:
    members = Members.restored([fold(0)], CPU)
    together_BC = members.logits(images)[0][0]
    for i, image in enumerate(images.tensors):  # smaller batches, into the same buffer
        torch.testing.assert_close(members.logits(Ragged([image]))[0][0, 0], together_BC[i], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(members.logits(images)[0][0], together_BC)


def test_models_with_one_contract_share_each_view_and_others_have_their_own(
    fold: FoldMaker, images: Ragged, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[int, int]] = []
    execute = engine.loader.passes.execute

    def counted(name: object, images: object, plan: object, out: torch.Tensor) -> torch.Tensor:
        passes.append(tuple(out.shape[2:]))
        return execute(name, images, plan, out)

    monkeypatch.setattr("engine.loader.passes.execute", counted)
    same = [fold(0, size=32), fold(1, size=32)]
    Members.restored([*same, fold(2, size=48)], CPU, views=tta_views(3)).logits(images)
    assert sorted(passes) == [(32, 32)] * 3 + [(48, 48)] * 3


def test_together_models_answer_what_they_answer_alone(fold: FoldMaker, images: Ragged) -> None:
    folds = [fold(0, size=32), fold(1, size=48), fold(2, size=32)]
    together = Members.restored(folds, CPU, views=tta_views(2)).logits(images)
    for one, logits_VBC in zip(folds, together, strict=True):
        torch.testing.assert_close(logits_VBC, Members.restored([one], CPU, views=tta_views(2)).logits(images)[0])


def test_what_is_normalised_how_comes_from_the_contract(fold: FoldMaker, images: Ragged) -> None:
    one = fold(0)
    brighter = {**one.contract, "mean": [0.1, 0.1, 0.1]}
    other = Checkpoint(**{**vars(one), "contract": brighter})
    assert not torch.allclose(
        Members.restored([one], CPU).logits(images)[0], Members.restored([other], CPU).logits(images)[0]
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.01), ("auto", 0.1)])
def test_the_gpu_answers_as_the_cpu_does(fold: FoldMaker, images: Ragged, precision: str, most: float) -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    one = fold(0, precision=precision)
    on_cpu, on_gpu = (Members.restored([one], device, views=tta_views(2)).logits(images)[0] for device in (CPU, gpu))
    assert on_gpu.device == gpu
    assert (on_gpu.cpu().softmax(2) - on_cpu.softmax(2)).abs().max() < most  # the head is loud, bfloat16 is coarse
