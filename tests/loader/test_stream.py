"""The stream of decoded batches, with either decoder: the right pixels in order, with one plan a batch, whatever the
files and the consumer do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.decode.decoder import Opened, Pixels, whole
from engine.errors import RecipeError
from engine.kernels import Plan, jpeg
from engine.loader import supply
from engine.loader.source import Files, Memory
from engine.loader.stream import ImageStream
from engine.quarantine import Fault, FaultKind
from engine.recipe.sections import DecodeSection

from ..conftest import HOST, MakePhoto, assert_as_pil


def test_bad_files_are_set_aside_and_the_rest_comes_through_in_order(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection
) -> None:
    good = [photo(f"good{i}.jpg", 30 + i, 40) for i in range(8)]
    paths = [*good[:2], damaged["text"], good[2], damaged["empty"], damaged["cut off"], *good[3:6], damaged["missing"]]
    paths += [damaged["heic"], good[6], damaged["header only"], damaged["zeros"], good[7]]
    batches = [np.arange(7), np.arange(7, len(paths))]
    stream = ImageStream(Files(paths), batches, section, HOST)
    rows = []
    faults: dict[str, Fault] = {}
    for decoded in stream:
        faults |= {paths[row]: fault for row, fault in decoded.faults.items()}
        rows += decoded.rows_B.tolist()
        for row, pixels in zip(decoded.rows_B.tolist(), decoded.images.tensors, strict=True):
            assert_as_pil(pixels.numpy(), paths[row])
    assert rows == [row for row, path in enumerate(paths) if path in good]
    assert set(faults) == set(damaged.values())
    assert str(faults[damaged["missing"]]) == "cannot be read: No such file or directory"
    kinds = {"missing": "unreadable", "empty": "empty", "text": "not an image", "cut off": "damaged"}
    assert {kind: str(faults[damaged[kind]].kind) for kind in kinds} == kinds


def test_a_batch_of_bad_files_only_comes_without_images(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection
) -> None:
    paths = [photo("a.jpg"), damaged["cut off"], damaged["empty"], damaged["missing"], photo("b.jpg")]
    batches = [np.array([0]), np.array([1]), np.array([2, 3]), np.array([4])]
    decoded = list(ImageStream(Files(paths), batches, section, HOST, plan_for))
    assert [each.rows_B.tolist() for each in decoded] == [[0], [], [], [4]]
    assert [list(each.faults) for each in decoded] == [[], [1], [2, 3], []]


def test_draws_of_a_row_bring_its_photo_under_their_own_numbers(photo: MakePhoto, damaged: dict[str, str]) -> None:
    paths = [photo("a.jpg", 20, 30), damaged["text"], photo("b.jpg", 25, 30)]
    stream = ImageStream(Files(paths), [np.array([0, 3, 4, 8])], DecodeSection(device="cpu"), HOST)
    (decoded,) = stream
    assert decoded.rows_B.tolist() == [0, 3, 8] and list(decoded.faults) == [4]
    assert [len(pixels) for pixels in decoded.images.tensors] == [20, 20, 25]


def test_photos_in_memory_are_decoded_as_files_are(photo: MakePhoto, section: DecodeSection) -> None:
    paths = [photo("a.jpg"), photo("b.png")]
    source = Memory([Path(path).read_bytes() for path in paths])
    (decoded,) = ImageStream(source, [np.arange(2)], section, HOST)
    for pixels, path in zip(decoded.images.tensors, paths, strict=True):
        assert_as_pil(pixels.numpy(), path)


def test_bad_files_many_times_in_a_row_crash_nothing(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection
) -> None:
    """In a process of its own: a decoder that corrupts its memory fails this test and no other."""
    program = """
        import sys
        import numpy as np, torch
        from engine.loader.source import Files
        from engine.loader.stream import ImageStream
        from engine.recipe.sections import DecodeSection

        decoder, count, *paths = sys.argv[1:]
        batches = [np.arange(len(paths))] * int(count)
        section = DecodeSection(device="cpu", decoder=decoder)
        stream = ImageStream(Files(paths), batches, section, torch.device("cpu"))
        print(sum(len(decoded.rows_B) for decoded in stream))
    """
    good = [photo(f"{i}.jpg") for i in range(3)]
    paths = [*good, *damaged.values()]
    command = [sys.executable, "-c", textwrap.dedent(program), section.decoder, "40", *paths]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split()[-1] == str(40 * len(good))


def test_a_row_may_come_again_in_other_batches_and_in_any_order(photo: MakePhoto, section: DecodeSection) -> None:
    paths = [photo(f"{i}.jpg", 20 + i, 30) for i in range(6)]
    random = np.random.default_rng(0)
    batches = [random.permutation(6)[: random.integers(1, 7)] for _ in range(30)]
    stream = ImageStream(Files(paths), batches, section, HOST)
    for rows, decoded in zip(batches, stream, strict=True):
        assert decoded.rows_B.tolist() == rows.tolist()
        assert [tuple(t.shape) for t in decoded.images.tensors] == [(20 + row, 30, 3) for row in rows]
        for row, pixels in zip(rows, decoded.images.tensors, strict=True):
            assert_as_pil(pixels.numpy(), paths[row])


def test_the_pixels_of_a_batch_stay_until_the_next_is_asked_for(photo: MakePhoto, section: DecodeSection) -> None:
    """The stream runs ahead as far as it may meanwhile; memory that is used again must not be the consumer's."""
    paths = [photo(f"{i}.jpg", 33, 44) for i in range(12)]
    for row, decoded in enumerate(ImageStream(Files(paths), [np.array([i]) for i in range(12)], section, HOST)):
        before = decoded.images.tensors[0].clone()
        time.sleep(0.03)
        assert torch.equal(decoded.images.tensors[0], before)
        assert_as_pil(before.numpy(), paths[row])


