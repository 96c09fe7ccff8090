"""The stream of decoded batches, with either decoder: the right pixels in order, whatever the files and the consumer
do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from engine.errors import RecipeError
from engine.kernels import Plan, jpeg
from engine.kernels.jpeg import Part
from engine.loader import stream as stream_module
from engine.loader.stream import Decoded, ImageStream
from engine.recipe.sections import DecodeSection

from .conftest import HOST, MakePhoto, by_pil


def decode_all(
    paths: Sequence[str], section: DecodeSection, batch: int = 64
) -> tuple[dict[int, np.ndarray], ImageStream]:
    """Pixels by row, copied, and the stream that brought them."""
    batches = [np.arange(at, min(at + batch, len(paths))) for at in range(0, len(paths), batch)]
    stream = ImageStream(paths, batches, section, HOST)
    found: dict[int, np.ndarray] = {}
    for decoded in stream:
        for row, pixels in zip(decoded.rows_B.tolist(), decoded.images.tensors, strict=True):
            found[row] = pixels.numpy().copy()
    return found, stream


def assert_as_pil(pixels: np.ndarray, path: str, mean: float = 0.7) -> None:
    expected = by_pil(path)
    assert pixels.shape == expected.shape
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.mean() < mean and difference.max() <= 16


def test_images_keep_their_own_sizes_and_have_the_pixels_that_pil_decodes(
    photo: MakePhoto, section: DecodeSection
) -> None:
    sizes = [(48, 64), (1, 1), (7, 120), (90, 33), (64, 64)]
    paths = [photo(f"{i}.jpg", *size) for i, size in enumerate(sizes)]
    found, _ = decode_all(paths, section)
    assert [found[i].shape[:2] for i in range(5)] == sizes
    for row, path in enumerate(paths):
        assert_as_pil(found[row], path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright_whatever_their_exif_orientation(
    photo: MakePhoto, section: DecodeSection, orientation: int
) -> None:
    path = photo("turned.jpg", 40, 64, orientation=orientation)
    found, _ = decode_all([path], section)
    assert_as_pil(found[0], path)


def test_any_kind_of_image_becomes_rgb(photo: MakePhoto, section: DecodeSection) -> None:
    paths = {
        "gray": photo("gray.jpg", mode="L"),
        "progressive": photo("progressive.jpg", progressive=True),
        "png": photo("rgb.png"),
        "gray png": photo("gray.png", mode="L"),
        "palette png": photo("palette.png", mode="P"),
        "webp": photo("lossy.webp", quality=95),
        "bmp": photo("plain.bmp"),
    }
    found, stream = decode_all(list(paths.values()), section)
    assert not stream.quarantine
    for row, path in enumerate(paths.values()):
        assert_as_pil(found[row], path)


def test_both_decoders_give_the_same_pixels(photo: MakePhoto) -> None:
    if not jpeg.available():
        pytest.skip(jpeg.why_not())
    paths = [photo(f"{i}.jpg", 70 + i, 90, quality=50 + 6 * i, subsampling=i % 3, orientation=1 + i) for i in range(8)]
    paths += [photo("gray.jpg", mode="L"), photo("progressive.jpg", progressive=True), photo("print.jpg", mode="CMYK")]
    turbo, _ = decode_all(paths, DecodeSection(device="cpu", decoder="turbo"))
    dali, _ = decode_all(paths, DecodeSection(device="cpu", decoder="dali"))
    for row in range(len(paths)):
        difference = np.abs(turbo[row].astype(int) - dali[row])
        assert difference.max() <= 3 and difference.mean() < 0.2


def test_cmyk_becomes_rgb_of_its_size(photo: MakePhoto, section: DecodeSection) -> None:
    """Only roughly PIL's colours: there is no one way from CMYK to RGB without a profile."""
    path = photo("print.jpg", mode="CMYK")
    found, _ = decode_all([path], section)
    assert np.abs(found[0].astype(int) - by_pil(path)).mean() < 40


