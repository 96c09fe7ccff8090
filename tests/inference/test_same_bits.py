"""An answer depends on the photo alone, to the last bit: not on how many are asked about together, on their order, on
threads or processes, or on files beside it that cannot be read."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.augment.contract import Contract
from engine.augment.views import tta_views
from engine.ensemble.vote import RULES, Rule, blend
from engine.inference.member import Member
from engine.inference.members import Members
from engine.inference.microbatches import MicroBatches
from engine.inference.scoring import Blend, Images, mean, score
from engine.loader.batches import Loader, Samples
from engine.loader.source import Memory
from engine.model.build import build_model
from engine.model.runtime import Runtime
from engine.predictions import Predictions
from engine.ranks import Ranks
from engine.recipe.sections import AugmentSection, DecodeSection, ModelSection

CPU = torch.device("cpu")
COUNT = 19
SIZE = (40, 32)
CLASSES = tuple(f"class {i}" for i in range(17))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch uses."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    contents = []
    for i in range(COUNT):
        random = np.random.default_rng(i)
        file = io.BytesIO()
        small = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        kind = "PNG" if i % 5 == 0 else "JPEG"
        small.resize((48 + i % 7, 40 + i % 11), Image.Resampling.BICUBIC).save(file, kind)
        contents.append(file.getvalue())
    return contents


def member_of(backbone: str, bf16: bool = False, device: torch.device = CPU) -> Member:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build_model(ModelSection(backbone=backbone, pretrained=False), len(CLASSES), SIZE)
        torch.nn.init.normal_(model.head.get_parameter("linear.weight"), std=1.0)
    runtime = Runtime(device, bf16, channels_last=True, compile=False)
    contract = Contract.of(AugmentSection(), SIZE, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic")
    return Member(runtime.place(model), contract, runtime, CLASSES)


def asked(
    members: Members,
    photos: Sequence[bytes],
    rows: Sequence[int] | NDArray[np.int64] = range(COUNT),
    batch: int = 64,
    ranks: Ranks | None = None,
    blend: Blend = mean,
    **decode: Any,
) -> list[Predictions]:
    """With features and logits, in order of the ids."""
    nobody = np.zeros(len(photos), dtype=np.int64)
    samples = Samples([f"{i:02}" for i in range(len(photos))], Memory(photos), nobody, nobody)
    device = members[0].runtime.device
    loader = Loader(samples, DecodeSection(**{"threads": 1, **decode}), device, dtype=members[0].runtime.dtype)
    images = Images(loader, np.array(rows, dtype=np.int64), batch)
    return score(members, images, ranks or Ranks(0, 1, device), blend, extras=("logits", "features"))


def same(found: Predictions, expected: Predictions) -> None:
    """To the last bit, for the ids that were asked about."""
    by_id = {id_: row for row, id_ in enumerate(expected.ids)}
    rows = [by_id[id_] for id_ in found.ids]
    for name in ("probabilities_NC", "logits_NC", "features_NE"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[rows], err_msg=name)


# Depthwise and LayerNorm; depthwise, batch norm and squeeze-and-excitation.
NETWORKS = pytest.mark.parametrize("backbone", ["test_convnext", "test_efficientnet"])


def everything_the_same(members: Members, photos: Sequence[bytes]) -> None:
    (expected,) = asked(members, photos)
    assert len(expected) == COUNT and len(np.unique(expected.probabilities_NC, axis=0)) == COUNT
    order = np.random.default_rng(0).permutation(COUNT)
    asks: list[tuple[Sequence[int] | NDArray[np.int64], int]]
    asks = [(order, 1), (order, 7), (range(COUNT), 7), ([18, 5], 64), ([11], 64)]
    for rows, batch in asks:
        same(asked(members, photos, rows, batch)[0], expected)


@NETWORKS
@pytest.mark.parametrize("bf16", [False, True])
def test_whatever_the_batch_and_the_order(backbone: str, bf16: bool, photos: list[bytes]) -> None:
    everything_the_same(Members([member_of(backbone, bf16)]), photos)


@NETWORKS
def test_whatever_the_number_of_threads(backbone: str, photos: list[bytes], threads: Callable[[int], None]) -> None:
    members = Members([member_of(backbone)])
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(asked(members, photos, batch=5 * count, threads=count)[0])
        assert torch.get_num_threads() == count
    same(found[1], found[0])
    same(found[2], found[0])


@pytest.mark.parametrize("decoder", ["turbo", "dali"])
def test_beside_files_that_cannot_be_read(decoder: str, photos: list[bytes]) -> None:
    """Cut off in the middle, empty, or none of a picture's."""
    members = Members([member_of("test_convnext")])
    (expected,) = asked(members, photos, decoder=decoder)
    bad = [*photos]
    bad[3], bad[4], bad[8] = photos[3][: len(photos[3]) // 2], b"", b"no picture"
    for batch in (7, 64):
        (found,) = asked(members, bad, batch=batch, decoder=decoder)
        assert len(found) == COUNT - 3
        same(found, expected)


def test_on_one_rank_or_two(photos: list[bytes]) -> None:
    members = Members([member_of("test_convnext")])
    (expected,) = asked(members, photos)
    box: list[Any] = [None, None]
    barrier = threading.Barrier(2)

    class Both(Ranks):
        def gather(self, thing: Any) -> list[Any]:
            box[self.rank] = thing
            barrier.wait()
            return [*box]

    found: list[Any] = [None, None]

    def ask(rank: int) -> None:
        found[rank] = asked(members, photos, batch=3, ranks=Both(rank, 2, CPU))[0]

    ranks = [threading.Thread(target=ask, args=(rank,)) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    for one in found:
        assert len(one) == COUNT
        same(one, expected)


def test_with_several_views_and_in_the_company_of_other_models(photos: list[bytes]) -> None:
    models = [member_of("test_convnext"), member_of("test_efficientnet"), member_of("test_convnext", bf16=True)]
    together = Members(models, tta_views(4))
    expected = asked(together, photos)
    for batch in (1, 7):
        for one, all_ in zip(asked(together, photos, range(9), batch), expected, strict=True):
            same(one, all_)
    for model, all_ in zip(models, expected, strict=True):
        same(asked(Members([model], tta_views(4)), photos, range(9))[0], all_)


def test_a_view_that_is_asked_alone_answers_as_among_others(photos: list[bytes]) -> None:
    """Alone, no more of a photo is decoded than it shows, but of whole photos it would see the same. (PNGs: of a JPEG
    a part is decoded to pixels that are one off here and there.)"""
    views, model = tta_views(2), member_of("test_convnext")
    pngs = photos[::5]
    (both,) = asked(Members([model], views), pngs, range(len(pngs)))
    alone = [asked(Members([model], [view]), pngs, range(len(pngs)))[0].probabilities_NC for view in views]
    np.testing.assert_allclose(np.mean(alone, axis=0), both.probabilities_NC, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 7, 8, 15, 16, 17, 33, 396, 1001])
def test_probabilities_of_a_row_do_not_depend_on_its_place(classes: int) -> None:
    """Softmax on the device and the mean over views: vectors of a processor hold 4, 8 or 16 numbers."""
    logits_VBC = torch.randn(3, 19, classes, generator=torch.Generator().manual_seed(0)) * 4
    whole = mean(logits_VBC.softmax(2).numpy())
    for start, stop in [(0, 1), (1, 2), (3, 10), (18, 19), (5, 19)]:
        np.testing.assert_array_equal(mean(logits_VBC[:, start:stop].softmax(2).numpy()), whole[start:stop])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("classes", [2, 3, 17, 396])
def test_a_vote_about_a_row_does_not_depend_on_its_place(rule: Rule, classes: int) -> None:
    voters_KNC = np.random.default_rng(0).dirichlet(np.ones(classes), (9, 67)).astype(np.float32)
    whole_NC = blend(voters_KNC, rule)
    for start, stop in [(0, 1), (5, 6), (3, 10), (0, 64)]:
        some = np.ascontiguousarray(voters_KNC[:, start:stop])
        np.testing.assert_array_equal(blend(some, rule), whole_NC[start:stop])


# --- parts -----------------------------------------------------------------------------------------------------------


def shapes_of(runtime: Runtime, counts: Sequence[int], size: int) -> set[tuple[int, ...]]:
    seen: set[tuple[int, ...]] = set()

    def network(images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.add(tuple(images_BCHW.shape))
        return (images_BCHW.float().mean((2, 3)),)

    parts = MicroBatches(network, runtime)
    for count in counts:
        images_BCHW = torch.randn(count, 3, size, size)
        (means_BC,) = parts(images_BCHW)
        torch.testing.assert_close(means_BC, images_BCHW.mean((2, 3)))
    return seen


@pytest.mark.parametrize(("size", "at_once"), [(32, 16), (96, 16), (128, 8), (224, 2), (384, 1), (512, 1)])
def test_a_network_sees_one_shape_for_each_size(size: int, at_once: int) -> None:
    seen = shapes_of(Runtime(CPU, False, True, False), (1, 3, 17), size)
    assert seen == {(at_once, 3, size, size)}


def test_a_network_that_tells_places_apart_sees_fewer_at_a_time_until_it_does_not() -> None:
    """As libraries may: here the second image of each four is added up in another order."""

    def network(images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sums = images_BCHW.sum((1, 2, 3))
        if len(sums) > 2:
            sums[1] = images_BCHW[1].double().sum() * (1 + 1e-6)
        return (sums[:, None],)

    parts = MicroBatches(network, Runtime(CPU, False, True, False))
    images_BCHW = torch.randn(9, 3, 32, 32)
    (expected,) = parts(images_BCHW)
    assert parts.at_once(images_BCHW) == 2
    for start in range(9):
        assert torch.equal(parts(images_BCHW[start:])[0], expected[start:])


def test_what_goes_wrong_in_a_part_is_told() -> None:
    def network(images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        MicroBatches(network, Runtime(CPU, False, True, False))(torch.zeros(1, 3, 32, 32))


def test_other_threads_keep_their_number_of_threads(threads: Callable[[int], None]) -> None:
    threads(2)
    shapes_of(Runtime(CPU, False, True, False), [20], 32)
    assert torch.get_num_threads() == 2
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert found == [2]


@pytest.mark.gpu
@NETWORKS
@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_gpu_the_same_holds_for_one_card_and_its_libraries(backbone: str, bf16: bool, photos: list[bytes]) -> None:
    """Other cards, and other versions of CUDA, cuDNN or torch, add up otherwise."""
    everything_the_same(Members([member_of(backbone, bf16, torch.device("cuda", 0))]), photos)
