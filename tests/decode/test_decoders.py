"""The decoders: files are opened, then regions of them decoded; the right pixels, the same verdicts, whatever the
neighbours are."""

from __future__ import annotations

import gc
import io
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from engine import pictures
from engine.decode.choose import decoder_for
from engine.decode.dali import DaliDecoder, tensor_of
from engine.decode.decoder import Decoder, Opened, Pixels
from engine.decode.turbo import TurboDecoder
from engine.errors import EngineError, RecipeError
from engine.hush import hushed
from engine.kernels import jpeg
from engine.kernels.jpeg import Region
from engine.quarantine import Fault, FaultKind
from engine.recipe.sections import DecodeSection

from ..conftest import HOST, MakePhoto, assert_as_pil, by_pil

turbo_only = pytest.mark.skipif(not jpeg.available(), reason=jpeg.why_not())


@pytest.fixture
def decoder(section: DecodeSection) -> Decoder:
    """Each decoder on the CPU in turn."""
    return decoder_for(section, HOST)


def read(paths: Sequence[str]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


def opened(decoder: Decoder, paths: Sequence[str]) -> list[Opened]:
    """Files that all have a sound header."""
    found = decoder.open(read(paths))
    assert not [one for one in found if isinstance(one, Fault)]
    return [one for one in found if isinstance(one, Opened)]


def decoded(decoder: Decoder, paths: Sequence[str], regions: Sequence[Region] | None = None) -> list[Pixels]:
    """Photos that are all good, copied out of the decoder's memory."""
    found = decoder.pixels(opened(decoder, paths), regions)
    assert not [one for one in found if isinstance(one, Fault)]
    return [one._replace(image=one.pixels_HW3.clone()) for one in found if isinstance(one, Pixels)]


def seen(decoder: Decoder, paths: Sequence[str]) -> list[np.ndarray]:
    return [one.pixels_HW3.numpy() for one in decoded(decoder, paths)]


def verdicts(decoder: Decoder, contents: Sequence[bytes]) -> list[str]:
    """What becomes of each file: "good", or the kind of its fault."""
    found = decoder.open(contents)
    good = iter(decoder.pixels([one for one in found if isinstance(one, Opened)]))
    ends = [one if isinstance(one, Fault) else next(good) for one in found]
    return [str(one.kind) if isinstance(one, Fault) else "good" for one in ends]


@pytest.mark.parametrize("keys", [{"decoder": "dali"}, {"device": "gpu"}])
def test_fast_decoding_is_refused_where_there_is_none(keys: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="fast: DALI has nothing of the kind"):
        DecodeSection.model_validate({"fast": "on", **keys})


def test_images_keep_their_own_sizes_and_have_the_pixels_that_pil_decodes(photo: MakePhoto, decoder: Decoder) -> None:
    sizes = [(48, 64), (1, 1), (7, 120), (90, 33), (64, 64)]
    paths = [photo(f"{i}.jpg", *size) for i, size in enumerate(sizes)]
    found = seen(decoder, paths)
    assert [pixels_HW3.shape[:2] for pixels_HW3 in found] == sizes
    for pixels_HW3, path in zip(found, paths, strict=True):
        assert_as_pil(pixels_HW3, path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright_whatever_their_exif_orientation(
    photo: MakePhoto, decoder: Decoder, orientation: int
) -> None:
    path = photo("turned.jpg", 40, 64, orientation=orientation)
    (pixels_HW3,) = seen(decoder, [path])
    assert_as_pil(pixels_HW3, path)


def every_format(photo: MakePhoto) -> list[str]:
    return [
        photo("gray.jpg", mode="L"),
        photo("progressive.jpg", progressive=True),
        photo("rgb.png"),
        photo("turned.png", orientation=6),
        photo("gray.png", mode="L"),
        photo("palette.png", mode="P"),
        photo("lossy.webp", quality=95),
        photo("plain.bmp"),
    ]


def test_any_kind_of_image_becomes_rgb(photo: MakePhoto, decoder: Decoder) -> None:
    paths = every_format(photo)
    for pixels_HW3, path in zip(seen(decoder, paths), paths, strict=True):
        assert_as_pil(pixels_HW3, path)


def test_an_opened_file_has_its_size_upright_before_it_is_decoded(photo: MakePhoto, decoder: Decoder) -> None:
    paths = [*every_format(photo), photo("print.jpg", 30, 70, mode="CMYK", orientation=8), photo("big.jpg", 900, 31)]
    sizes = [(one.height, one.width) for one in opened(decoder, paths)]
    assert sizes == [by_pil(path).shape[:2] for path in paths]
    assert sizes == [(one.height, one.width) for one in decoded(decoder, paths)]


@turbo_only
def test_both_decoders_give_the_same_pixels(photo: MakePhoto) -> None:
    paths = [photo(f"{i}.jpg", 70 + i, 90, quality=50 + 6 * i, subsampling=i % 3, orientation=1 + i) for i in range(8)]
    paths += [photo("gray.jpg", mode="L"), photo("progressive.jpg", progressive=True), photo("print.jpg", mode="CMYK")]
    for turbo, dali in zip(seen(TurboDecoder(2), paths), seen(DaliDecoder(HOST), paths), strict=True):
        difference = np.abs(turbo.astype(int) - dali)
        assert difference.max() <= 3 and difference.mean() < 0.2


def test_cmyk_becomes_rgb_of_its_size(photo: MakePhoto, decoder: Decoder) -> None:
    """Only roughly PIL's colours: there is no one way from CMYK to RGB without a profile."""
    path = photo("print.jpg", mode="CMYK")
    (pixels_HW3,) = seen(decoder, [path])
    assert np.abs(pixels_HW3.astype(int) - by_pil(path)).mean() < 40


def test_a_bad_file_is_named_by_kind_and_costs_its_neighbours_nothing(
    photo: MakePhoto, damaged: dict[str, str], decoder: Decoder
) -> None:
    good = [photo("a.jpg", 30, 40), photo("b.png", 50, 20), photo("c.jpg", 20, 60)]
    bad = {"text": "not an image", "heic": "not an image", "zeros": "not an image", "cut off": "damaged"}
    bad["header only"] = "not an image"
    paths = [path for pair in zip([*good, *good], [*map(damaged.get, bad), good[0]], strict=True) for path in pair]
    expected = [kind for pair in zip(["good"] * 6, [*bad.values(), "good"], strict=True) for kind in pair]
    contents = read([path for path in paths if path is not None])
    assert verdicts(decoder, contents) == expected
    assert [verdicts(decoder, [content])[0] for content in contents] == expected, "alone as among others"
    (fault,) = decoder.open(read([damaged["text"]]))
    assert isinstance(fault, Fault) and fault.kind is FaultKind.NOT_AN_IMAGE
    assert str(fault) == "is not an image of a known format"


def test_nothing_to_decode_is_nothing_decoded(decoder: Decoder) -> None:
    assert decoder.open([]) == [] and decoder.pixels([]) == []


@turbo_only
def test_libjpeg_turbo_brings_the_region_and_others_all_of_the_photo(photo: MakePhoto) -> None:
    paths = [photo("a.jpg", 200, 300), photo("b.png", 200, 300), photo("c.jpg", 300, 200, orientation=6)]
    region = Region(150, 90, 180, 120, 2)
    first, png, turned = decoded(TurboDecoder(1), paths, [region] * 3)
    for part in (first, turned):
        rows, columns = part.pixels_HW3.shape[:2]
        assert part.reduction == 2 and (part.height, part.width) == (200, 300)
        assert part.x <= 150 and part.x + 2 * columns >= 180 and part.y <= 90 and part.y + 2 * rows >= 120
        assert rows * columns * 4 < 200 * 300 / 4
    assert png[1:] == (200, 300, 0, 0, 1) and png.pixels_HW3.shape == (200, 300, 3)
    for whole in decoded(DaliDecoder(HOST), paths, [region] * 3):
        assert whole[1:] == (200, 300, 0, 0, 1) and whole.pixels_HW3.shape == (200, 300, 3)


@turbo_only
def test_what_libjpeg_turbo_cannot_take_is_what_it_is_behind_dali(photo: MakePhoto, damaged: dict[str, str]) -> None:
    """A file with a sound header and a hole in its pixels, and one in colours that libjpeg-turbo leaves alone."""
    paths = [photo("a.jpg"), photo("print.jpg", mode="CMYK"), damaged["cut off"]]
    assert verdicts(TurboDecoder(1), read(paths)) == verdicts(DaliDecoder(HOST), read(paths))
    taken = seen(TurboDecoder(1), paths[1:2])[0]
    assert np.array_equal(taken, seen(DaliDecoder(HOST), paths[1:2])[0])


@turbo_only
def test_dali_is_not_loaded_for_jpegs_that_libjpeg_turbo_takes(photo: MakePhoto) -> None:
    program = """
        import sys
        from pathlib import Path
        from engine.decode.turbo import TurboDecoder

        decoder = TurboDecoder(1)
        (opened,) = decoder.open([Path(sys.argv[1]).read_bytes()])
        (pixels,) = decoder.pixels([opened])
        print(tuple(pixels.pixels_HW3.shape), "nvidia.dali" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), photo("a.jpg", 30, 40)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.stdout.split("\n")[0] == "(30, 40, 3) False", run.stderr[-2000:]


def test_turbo_is_refused_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_load", lambda: "no compiler")
    assert not jpeg.available()
    with pytest.raises(RecipeError, match="no compiler"):
        decoder_for(DecodeSection(device="cpu", decoder="turbo"), HOST)
    with pytest.raises(RecipeError, match=r"decode\.device"):
        decoder_for(DecodeSection(device="gpu", decoder="turbo"), HOST)


def test_auto_decodes_without_the_compiled_library(photo: MakePhoto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_load", lambda: "no compiler")
    path = photo("a.jpg")
    (pixels_HW3,) = seen(decoder_for(DecodeSection(device="cpu"), HOST), [path])
    assert_as_pil(pixels_HW3, path)


def test_a_gpu_is_not_promised_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RecipeError, match=r"decode\.device"):
        decoder_for(DecodeSection(device="gpu"), HOST)


# DALI's own ways


class Pinned:
    """Stands in for what DALI makes where there is a GPU: a tensor in pinned memory, whose capsule torch refuses."""

    def __init__(self, pixels_HW3: np.ndarray) -> None:
        self._pixels = pixels_HW3
        self.__array_interface__ = pixels_HW3.__array_interface__

    def __dlpack_device__(self) -> tuple[int, int]:
        return 3, 0  # kDLCUDAHost

    def __dlpack__(self, **_: object) -> object:
        raise BufferError("torch takes no capsule of pinned memory")

    def torch(self) -> torch.Tensor:
        import nvidia.dali.experimental.dynamic as ndd

        return ndd.Tensor.torch(self)  # DALI's own way to torch, on this


def test_pinned_pixels_become_a_tensor_without_a_copy() -> None:
    pixels_HW3 = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    pinned = Pinned(pixels_HW3)
    with pytest.raises(BufferError):
        torch.from_dlpack(pinned)
    tensor = tensor_of(pinned)
    assert np.array_equal(tensor.numpy(), pixels_HW3) and tensor.data_ptr() == pixels_HW3.ctypes.data


def test_a_gpu_s_model_has_its_photos_decoded_beside_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decode thread's own device is 0, whatever the rank's."""
    import nvidia.dali.experimental.dynamic as ndd

    asked: list[object] = []
    monkeypatch.setattr(ndd, "EvalContext", lambda **how: asked.append(how["device_id"]))
    decoder = decoder_for(DecodeSection(device="cpu", decoder="dali"), torch.device("cuda:3"))
    assert isinstance(decoder, DaliDecoder) and decoder.device == HOST
    _ = decoder._dali, DaliDecoder(HOST)._dali, DaliDecoder(torch.device("cuda:1"))._dali
    assert asked == [3, None, 1]


class Broken(DaliDecoder):
    """On a GPU that fails: DALI raises `error` for every batch. Pixels stay on the CPU, where there is no GPU."""

    def __init__(self, error: Exception) -> None:
        super().__init__(torch.device("cuda:0"), 1)
        self._error = error

    def _decode(self, opened: Sequence[Opened]) -> list[Pixels]:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access"),
        RuntimeError("Error in thread 0: Can't allocate 4294967296 bytes on device 0."),
        MemoryError("std::bad_alloc"),
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_fault_of_the_device_makes_no_bad_files(photo: MakePhoto, error: Exception, count: int) -> None:
    decoder = Broken(error)
    with pytest.raises(EngineError, match=r"files are not at fault.*smaller batch.*decode\.device"):
        decoder.pixels(opened(decoder, [photo(f"{i}.jpg") for i in range(count)]))


def test_a_device_that_refuses_every_file_is_at_fault_itself(
    photo: MakePhoto, damaged: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Broken(RuntimeError("Failed to decode sample #0"))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)  # there is no GPU to go to
    with pytest.raises(EngineError, match=r"refused all of 2 JPEGs, of which Pillow reads 2"):
        decoder.pixels(opened(decoder, [photo("a.jpg"), photo("b.jpg")]))
    middle = len(read([photo("c.jpg")])[0]) // 2
    bad = [
        content[:middle] + b"\xff\xc0\0\x0b" + content[middle:] for content in read([photo("d.jpg"), photo("e.jpg")])
    ]
    headers = [one for one in decoder.open(bad) if isinstance(one, Opened)]
    assert [type(one) for one in decoder.pixels(headers)] == [Fault, Fault]  # Pillow refuses them, too
    alone = decoder.pixels(opened(decoder, [photo("f.jpg")]))  # one file says nothing
    assert isinstance(alone[0], Pixels)


def test_what_dali_prints_stays_off_the_terminal(photo: MakePhoto, capfd: pytest.CaptureFixture[str]) -> None:
    (content,) = read([photo("a.jpg", 200, 300)])
    middle = len(content) * 2 // 3
    hole = content[:middle] + b"\xff\x00" * 8 + bytes(24) + content[middle + 40 :]
    contents = [content, hole, content[:middle] + b"\xff\xd9"]
    decoder = DaliDecoder(HOST, 1)
    found = decoder.pixels([one for one in decoder.open(contents) if isinstance(one, Opened)])
    assert [type(one) for one in found] == [Pixels] * 3
    assert capfd.readouterr().err == ""


def test_what_libtiff_prints_stays_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (40, 56), np.uint8)).save(
        file, "TIFF", compression="tiff_lzw"
    )
    content = file.getvalue()
    (start, *_) = Image.open(file).tag_v2[273]  # where its pixels are
    content = content[: start + 20] + b"\x55" * 40 + content[start + 60 :]
    assert isinstance(pictures.read_pixels(content), Fault)
    assert capfd.readouterr().err == ""
    with pytest.raises(OSError, match="-2"), Image.open(io.BytesIO(content)) as image:
        image.load()
    assert "tempfile.tif" in capfd.readouterr().err  # as it would have been