def test_bad_files_are_set_aside_and_the_rest_comes_through_in_order(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection
) -> None:
    good = [photo(f"good{i}.jpg", 30 + i, 40) for i in range(8)]
    paths = [*good[:2], damaged["text"], good[2], damaged["empty"], damaged["cut off"], *good[3:6], damaged["missing"]]
    paths += [damaged["gif"], good[6], damaged["header only"], damaged["zeros"], good[7]]
    batches = [np.arange(7), np.arange(7, len(paths))]
    stream = ImageStream(paths, batches, section, HOST)
    rows = []
    for decoded in stream:
        rows += decoded.rows_B.tolist()
        for row, pixels in zip(decoded.rows_B.tolist(), decoded.images.tensors, strict=True):
            assert_as_pil(pixels.numpy(), paths[row])
    assert rows == [row for row, path in enumerate(paths) if path in good]
    assert set(stream.quarantine) == set(damaged.values())
    assert stream.quarantine[damaged["missing"]] == "cannot be read: No such file or directory"
    assert "empty" in stream.quarantine[damaged["empty"]]
    assert "not an image" in stream.quarantine[damaged["text"]]


def test_a_batch_of_bad_files_only_is_skipped(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection
) -> None:
    paths = [photo("a.jpg"), damaged["text"], damaged["empty"], damaged["missing"], photo("b.jpg")]
    stream = ImageStream(paths, [np.array([0]), np.array([1]), np.array([2, 3]), np.array([4])], section, HOST)
    assert [decoded.rows_B.tolist() for decoded in stream] == [[0], [4]]


def test_bad_files_many_times_in_a_row_crash_nothing(
    photo: MakePhoto, damaged: dict[str, str], section: DecodeSection
) -> None:
    """In a process of its own: a decoder that corrupts its memory fails this test and no other."""
    program = """
        import sys
        import numpy as np, torch
        from engine.loader.stream import ImageStream
        from engine.recipe.sections import DecodeSection

        decoder, count, *paths = sys.argv[1:]
        batches = [np.arange(len(paths))] * int(count)
        stream = ImageStream(paths, batches, DecodeSection(device="cpu", decoder=decoder), torch.device("cpu"))
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
    stream = ImageStream(paths, batches, section, HOST)
    for rows, decoded in zip(batches, stream, strict=True):
        assert decoded.rows_B.tolist() == rows.tolist()
        assert [tuple(t.shape) for t in decoded.images.tensors] == [(20 + row, 30, 3) for row in rows]
        for row, pixels in zip(rows, decoded.images.tensors, strict=True):
            assert_as_pil(pixels.numpy(), paths[row])
    assert len(stream) == 30


def test_the_pixels_of_a_batch_stay_until_the_next_is_asked_for(photo: MakePhoto, section: DecodeSection) -> None:
    """The stream runs ahead as far as it may meanwhile; memory that is used again must not be the consumer's."""
    paths = [photo(f"{i}.jpg", 33, 44) for i in range(12)]
    for row, decoded in enumerate(ImageStream(paths, [np.array([i]) for i in range(12)], section, HOST)):
        before = decoded.images.tensors[0].clone()
        time.sleep(0.03)
        assert torch.equal(decoded.images.tensors[0], before)
        assert_as_pil(before.numpy(), paths[row])


def test_a_stream_can_be_iterated_again(photo: MakePhoto, section: DecodeSection) -> None:
    stream = ImageStream([photo("a.jpg"), photo("b.jpg")], [np.array([0]), np.array([1])], section, HOST)
    assert [d.rows_B.tolist() for d in stream] == [d.rows_B.tolist() for d in stream] == [[0], [1]]


def test_leaving_the_iteration_early_stops_the_thread(photo: MakePhoto, section: DecodeSection) -> None:
    before = set(threading.enumerate())
    for _ in ImageStream([photo("a.jpg")], [np.array([0])] * 1000, section, HOST):
        break
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith(("decode", "read"))
    ]
    assert not left