def test_the_pixels_of_a_batch_stay_while_only_bad_batches_follow(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection
) -> None:
    """The loader fills the places of bad batches with the images of the last good one."""
    paths = [photo("a.jpg"), damaged["cut off"]]
    running = iter(ImageStream(Files(paths), [np.array([0])] + [np.array([1])] * 8, section, HOST))
    pixels_HW3 = next(running).images.tensors[0]
    before = pixels_HW3.clone()
    for decoded in running:
        assert not len(decoded.rows_B) and torch.equal(pixels_HW3, before)


def test_a_stream_can_be_iterated_again(photo: MakePhoto, section: DecodeSection) -> None:
    stream = ImageStream(Files([photo("a.jpg"), photo("b.jpg")]), [np.array([0]), np.array([1])], section, HOST)
    assert [d.rows_B.tolist() for d in stream] == [d.rows_B.tolist() for d in stream] == [[0], [1]]


def test_leaving_the_iteration_early_stops_the_thread(photo: MakePhoto, section: DecodeSection) -> None:
    before = set(threading.enumerate())
    for _ in ImageStream(Files([photo("a.jpg")]), [np.array([0])] * 1000, section, HOST):
        break
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith(("decode", "read"))
    ]
    assert not left


def test_no_more_batches_are_made_than_prefetch_allows(photo: MakePhoto) -> None:
    made: list[list[int]] = []

    def draw(rows_B: np.ndarray, sizes_B2: torch.Tensor) -> Plan:
        made.append(rows_B.tolist())
        return plan_for(rows_B, sizes_B2)

    section = DecodeSection(device="cpu", prefetch=3)
    batches = iter(ImageStream(Files([photo("a.jpg")]), [np.array([0])] * 50, section, HOST, draw))
    next(batches)
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    # Three wait, one is in the consumer's hands, one is held by the thread until there is room.
    assert len(made) == 5
    batches.close()


def test_an_error_in_the_thread_reaches_the_consumer(photo: MakePhoto, section: DecodeSection) -> None:
    class Broken(Files):
        def read(self, rows: np.ndarray) -> list[bytes | Fault]:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        list(ImageStream(Broken([photo("a.jpg")]), [np.array([0])], section, HOST))

    def draw(rows_B: np.ndarray, sizes_B2: torch.Tensor) -> Plan:
        raise KeyError("no such operation")

    with pytest.raises(KeyError, match="no such operation"):
        list(ImageStream(Files([photo("a.jpg")]), [np.array([0])], section, HOST, draw))


def test_a_decoder_that_cannot_be_had_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_load", lambda: "no compiler")
    with pytest.raises(RecipeError, match="no compiler"):
        iter(ImageStream(Files([]), [], DecodeSection(device="cpu", decoder="turbo"), HOST))