def test_what_others_print_meanwhile_is_written_on(capfd: pytest.CaptureFixture[str]) -> None:
    with hushed(), hushed():
        os.write(2, b"epoch 1 of 3\nCorrupt JPEG data: premature end of data segment\nloss 0.5")
        assert capfd.readouterr().err == ""
    os.write(2, b"!\n")
    assert capfd.readouterr().err == "epoch 1 of 3\nloss 0.5!\n"


# What a recipe says


def test_more_pixels_than_the_recipe_allows_are_refused_unseen(photo: MakePhoto, section: DecodeSection) -> None:
    decoder = decoder_for(section.model_copy(update={"max_megapixels": 0.004}), HOST)
    paths = [
        photo("small.jpg", 50, 60),
        photo("large.jpg", 70, 60),
        photo("large.png", 70, 60),
        photo("at.png", 50, 80),
    ]
    found = decoder.open(read(paths))
    assert [isinstance(one, Fault) for one in found] == [False, True, True, False]
    assert pictures.too_large(12240, 16320, DecodeSection().max_megapixels) is None  # the largest that phones make
    for fault in found[1:3]:
        assert isinstance(fault, Fault) and fault.kind is FaultKind.TOO_LARGE
        assert re.search(r"60 x 70 pixels.*decode\.max_megapixels = 0\.004", fault.detail)