def test_no_more_batches_are_made_than_prefetch_allows(photo: MakePhoto, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = Decoded.of
    monkeypatch.setattr(Decoded, "of", lambda images, rows_B: made.append(rows_B) or real(images, rows_B))
    section = DecodeSection(device="cpu", prefetch=3)
    batches = iter(ImageStream([photo("a.jpg")], [np.array([0])] * 50, section, HOST))
    next(batches)
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    # Three wait, one is in the consumer's hands, one is held by the thread until there is room.
    assert len(made) == 5
    batches.close()


def test_an_error_in_the_thread_reaches_the_consumer(
    photo: MakePhoto, section: DecodeSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo("a.jpg")]
    stream = ImageStream(paths, [np.array([0]), np.array([7])], section, HOST)
    with pytest.raises(IndexError):
        list(stream)

    def fail(paths: Sequence[str]) -> list[bytes | str]:
        raise MemoryError("no room")

    monkeypatch.setattr(stream_module, "_read", fail)
    with pytest.raises(MemoryError, match="no room"):
        list(ImageStream(paths, [np.array([0])], section, HOST))


def test_what_is_wanted_is_asked_for_the_right_photos(photo: MakePhoto, damaged: dict[str, str]) -> None:
    if not jpeg.available():
        pytest.skip(jpeg.why_not())
    paths = [damaged["text"], photo("a.jpg", 100, 200), photo("b.jpg", 120, 80, orientation=6), photo("c.png", 50, 60)]
    asked: list[tuple[list[int], list[list[int]]]] = []

    def want(rows_B: np.ndarray, sizes_B2: np.ndarray) -> tuple[Plan, list[Part]]:
        asked.append((rows_B.tolist(), sizes_B2.tolist()))
        return plan_for(len(rows_B)), [Part(40, 30, 70, 60, 2)] * len(rows_B)

    section = DecodeSection(device="cpu", decoder="turbo")
    (decoded,) = ImageStream(paths, [np.array([3, 0, 2, 1])], section, HOST, want)
    assert asked == [([2, 1], [[80, 120], [100, 200]])]
    assert decoded.rows_B.tolist() == [3, 2, 1]
    assert decoded.plan is None, "it was drawn for two of the three"
    assert decoded.sizes_B2.tolist() == [[50, 60], [80, 120], [100, 200]]
    assert decoded.frame_B5 is not None and decoded.frame_B5[:, 4].tolist() == [1, 2, 2]
    for pixels, (_, _, x, y, r) in zip(decoded.images.tensors[1:], decoded.frame_B5[1:].tolist(), strict=True):
        assert x <= 40 and y <= 30 and pixels.shape[0] * r < 80 and pixels.shape[1] * r < 120


def plan_for(batch: int) -> Plan:
    return Plan(8, 8, torch.eye(3).repeat(batch, 1, 1), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_a_plan_for_whole_photos_is_fitted_to_their_parts(photo: MakePhoto) -> None:
    if not jpeg.available():
        pytest.skip(jpeg.why_not())

    def want(rows_B: np.ndarray, sizes_B2: np.ndarray) -> tuple[Plan, list[Part]]:
        return plan_for(len(rows_B)), [Part(64, 16, 90, 40, 2)] * len(rows_B)

    section = DecodeSection(device="cpu", decoder="turbo")
    (decoded,) = ImageStream([photo("a.jpg", 60, 100)], [np.array([0])], section, HOST, want)
    assert decoded.frame_B5 is not None and decoded.plan is not None
    corner = decoded.frame_B5[0, 2:4].float()
    point_3 = decoded.plan.matrix_B33[0] @ torch.tensor([70.0, 20.0, 1.0])
    assert torch.allclose(point_3, torch.tensor([(70 - corner[0]) / 2, (20 - corner[1]) / 2, 1.0]))


def test_turbo_is_refused_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_load", lambda: "no compiler")
    assert not jpeg.available()
    with pytest.raises(RecipeError, match="no compiler"):
        ImageStream([], [], DecodeSection(device="cpu", decoder="turbo"), HOST)


def test_auto_decodes_without_the_compiled_library(photo: MakePhoto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_load", lambda: "no compiler")
    path = photo("a.jpg")
    found, _ = decode_all([path], DecodeSection(device="cpu"))
    assert_as_pil(found[0], path)


def test_a_gpu_is_not_promised_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RecipeError, match=r"decode\.device"):
        ImageStream([], [], DecodeSection(device="gpu"), HOST)


@pytest.mark.gpu
def test_the_gpu_decodes_what_the_cpu_decodes(photo: MakePhoto, damaged: dict[str, str]) -> None:
    paths = [photo("a.jpg", 90, 120), damaged["text"], photo("b.jpg", 60, 50, orientation=6), photo("c.png")]
    device = torch.device("cuda", 0)
    stream = ImageStream(paths, [np.arange(4)], DecodeSection(device="gpu"), device)
    (decoded,) = stream
    assert decoded.rows_B.tolist() == [0, 2, 3] and set(stream.quarantine) == {damaged["text"]}
    for row, pixels in zip(decoded.rows_B.tolist(), decoded.images.tensors, strict=True):
        assert pixels.device == device
        assert_as_pil(pixels.cpu().numpy(), paths[row], mean=1.5)
