"""What is a picture, and which pixels it has: one rule, wherever a file is met.

Indexing reads headers, the data check looks at pixels, training and prediction decode, pages show small pictures. Each
with ideas of its own, they would see different pictures in one file, or one would refuse what another takes. So what
is an image, its size, how it is turned, what becomes of 16 bits, transparency and CMYK stands here, and all ask.

Plain JPEGs come by the million and are decoded by faster programs (see `decode`); here their headers are walked and
not given to Pillow, whose parser holds the interpreter's lock. Whatever else there is, Pillow reads, and it has the
last word on JPEGs that faster decoders refuse. The rules, which docs/formats.md shows kind by kind:

* A file is what its content says, whatever its name. Of several frames the first counts.
* A JPEG is damaged, and refused, when libjpeg stops at an error, the file ends before its picture does, or it promises
  more pixels than its bytes can hold. What libjpeg only warns of (a hole in the coded data, junk between markers), or a
  missing end marker, is read; the data check tells of it.
* Deeper values become 8 bits by scaling: v / 257, rounded, for 16. Floats and 32-bit integers are refused, because
  nothing says which value is white.
* Transparent pixels lie over a background, white unless told otherwise.
* EXIF turns the picture upright, whatever type of integer holds the orientation.
* Nothing raises: a file that cannot be used is a Fault, also when there is no memory for it.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from engine.hush import hushed
from engine.quarantine import Fault, FaultKind, read_file

RGB = tuple[float, float, float]  # shares, 0 to 1
WHITE: RGB = (1.0, 1.0, 1.0)

_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC
_BARE_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}  # RST0..7, SOI, TEM: no length follows
_JPEG_END = b"\xff\xd9"
_ENDS = re.compile(rb"\xff[\x01-\xc3\xc5-\xcf\xd8\xd9\xf0-\xfd]")  # the end, or what cannot come before it
_MOST_PIXELS_A_BYTE = 1024  # a block of 64 takes a bit or more of Huffman code, so there can be 512
_ORIENTATION_TAG, _SUBFILE_TAG, _DNG_TAG = 0x0112, 254, 50706
_EXIF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # EXIF 2.3, 4.6.2, and TIFF 6's signed ones

# Pillow's plugins that need another program (EPS runs Ghostscript), hold no pixels, or recognise nothing by a signature
# and so take text for a picture.
_NEVER = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IM", "IMT", "IPTC", "PCD", "SPIDER", "MCIDAS", "FPX", "MIC"}
_LAST = "TGA"  # has no signature but checks its header

_CONVERT = "which cannot be read here: convert it to JPEG or PNG"
# What people have and Pillow cannot read, by what a file begins with: what it is, and what to do.
_STRANGERS = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what)
    for pattern, what in (
        (rb"....ftyp(hei|hev|mif1|msf1)", f"is a HEIC photo, {_CONVERT}"),
        (rb"....ftypcrx", f"is a camera's raw file, {_CONVERT}"),
        (rb"....ftypavi[fs]", f"is an AVIF image, {_CONVERT}"),
        (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", "is a video: take the frames that are meant out of it, as JPEGs"),
        (rb"\xff\x0a|....JXL ", f"is a JPEG XL image, {_CONVERT}"),
        (rb"....jP  |\xff\x4f\xff\x51", f"is a JPEG 2000 image, {_CONVERT}"),
        (rb"II\xbc|WMPHOTO", f"is a JPEG XR image, {_CONVERT}"),
        (rb"\x76\x2f\x31\x01", f"is an OpenEXR image, {_CONVERT}"),
        (rb"#\?RA", f"is a Radiance HDR image, {_CONVERT}"),
        (rb"FUJIFILMCCD-RAW", f"is a camera's raw file, {_CONVERT}"),
        (rb"%PDF|%!PS|\xc5\xd0\xd3\xc6", f"is a PDF or PostScript document, {_CONVERT}"),
        (rb"\s*(<\?xml.*?\?>\s*)?(<!--.*?-->\s*)?(<!doctype svg.*?>\s*)?<svg", f"is an SVG drawing, {_CONVERT}"),
        (
            rb"\s*<(!doctype html|html|head|body)",
            "is a web page, perhaps of a download that failed: fetch the picture again",
        ),
        (rb"version https://git-lfs", "is a pointer of Git LFS: fetch the picture with git lfs pull"),
        (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "is an archive: unpack it"),
    )
)

_FAMILIAR = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"\xff\xd8", "JPEG"),
        (rb"\x89PNG", "PNG"),
        (rb"GIF8", "GIF"),
        (rb"II\*\0|MM\0\*", "TIFF"),
        (rb"RIFF....WEBP", "WebP"),
        (rb"BM", "BMP"),
    )
)


class Header(NamedTuple):
    """What a file says of itself. Height and width in pixels, as stored.

    `plain`: a JPEG that faster decoders are asked about first: 8 bits, gray or three colours, its segments sound up to
    the frame's, not cut off, and not of more pixels than its bytes can hold.
    """

    format: str  # Pillow's name of it, in small letters
    height: int
    width: int
    orientation: int = 1  # EXIF, 1 to 8
    plain: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after turning."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_header(content: bytes) -> Header | Fault:
    """What a file says of itself, or why it is no picture; not a pixel is decoded."""
    if content[:2] == b"\xff\xd8" and (header := _jpeg_header(content)) is not None:
        return header
    try:
        with _open(content) as image:
            return _header_of(image, content)
    except Exception as error:  # Pillow's plugins raise whatever they happen upon
        return Fault(FaultKind.NOT_AN_IMAGE, _why_not(content, error))


def read_pixels(content: bytes, background: RGB = WHITE) -> NDArray[np.uint8] | Fault:
    """A file's picture by Pillow: uint8 RGB (height, width, 3), upright. See the module for the rules."""
    header = read_header(content)
    if isinstance(header, Fault):
        return header
    try:
        if header.format == "jpeg" and (pixels_HW3 := _without_end(content)) is not None:
            return upright(pixels_HW3, header.orientation)
        with hushed() if header.format == "tiff" else nullcontext(), _open(content) as image:
            pixels_HW3 = _rgb(image, content, tuple(round(255 * share) for share in background))
    except MemoryError:
        need = 4 * header.height * header.width / 2**20
        return Fault(FaultKind.DAMAGED, f"needs {need:,.0f} MiB of memory to decode, which are not to be had")
    except Exception as error:
        return Fault(FaultKind.DAMAGED, f"cannot be decoded: {_words(error)}")
    # Pillow turns a TIFF by itself.
    return pixels_HW3 if header.format == "tiff" else upright(pixels_HW3, header.orientation)


