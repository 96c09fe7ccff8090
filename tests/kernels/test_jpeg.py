"""The compiled JPEG decoder: the right pixels of any region at any reduction, and no harm from damaged files."""

from __future__ import annotations

import importlib.machinery
import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from engine.kernels import jpeg
from engine.kernels.jpeg import Header, Region, decode

pytestmark = pytest.mark.skipif(not jpeg.available(), reason=jpeg.why_not())


def upright(stored: Image.Image, orientation: int) -> Image.Image:
    """As PIL turns it by EXIF."""
    image = stored.copy()
    image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)


def stored(upright_image: Image.Image, orientation: int) -> Image.Image:
    """The image that is turned into this one: quarter turns are each other's inverse, all else its own."""
    return upright(upright_image, {6: 8, 8: 6}.get(orientation, orientation))


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours with an edge, as photos have: chroma that a decoder interpolates."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    pixels_HW3 = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    pixels_HW3[height // 3 : height // 2, width // 4 : width // 2] = (200, 30, 60)
    return Image.fromarray(pixels_HW3)


def encode(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, "subsampling": 2, **options})
    return file.getvalue()


def plain(encoded: bytes) -> np.ndarray:
    """The whole image, by PIL."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def decode_one(encoded: bytes, header: Header, region: Region) -> jpeg.Decoded:
    (decoded,) = decode([encoded], [header], [region], threads=1)
    assert decoded is not None
    return decoded


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"quality": 20},
    ],
    ids=str,
)
def test_a_whole_image_has_the_pixels_that_pil_decodes(options: dict[str, object]) -> None:
    encoded = encode(photo(83, 121), **options)
    decoded = decode_one(encoded, Header(83, 121, 1), Region(0, 0, 121, 83))
    assert decoded[1:] == (0, 0, 1)
    assert np.abs(decoded.pixels_HW3.astype(int) - plain(encoded)).max() <= 2


def test_a_gray_image_has_the_same_value_in_all_channels() -> None:
    encoded = encode(photo(40, 50).convert("L"))
    pixels_HW3 = decode_one(encoded, Header(40, 50, 1), Region(0, 0, 50, 40)).pixels_HW3
    assert np.array_equal(pixels_HW3, plain(encoded))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_region_has_exactly_the_pixels_of_the_whole_turned_upright(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 150), st.integers(1, 150)), label="stored size")
    header = Header(height, width, data.draw(st.integers(1, 8), label="orientation"))
    encoded = encode(photo(height, width), subsampling=data.draw(st.integers(0, 2), label="subsampling"))
    up_height, up_width = header.upright
    x0 = data.draw(st.integers(0, up_width - 1), label="x0")
    y0 = data.draw(st.integers(0, up_height - 1), label="y0")
    x1 = data.draw(st.integers(x0 + 1, up_width), label="x1")
    y1 = data.draw(st.integers(y0 + 1, up_height), label="y1")

    decoded = decode_one(encoded, header, Region(x0, y0, x1, y1))

    whole = decode_one(encoded, header._replace(orientation=1), Region(0, 0, width, height)).pixels_HW3
    turned = np.asarray(upright(Image.fromarray(whole), header.orientation))
    left, top = x0 - decoded.x, y0 - decoded.y
    assert left >= 0 and top >= 0
    shown = decoded.pixels_HW3[top : top + y1 - y0, left : left + x1 - x0]
    assert np.array_equal(shown, turned[y0:y1, x0:x1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_reduced_region_lies_where_it_says(data: st.DataObject) -> None:
    """A ramp in x (red) and y (green) shows in every pixel which source pixels it stands for."""
    height, width = data.draw(st.tuples(st.integers(60, 200), st.integers(60, 200)), label="upright size")
    orientation = data.draw(st.integers(1, 8), label="orientation")
    r = data.draw(st.sampled_from([2, 4, 8]), label="reduction")
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(width)
    ramp[..., 1] = np.arange(height)[:, None]
    image = stored(Image.fromarray(ramp), orientation)
    encoded = encode(image, quality=100, subsampling=0)
    header = Header(image.height, image.width, orientation)
    x0 = data.draw(st.integers(0, width - 1), label="x0")
    y0 = data.draw(st.integers(0, height - 1), label="y0")
    region = Region(x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)), r)

    decoded = decode_one(encoded, header, region)

    rows, columns, _ = decoded.pixels_HW3.shape
    assert decoded.x <= region.x0 and decoded.x + columns * r >= region.x1
    assert decoded.y <= region.y0 and decoded.y + rows * r >= region.y1
    # The middle of each pixel's span; the last span may be cut short by the image's edge.
    red = decoded.x + (np.arange(columns) + 0.5) * r - 0.5
    green = decoded.y + (np.arange(rows) + 0.5) * r - 0.5
    inside_x = (red >= r / 2) & (red <= width - 1 - r / 2)
    inside_y = (green >= r / 2) & (green <= height - 1 - r / 2)
    seen = decoded.pixels_HW3[inside_y][:, inside_x].astype(float)
    assert np.abs(seen[..., 0] - red[inside_x]).max(initial=0) <= 2.5
    assert np.abs(seen[..., 1] - green[inside_y][:, None]).max(initial=0) <= 2.5


def test_a_reduced_photo_is_the_average_of_its_pixels() -> None:
    image = photo(160, 240)
    encoded = encode(image, quality=95)
    for r in (2, 4, 8):
        reduced = decode_one(encoded, Header(160, 240, 1), Region(0, 0, 240, 160, r)).pixels_HW3
        boxed = np.asarray(Image.fromarray(plain(encoded)).reduce(r))
        assert np.abs(reduced.astype(int) - boxed).mean() < 1.5


def test_a_large_photo_can_be_decoded_in_many_threads_into_given_memory() -> None:
    encoded = [encode(photo(90 + i, 70 + 2 * i, seed=i)) for i in range(20)]
    headers = [Header(90 + i, 70 + 2 * i, 1) for i in range(20)]
    regions = [Region(3, 5, 60, 80)] * 20
    memory = np.empty(2**20, dtype=np.uint8)
    together = decode(encoded, headers, regions, threads=4, memory=lambda count: memory[:count])
    for content, header, region, decoded in zip(encoded, headers, regions, together, strict=True):
        assert decoded is not None and np.shares_memory(decoded.pixels_HW3, memory)
        assert np.array_equal(decoded.pixels_HW3, decode_one(content, header, region).pixels_HW3)


def test_a_library_that_was_not_built_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [".nowhere"])
        jpeg._load.cache_clear()
        assert not jpeg.available() and "was not built" in jpeg.why_not()
        with pytest.raises(RuntimeError, match="was not built"):
            decode([WHOLE], [Header(64, 80, 1)], [Region(0, 0, 80, 64)], threads=1)
    jpeg._load.cache_clear()
    assert jpeg.available()


def test_nothing_to_decode_is_no_error() -> None:
    assert decode([], [], [], threads=2) == []


WHOLE = encode(photo(64, 80))
NOT_DECODED = {
    "text": b"this is no image",
    "empty": b"",
    "header only": WHOLE[:200],
    "cut off": WHOLE[: len(WHOLE) // 2],
    "scrambled": WHOLE[:700] + bytes(range(256)) * 2 + WHOLE[1212:],
    "CMYK": encode(photo(64, 80).convert("CMYK")),
    "of another size": encode(photo(65, 80)),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("name", NOT_DECODED)
def test_what_cannot_be_decoded_is_left_to_another_decoder_and_its_neighbours_are_not(name: str) -> None:
    header, region = Header(64, 80, 1), Region(0, 0, 80, 64)
    before, bad, after = decode([WHOLE, NOT_DECODED[name], WHOLE], [header] * 3, [region] * 3, threads=1)
    assert bad is None
    assert before is not None and after is not None
    assert np.array_equal(before.pixels_HW3, after.pixels_HW3)


def test_a_file_cut_off_below_the_region_is_noticed() -> None:
    region = Region(0, 0, 80, 16)
    assert decode([WHOLE[:-200]], [Header(64, 80, 1)], [region], threads=1) == [None]


def test_a_second_frame_below_the_region_is_noticed() -> None:
    """What stops libjpeg in the whole photo stops it in each part, so that a file has one verdict."""
    frame = WHOLE.index(b"\xff\xc0")
    middle = len(WHOLE) - 150
    spoilt = WHOLE[:middle] + WHOLE[frame : frame + 19] + WHOLE[middle:]
    assert decode([spoilt], [Header(64, 80, 1)], [Region(0, 0, 80, 8)], threads=1) == [None]


def test_what_a_camera_writes_behind_the_image_does_no_harm() -> None:
    decoded = decode_one(WHOLE + b"maker's notes" * 20, Header(64, 80, 1), Region(0, 0, 80, 16))
    assert np.array_equal(decoded.pixels_HW3[:16], plain(WHOLE)[:16])


@pytest.mark.parametrize(
    "region",
    [Region(0, 0, 81, 64), Region(-1, 0, 80, 64), Region(5, 0, 5, 64), Region(0, 10, 80, 9), Region(0, 0, 80, 64, 3)],
    ids=str,
)
def test_a_region_that_is_not_there_is_refused(region: Region) -> None:
    with pytest.raises(ValueError, match="Region"):
        decode([WHOLE], [Header(64, 80, 1)], [region], threads=1)


OPTIONS = [
    {},
    {"subsampling": 0, "quality": 99},
    {"subsampling": 1, "quality": 30},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3, "subsampling": 0},
    {"optimize": True, "quality": 97},
    {"quality": 1},
    {"progressive": True},
]


def both(content: bytes, header: Header, region: Region, fast: bool = False) -> tuple[np.ndarray | None, ...]:
    """What comes of a file by our reading of its codes, and by libjpeg-turbo's."""
    return tuple(
        None if found is None else found.pixels_HW3
        for alone in (False, True)
        for found in decode([content], [header], [region], threads=1, fast=fast, alone=alone)
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("fast", [False, True])
def test_our_reading_of_the_codes_changes_no_pixel(options: dict[str, object], fast: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (70, 53, 3), dtype=np.uint8)
    for image in (photo(83, 121), photo(16, 16), photo(7, 200).convert("L"), Image.fromarray(noise)):
        for region in (
            (0, 0, image.width, image.height),
            (image.width // 2, image.height // 2, image.width, image.height),
        ):
            for reduction in (1, 2, 8):
                ours, theirs = both(
                    encode(image, **options), Header(image.height, image.width, 1), Region(*region, reduction), fast
                )
                assert ours is not None and theirs is not None
                assert np.array_equal(ours, theirs)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_our_reading_of_the_codes_changes_no_verdict(data: st.DataObject) -> None:
    """Bytes changed, taken out and put in anywhere: what libjpeg-turbo makes of the file is what comes of it."""
    content = bytearray(encode(photo(70, 90), **data.draw(st.sampled_from(OPTIONS), label="options")))
    for _ in range(data.draw(st.integers(1, 3), label="damages")):
        at = data.draw(st.integers(2, len(content)), label="at")
        out, put = data.draw(st.integers(0, 2), label="bytes out"), data.draw(st.binary(max_size=3), label="bytes in")
        content[at : at + out] = put
    y = data.draw(st.integers(0, 60), label="from row")
    ours, theirs = both(bytes(content), Header(70, 90, 1), Region(0, y, 90, y + 10))
    assert (ours is None) == (theirs is None)
    assert ours is None or theirs is None or np.array_equal(ours, theirs)


def test_tables_of_many_files_do_not_push_out_those_of_the_file_at_hand() -> None:
    """A thread keeps tables from file to file. These have one for DC alike, and each another one for AC: the longest
    codes, which a smooth image does not use, change places."""
    content, header = encode(photo(64, 80).convert("L")), Header(64, 80, 1)
    end = content.index(b"\xff\xda")
    longest = content[end - 20 : end]
    contents = [content[: end - 20] + longest[i:] + longest[:i] + content[end:] for i in range(20)]
    decoded = decode(contents, [header] * 20, [Region(0, 0, 80, 64)] * 20, threads=1)
    for one in decoded:
        assert one is not None and np.array_equal(one.pixels_HW3, plain(content))


@pytest.mark.parametrize("spare", range(10))
def test_bytes_behind_the_last_code_are_judged_by_libjpeg_turbo(spare: int) -> None:
    content = encode(photo(70, 90), restart_marker_rows=1)
    for mark in (content.index(b"\xff\xd0"), len(content) - 2):
        ours, theirs = both(content[:mark] + bytes(spare) + content[mark:], Header(70, 90, 1), Region(0, 0, 90, 70))
        assert (ours is None) == (theirs is None)


def test_fast_pixels_are_a_little_off_and_a_region_has_those_of_the_whole() -> None:
    content, header = encode(photo(120, 160)), Header(120, 160, 1)
    (whole,) = decode([content], [header], [Region(0, 0, 160, 120)], threads=1, fast=True)
    (part,) = decode([content], [header], [Region(70, 33, 150, 90)], threads=1, fast=True)
    assert whole is not None and part is not None
    off = np.abs(whole.pixels_HW3.astype(int) - decode_one(content, header, Region(0, 0, 160, 120)).pixels_HW3)
    assert 0 < off.mean() < 4  # of colours that change as fast as few photos' do
    rows, columns, _ = part.pixels_HW3.shape
    assert np.array_equal(part.pixels_HW3, whole.pixels_HW3[part.y : part.y + rows, part.x : part.x + columns])


def test_damage_anywhere_in_a_file_crashes_nothing() -> None:
    """In a process of its own, so that a crash would fail this test alone."""
    program = """
        import io
        import numpy as np
        from PIL import Image
        from engine.kernels.jpeg import Header, Region, decode

        random = np.random.default_rng(0)
        file = io.BytesIO()
        pixels = np.asarray(Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((90, 70)))
        contents = []
        for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", **options)
            contents.append(np.frombuffer(file.getvalue(), np.uint8))
        done = 0
        for round in range(400):
            content = contents[round % 4].copy()
            places = random.integers(2, len(content), random.integers(1, 6))
            content[places] = random.integers(0, 256, len(places))
            content = content[: random.integers(2, len(content) + 1)] if round % 3 == 0 else content
            x, y, orientation, power = random.integers([0, 0, 1, 0], [40, 30, 5, 4]).tolist()
            region, header = Region(x, y, 90, 70, 2**power), Header(70, 90, orientation)
            done += decode([content.tobytes()], [header], [region], threads=1) != [None]
        print("survived", done)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith("survived")
