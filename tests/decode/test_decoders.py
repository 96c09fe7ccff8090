"""The decoders: files are opened, then regions of them decoded; the right pixels, the same verdicts, whatever the
neighbours are."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.decode.choose import decoder_for
from engine.decode.dali import DaliDecoder
from engine.decode.decoder import Decoder, Opened, Pixels
from engine.decode.turbo import TurboDecoder
from engine.errors import RecipeError
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
    return [one._replace(pixels_HW3=one.pixels_HW3.clone()) for one in found if isinstance(one, Pixels)]


def seen(decoder: Decoder, paths: Sequence[str]) -> list[np.ndarray]:
    return [one.pixels_HW3.numpy() for one in decoded(decoder, paths)]


def verdicts(decoder: Decoder, contents: Sequence[bytes]) -> list[str]:
    """What becomes of each file: "good", or the kind of its fault."""
    found = decoder.open(contents)
    good = iter(decoder.pixels([one for one in found if isinstance(one, Opened)]))
    ends = [one if isinstance(one, Fault) else next(good) for one in found]
    return [str(one.kind) if isinstance(one, Fault) else "good" for one in ends]


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
    bad = {"text": "not an image", "gif": "not an image", "zeros": "not an image", "cut off": "damaged"}
    bad["header only"] = "not an image"
    paths = [path for pair in zip([*good, *good], [*map(damaged.get, bad), good[0]], strict=True) for path in pair]
    expected = [kind for pair in zip(["good"] * 6, [*bad.values(), "good"], strict=True) for kind in pair]
    contents = read([path for path in paths if path is not None])
    assert verdicts(decoder, contents) == expected
    assert [verdicts(decoder, [content])[0] for content in contents] == expected, "alone as among others"
    (fault,) = decoder.open(read([damaged["text"]]))
    assert isinstance(fault, Fault) and fault.kind is FaultKind.NOT_AN_IMAGE
    assert str(fault).startswith("is not an image DALI can decode (")


def test_nothing_to_decode_is_nothing_decoded(decoder: Decoder) -> None:
    assert decoder.open([]) == [] and decoder.pixels([]) == []


@turbo_only
def test_libjpeg_turbo_brings_the_region_and_dali_all_of_the_photo(photo: MakePhoto) -> None:
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
def test_what_libjpeg_turbo_cannot_take_is_what_dali_says(photo: MakePhoto, damaged: dict[str, str]) -> None:
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