def thumbnail(path: str, box: tuple[int, int], background: RGB, megapixels: float) -> Image.Image | Fault:
    """A file's picture, upright RGB, no larger than box (width, height); a JPEG is not decoded larger than that takes,
    and one of more than `megapixels` million pixels not at all."""
    content = read_file(path)
    if isinstance(content, Fault):
        return content
    header = read_header(content)
    if isinstance(header, Fault):
        return header
    if (fault := too_large(header.height, header.width, megapixels)) is not None:
        return fault
    small_HW3 = roughly(content, "RGB", max(box))[0] if header.plain else None
    pixels_HW3 = read_pixels(content, background) if small_HW3 is None else upright(small_HW3, header.orientation)
    if isinstance(pixels_HW3, Fault):
        return pixels_HW3
    small = Image.fromarray(pixels_HW3)
    small.thumbnail(box)
    return small


def roughly(jpeg: bytes, colours: str, side: int) -> tuple[NDArray[np.uint8] | None, str]:
    """A plain JPEG as stored, "RGB" or "GRAY" (height, width, channels), as much smaller as libjpeg can make it with no
    side shorter than `side`; or None and what libjpeg has to say against the file, which may still be readable."""
    try:
        return simplejpeg.decode_jpeg(jpeg, colours, min_height=side, min_width=side, min_factor=1, strict=True), ""
    except (ValueError, MemoryError) as error:
        return None, str(error)


def too_large(height: int, width: int, megapixels: float) -> Fault | None:
    """A fault for a picture of more than that many million pixels."""
    if height * width <= megapixels * 1e6:
        return None
    return Fault(
        FaultKind.TOO_LARGE,
        f"is said to hold {width} x {height} pixels, {height * width / 1e6:,.0f} million, more than "
        f"decode.max_megapixels = {megapixels:g} allows",
    )


def upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """An image (height, width, ...) turned and mirrored as its EXIF orientation (1 to 8) asks for."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def suffixes(format_: str) -> frozenset[str]:
    """What names of files of a format end in, with the dot."""
    _plugins()
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name.lower() == format_)


def runs_to_its_end(jpeg: bytes) -> bool:
    """Whether nothing stands between the frame of a JPEG and its end that cannot stand there, such as a second frame.
    libjpeg stops at an error there; other decoders do not always look."""
    found = _jpeg_frame(jpeg)
    ends = None if found is None else _ENDS.search(jpeg, found[0] + 4)
    return ends is not None and ends[0] == _JPEG_END


def exif_orientation(tiff: bytes) -> int:
    """The orientation tag in a TIFF header (EXIF 2.3, 4.6.4), of any type of integer; 1 when there is none, or nothing
    sensible."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(entries):
            place = at + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", tiff, place)
            if tag == _ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + _EXIF_INTEGERS.get(kind, "H"), tiff, place + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a damaged block says nothing about the pixels
        pass
    return 1