def test_no_memory_for_one_picture_costs_no_other(
    photo: MakePhoto, section: DecodeSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = pictures._rgb

    def no_room(image: Image.Image, *rest: object) -> np.ndarray:
        if image.height == 70:
            raise MemoryError
        return rgb(image, *rest)

    monkeypatch.setattr(pictures, "_rgb", no_room)
    decoder = decoder_for(section, HOST)
    good, bad, also = decoder.pixels(opened(decoder, [photo("a.jpg"), photo("b.png", 70), photo("c.png")]))
    assert isinstance(good, Pixels) and isinstance(also, Pixels)
    assert isinstance(bad, Fault) and "MiB of memory" in bad.detail


def test_transparent_pictures_lie_over_the_background(tmp_path: Path, section: DecodeSection) -> None:
    Image.new("RGBA", (4, 3), (200, 100, 50, 51)).save(tmp_path / "a.png")  # a fifth of it
    for background, expected in (((1.0, 1.0, 1.0), (244, 224, 214)), ((0.0, 0.5, 1.0), (40, 122, 214))):
        decoder = decoder_for(section.model_copy(update={"background": background}), HOST)
        (pixels_HW3,) = seen(decoder, [str(tmp_path / "a.png")])
        assert np.array_equal(np.unique(pixels_HW3.reshape(-1, 3), axis=0), [expected])


def test_dali_gives_back_a_batch_without_the_help_of_the_collector(photo: MakePhoto) -> None:
    """Its batches and their tensors refer to each other; nobody would notice in time how large they are."""
    import nvidia.dali.experimental.dynamic as ndd

    decoder = DaliDecoder(HOST, threads=1)
    paths = [photo("a.jpg"), photo("b.jpg", 70)]
    decoded(decoder, paths)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            decoded(decoder, paths)
        left = [one for one in gc.get_objects() if type(one) in (ndd.Batch, ndd.Tensor)]
    finally:
        gc.enable()
    assert not left