def plan_for(rows_B: np.ndarray, sizes_B2: torch.Tensor, x: float = 40, y: float = 30) -> Plan:
    """Every photo's pixels from x and y on, at twice their size, to 8 x 8."""
    matrix_33 = torch.tensor([[2.0, 0, x], [0, 2, y], [0, 0, 1]])
    return Plan(8, 8, matrix_33.repeat(len(rows_B), 1, 1), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def draws() -> tuple[Callable[[np.ndarray, torch.Tensor], Plan], list[tuple[list[int], list[list[int]]]]]:
    """A way to draw plans, and for which rows and sizes it was asked."""
    asked: list[tuple[list[int], list[list[int]]]] = []

    def draw(rows_B: np.ndarray, sizes_B2: torch.Tensor) -> Plan:
        asked.append((rows_B.tolist(), sizes_B2.tolist()))
        return plan_for(rows_B, sizes_B2)

    return draw, asked


def test_a_batch_has_one_plan_whatever_formats_are_in_it(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection, draws: tuple
) -> None:
    draw, asked = draws
    paths = [damaged["text"], photo("a.jpg", 100, 200), photo("b.jpg", 120, 80, orientation=6), photo("c.png", 50, 60)]
    paths += [photo("d.webp", 90, 70), photo("e.bmp", 64, 99), photo("f.jpg", 88, 77, mode="CMYK")]
    sizes = [[100, 200], [80, 120], [50, 60], [90, 70], [64, 99], [88, 77]]
    (decoded,) = ImageStream(Files(paths), [np.arange(7)], section, HOST, draw)
    assert asked == [([1, 2, 3, 4, 5, 6], sizes)]
    assert decoded.rows_B.tolist() == [1, 2, 3, 4, 5, 6] and decoded.sizes_B2.tolist() == sizes
    assert decoded.plan is not None


def test_images_hold_what_the_plan_looks_at_and_the_plan_is_fitted_to_them(photo: MakePhoto, draws: tuple) -> None:
    if not jpeg.available():
        pytest.skip(jpeg.why_not())
    paths = [photo("a.jpg", 200, 300), photo("b.png", 200, 300)]
    section = DecodeSection(device="cpu", decoder="turbo")
    for reduce, reduction in ((True, 2), (False, 1)):
        (decoded,) = ImageStream(Files(paths), [np.array([1, 0])], section, HOST, draws[0], reduce)
        assert decoded.frame_B5 is not None and decoded.plan is not None
        assert decoded.frame_B5[0].tolist() == [200, 300, 0, 0, 1]
        height, width, x, y, r = decoded.frame_B5[1].tolist()
        rows, columns = decoded.images.sizes_B2[1].tolist()
        assert (height, width, r) == (200, 300, reduction) and rows * columns * r * r < 200 * 300 / 4
        assert x <= 40 and y <= 30 and x + columns * r >= 56 and y + rows * r >= 46
        point_3 = decoded.plan.matrix_B33[1] @ torch.tensor([3.0, 5.0, 1.0])
        assert torch.allclose(point_3, torch.tensor([(46 - x) / r, (40 - y) / r, 1.0]))


def test_a_file_whose_pixels_are_bad_leaves_its_batch_without_a_plan(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection, draws: tuple
) -> None:
    """A plan's rows know of each other: it is for the loader to draw it again, for those that are there."""
    draw, asked = draws
    paths = [photo("a.jpg"), damaged["cut off"], photo("b.jpg")]
    (decoded,) = ImageStream(Files(paths), [np.arange(3)], section, HOST, draw)
    assert [rows for rows, _ in asked] == [[0, 1, 2]]
    assert decoded.rows_B.tolist() == [0, 2] and decoded.plan is None
    assert decoded.faults[1].kind is FaultKind.DAMAGED


def test_a_header_that_promised_another_size_leaves_its_batch_without_a_plan(
    monkeypatch: pytest.MonkeyPatch, draws: tuple
) -> None:
    class Mistaken:
        device = HOST

        def open(self, contents: Sequence[bytes]) -> list[Opened | Fault]:
            return [Opened(content, 30, 40) for content in contents]

        def pixels(self, opened: Sequence[Opened], regions: object = None, rough: bool = False) -> list[Pixels | Fault]:
            return [whole(torch.zeros(30, 40 + len(one.content) % 2, 3, dtype=torch.uint8)) for one in opened]

    monkeypatch.setattr(supply, "decoder_for", lambda *args, **options: Mistaken())
    source = Memory([b"even", b"odd"])
    right, wrong = ImageStream(source, [np.array([0]), np.arange(2)], DecodeSection(), HOST, draws[0])
    assert right.plan is not None and wrong.plan is None
    assert wrong.sizes_B2.tolist() == [[30, 40], [30, 41]]


@pytest.mark.gpu
def test_the_gpu_decodes_what_the_cpu_decodes(photo: MakePhoto, damaged: dict[str, str]) -> None:
    paths = [photo("a.jpg", 90, 120), damaged["text"], photo("b.jpg", 60, 50, orientation=6), photo("c.png")]
    device = torch.device("cuda", 0)
    stream = ImageStream(Files(paths), [np.arange(4)], DecodeSection(device="gpu"), device)
    (decoded,) = stream
    assert decoded.rows_B.tolist() == [0, 2, 3] and list(decoded.faults) == [1]
    for row, pixels in zip(decoded.rows_B.tolist(), decoded.images.tensors, strict=True):
        assert pixels.device == device
        assert_as_pil(pixels.cpu().numpy(), paths[row], mean=1.5)