def _jpeg_header(data: bytes) -> Header | Fault | None:
    """The header of a JPEG by walking its segments; None for what Pillow has to look at. A fault for a promise that
    costs memory and cannot be kept: libjpeg would keep it, with gray."""
    found = _jpeg_frame(data)
    if found is None:
        return None
    at, orientation = found
    try:
        bits, height, width, colours = struct.unpack_from(">BHHB", data, at + 4)
    except struct.error:
        return None
    if data[at + 1] < 0xC9 and height * width > _MOST_PIXELS_A_BYTE * len(data):
        return Fault(
            FaultKind.DAMAGED, f"is said to hold {width} x {height} pixels, more than its {len(data):,} bytes can hold"
        )
    if bits != 8 or colours not in (1, 3) or not height or not width:
        return None
    return Header("jpeg", height, width, orientation, plain=_has_end(data, at))


def _has_end(jpeg: bytes, frame: int) -> bool:
    """Whether the end of the image comes behind the frame: not cut off. Cameras put things behind it."""
    return jpeg.endswith(_JPEG_END) or jpeg.find(_JPEG_END, frame) > 0


def _jpeg_frame(data: bytes) -> tuple[int, int] | None:
    """Where the frame's segment begins, which says how large the picture is, and the EXIF orientation (ITU T.81, annex
    B); None when the segments before it cannot be followed."""
    at, orientation = 2, 1
    try:
        while True:
            if data[at] != 0xFF:
                return None
            while data[at + 1] == 0xFF:  # fill bytes
                at += 1
            marker = data[at + 1]
            if marker in _BARE_MARKERS:
                at += 2
                continue
            if marker in _SIZE_MARKERS:
                return at, orientation
            (length,) = struct.unpack_from(">H", data, at + 2)
            if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                orientation = exif_orientation(data[at + 10 : at + 2 + length])
            at += 2 + length
    except (IndexError, struct.error):
        return None


def _without_end(jpeg: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG of which only the end marker is missing; None for others. Of these Pillow takes some, as
    libjpeg happens to read ahead or not."""
    frame = _jpeg_frame(jpeg)
    if frame is None or _has_end(jpeg, frame[0]):
        return None
    try:
        return simplejpeg.decode_jpeg(jpeg + _JPEG_END, "RGB", strict=True)
    except ValueError:
        return None


@cache
def _plugins() -> tuple[str, ...]:
    """The names of the formats that Pillow is asked about, in order."""
    # Warnings name no file; what they are about is a Fault, or does not matter.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.init()
    return (*(name for name in Image.ID if name not in _NEVER and name != _LAST), _LAST)


def _open(content: bytes) -> ImageFile.ImageFile:
    """As Image.open, whose bound on pixels is one for the whole process and below what phones make."""
    try:
        return _identified(content)
    except UnidentifiedImageError:
        if not content.startswith(b"\x89PNG"):
            raise
        return _identified(b"".join(_sound_chunks(content)))


def _identified(content: bytes) -> ImageFile.ImageFile:
    for name in _plugins():
        factory, accept = Image.OPEN[name]
        answer = accept is None or accept(content[:16])
        if answer and not isinstance(answer, str):  # words: what Pillow would need for it
            try:
                return factory(io.BytesIO(content), "")
            except (SyntaxError, IndexError, TypeError, KeyError, struct.error):
                continue  # of another format after all, as Image.open has it
    raise UnidentifiedImageError


def _sound_chunks(png: bytes) -> Iterator[bytes]:
    """A PNG without those chunks that only describe it and whose checksum is wrong."""
    yield png[:8]
    at = 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        chunk = png[at : at + 12 + length]
        describes = chunk[4] & 0x20
        if not describes or chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4])):
            yield chunk
        at += 12 + length


def _header_of(image: ImageFile.ImageFile, content: bytes) -> Header:
    """Raises ValueError for a picture of which nothing can be made."""
    format_ = "jpeg" if image.format == "MPO" else str(image.format).lower()
    if image.mode == "F" or (image.mode == "I" and format_ != "ppm"):  # PPM: 16 bits by definition
        what = "floats" if image.mode == "F" else "integers of more than 16 bits"
        raise _Refused(f"holds {what}, and nothing says which value is white: convert it to 8 or 16 bits")
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})  # of a TIFF
    if _DNG_TAG in tags or tags.get(_SUBFILE_TAG, 0) & 1 or (tags and content[8:10] == b"CR"):
        raise _Refused("is a camera's raw file, of which only a thumbnail could be read: convert it to JPEG or PNG")
    width, height = image.size
    if height < 1 or width < 1:
        raise _Refused(f"is an image of {height} x {width} pixels")
    if tags:
        turned = tags.get(_ORIENTATION_TAG, 1)
        orientation = turned if turned in range(1, 9) else 1
        return Header(format_, *((width, height) if orientation >= 5 else (height, width)), orientation)
    # Not getexif(): for PNG that decodes the pixels.
    exif: bytes = image.info.get("exif", b"")
    return Header(format_, height, width, exif_orientation(exif.removeprefix(b"Exif\0\0")))


class _Refused(ValueError):
    """In words that stand behind a file's name."""


def _why_not(content: bytes, error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    for pattern, what in _STRANGERS:
        if pattern.match(content[:1024]):
            return what
    for pattern, name in _FAMILIAR:
        if pattern.match(content):
            return f"is a damaged or cut off {name} file"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image of a known format"
    return f"is not an image that can be read ({_words(error)})"


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _rgb(image: ImageFile.ImageFile, content: bytes, background: tuple[int, ...]) -> NDArray[np.uint8]:
    """The picture as stored, uint8 (height, width, 3); Pillow's modes and rawmodes say what it holds."""
    deep = _deep(image, content)
    if deep is not None:
        return _over(*deep, background)
    image.load()
    shown: Image.Image = image
    if shown.has_transparency_data:
        for mode in ("LA", "RGBA") if shown.mode == "La" else ("RGBA",):
            shown = shown.convert(mode)
        pixels_HW4 = np.asarray(shown)
        return _over(pixels_HW4[:, :, :3], pixels_HW4[:, :, 3], background)
    return np.array(shown.convert("RGB"))


def _over(
    colour: NDArray[np.uint8], alpha_HW: NDArray[np.uint8] | None, background: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Colour over the background, uint8 (height, width, 3)."""
    if alpha_HW is None or alpha_HW.min(initial=255) == 255:
        return np.ascontiguousarray(colour)
    alpha_HW1 = alpha_HW[:, :, None].astype(np.uint16)
    over = colour * alpha_HW1 + np.array(background, dtype=np.uint16) * (255 - alpha_HW1)  # at most 255 * 255
    return ((over + 127) // 255).astype(np.uint8)


def _deep(image: ImageFile.ImageFile, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | None:
    """Colour (height, width, 3) and alpha (height, width) of a picture that holds more than 8 bits, made 8; None for
    others."""
    raw = _rawmode(image)
    key = image.info.get("transparency")
    alpha_HW: NDArray[Any] | None = None
    if image.mode.startswith("I"):
        gray_HW = _values(image).astype(np.uint16)
        colour = np.repeat(_to_8(gray_HW, 4095 if raw.startswith("I;12") else 65535)[:, :, None], 3, axis=2)
        return colour, None if key is None else np.where(gray_HW == key, 0, 255).astype(np.uint8)
    if raw == "LA;16B":  # four bytes a pixel: gray and alpha, high byte first
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        parts = _values(image).astype(np.uint16)
        deep = parts[:, :, [0, 0, 0, 2]] * 256 + parts[:, :, [1, 1, 1, 3]]
    elif re.fullmatch(r"(RGB|RGBX|RGBA);16[BLN]", raw):
        # Pillow keeps one of a value's two bytes. Read with the other order of bytes, it keeps the other.
        with _open(content) as again:
            again.tile = [tile._replace(args=_swapped(tile.args)) for tile in again.tile]
            deep = _values(image).astype(np.uint16) * 256 + _values(again)
    else:
        return None
    if deep.shape[2] == 4:
        alpha_HW = _to_8(deep[:, :, 3])
    elif isinstance(key, tuple):
        alpha_HW = np.where((deep == key).all(2), 0, 255).astype(np.uint8)
    return _to_8(deep[:, :, :3]), alpha_HW


def _to_8(values: NDArray[np.uint16], white: int = 65535) -> NDArray[np.uint8]:
    """By scaling, rounded."""
    return ((np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _values(image: Image.Image) -> NDArray[Any]:
    image.load()
    return np.asarray(image)


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How the file holds a pixel."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _swapped(args: Any) -> Any:
    """A decoder's arguments, with the rawmode of the other order of bytes."""
    raw = args[0] if isinstance(args, tuple) else args
    native_is_little = sys.byteorder == "little"
    other = "B" if raw[-1] == "L" or (raw[-1] == "N" and native_is_little) else "L"
    swapped = raw[:-1] + other
    return (swapped, *args[1:]) if isinstance(args, tuple) else swapped
