"""Small files of every kind that people have, made here, and the picture that each should show.

    .venv/bin/python tests/decode/kinds.py > docs/formats.md

makes the page that tells of them, from what the code does with them; test_kinds.py fails until that has been done.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.data.ingest import ingest
from engine.data.pixels import look
from engine.decode.dali import DaliDecoder
from engine.decode.decoder import Decoder, Opened
from engine.decode.pillow import PillowDecoder
from engine.decode.turbo import TurboDecoder
from engine.kernels import jpeg
from engine.kernels.jpeg import Region
from engine.quarantine import Fault, read_file
from engine.recipe.sections import DataSection

Picture = NDArray[np.uint8]  # (height, width, 3)

HEIGHT, WIDTH = 40, 56
_random = np.random.default_rng(7)
_coarse = Image.fromarray(_random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
RGB: Picture = np.asarray(_coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
DEEP = RGB.astype(np.uint16) * 256 + _random.integers(0, 256, RGB.shape, dtype=np.uint16)  # all of 16 bits
ALPHA = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A file and the picture it should show, upright, within `off` of 255 a value; None where it should be refused, or
    nothing but its size is known."""

    name: str
    suffix: str
    content: bytes
    shows: Picture | None = None
    off: int = 0
    refused: bool = False


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def gray3(gray_HW: NDArray[Any]) -> Picture:
    return np.repeat(gray_HW.astype(np.uint8)[:, :, None], 3, axis=2)


def to_8(values: NDArray[Any]) -> Picture:
    """16 bits as 8, by the rule in words: v / 257, rounded."""
    return np.rint(values / 257).astype(np.uint8)


def over_white(colour: Picture, alpha_HW: NDArray[np.uint8]) -> Picture:
    share_HW1 = alpha_HW[:, :, None] / 255
    return np.rint(colour * share_HW1 + 255 * (1 - share_HW1)).astype(np.uint8)


def chunk(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", right if checksum is None else checksum)


def png(values: NDArray[Any], colour: int, bits: int, chunks: bytes = b"", end: bool = True) -> bytes:
    """A PNG by its specification: values (height, width[, channels]), colour type and bits a value."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    elif bits == 8:
        packed = rows.astype(np.uint8)
    else:
        ones = np.unpackbits(rows.astype(np.uint8)[:, :, None], axis=2)[:, :, -bits:]
        packed = np.packbits(ones.reshape(height, -1), axis=1)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunks, chunk(b"IDAT", zlib.compress(filtered))]
    return b"".join([*parts, chunk(b"IEND", b"") if end else b""])


def exif(orientation: int, order: str = "<", type_: str = "H") -> bytes:
    """A TIFF header with one entry, the orientation, of any type of integer and order of bytes."""
    number = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8, "i": 9}[type_]
    value = struct.pack(order + type_, orientation).ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return start + struct.pack(order + "HHHI", 1, 0x0112, number, 1) + value + bytes(4)


def turned_jpeg(order: str, type_: str) -> bytes:
    block = b"Exif\0\0" + exif(6, order, type_)
    plain = saved(Image.fromarray(RGB), "JPEG", quality=95)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]


def bmp16(rgb: Picture) -> bytes:
    """5 bits a colour, rows from below."""
    height, width = rgb.shape[:2]
    red, green, blue = (rgb[::-1, :, i].astype(np.uint16) >> 3 for i in range(3))
    rows = (red << 10 | green << 5 | blue).astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows


def cv_encoded(suffix: str, values: NDArray[Any], *options: int) -> bytes:
    """What Pillow cannot write: channels as RGB(A)."""
    swapped = cv2.cvtColor(values, cv2.COLOR_RGBA2BGRA if values.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(suffix, swapped, options)
    assert done
    return encoded.tobytes()


def with_hole(content: bytes) -> bytes:
    middle = len(content) * 2 // 3
    return content[:middle] + b"\xff\x00" * 8 + bytes(24) + content[middle + 40 :]


def with_size(content: bytes, at: int, layout: str, *size: int) -> bytes:
    """A file whose header promises another size."""
    packed = struct.pack(layout, *size)
    changed = content[:at] + packed + content[at + len(packed) :]
    if content.startswith(b"\x89PNG"):
        changed = changed[:29] + struct.pack(">I", zlib.crc32(changed[12:29])) + changed[33:]
    return changed


def jpegs() -> Iterator[Kind]:
    image = Image.fromarray(RGB)
    plain = saved(image, "JPEG", quality=95)
    near = 24  # a JPEG is not what was saved
    yield Kind("JPEG", ".jpg", plain, RGB, near)
    yield Kind("JPEG, progressive", ".jpg", saved(image, "JPEG", quality=95, progressive=True), RGB, near)
    yield Kind("JPEG, gray", ".jpg", saved(image.convert("L"), "JPEG", quality=95), gray3(GRAY), near)
    yield Kind("JPEG, CMYK", ".jpg", saved(image.convert("CMYK"), "JPEG", quality=95), RGB, near)
    yield Kind("JPEG of several pictures (MPO)", ".jpg", _mpo(), RGB, near)
    turned = np.rot90(RGB, -1)
    types = {"BYTE": "B", "SHORT": "H", "LONG": "I", "SBYTE": "b", "SSHORT": "h", "SLONG": "i"}
    for name, type_ in types.items():
        for order, end in (("<", "little"), (">", "big")):
            kind = f"JPEG, orientation 6 as {name}, {end}-endian"
            yield Kind(kind, ".jpg", turned_jpeg(order, type_), turned, near)
    yield Kind("JPEG, something of the camera's behind its end", ".jpg", plain + b"video" * 99, RGB, near)
    frame = plain.index(b"\xff\xc0")
    yield Kind("JPEG, junk before a marker", ".jpg", plain[:frame] + b"\0junk" + plain[frame:], RGB, near)
    yield Kind("JPEG, a hole in its coded data", ".jpg", with_hole(plain))
    yield Kind("JPEG, progressive, a hole in its coded data", ".jpg", with_hole(saved(image, "JPEG", progressive=True)))
    yield Kind("JPEG, only its end marker missing", ".jpg", plain[:-2], RGB, near)
    yield Kind("JPEG, cut off", ".jpg", plain[: len(plain) // 2], refused=True)
    yield Kind("JPEG, cut off in its header", ".jpg", plain[:60], refused=True)
    middle = frame + (len(plain) - frame) * 3 // 4
    second = plain[:middle] + plain[frame : frame + 19] + plain[middle:]
    yield Kind("JPEG, a second frame amid its data", ".jpg", second, refused=True)
    yield Kind(
        "JPEG that promises 65000 x 65000 pixels",
        ".jpg",
        with_size(plain, frame + 5, ">HH", 65000, 65000),
        refused=True,
    )
    yield Kind(
        "JPEG that promises 16320 x 12240 pixels and cannot hold them",
        ".jpg",
        with_size(plain, frame + 5, ">HH", 12240, 16320),
        refused=True,
    )


def _mpo() -> bytes:
    second = Image.fromarray(RGB[::-1])
    return saved(Image.fromarray(RGB), "MPO", quality=95, save_all=True, append_images=[second])


def pngs() -> Iterator[Kind]:
    image = Image.fromarray(RGB)
    plain = png(RGB, 2, 8)
    yield Kind("PNG, RGB", ".png", plain, RGB)
    for bits in (1, 2, 4):
        few = GRAY >> (8 - bits)
        yield Kind(f"PNG, gray, {count_bits(bits)}", ".png", png(few, 0, bits), gray3(few * (255 // (2**bits - 1))))
        palette = RGB.reshape(-1, 3)[:: RGB.size // 3 // 2**bits][: 2**bits]
        kind = f"PNG, palette, {count_bits(bits)}"
        yield Kind(kind, ".png", png(few, 3, bits, chunk(b"PLTE", palette.tobytes())), palette[few])
    yield Kind("PNG, gray, 8 bits", ".png", png(GRAY, 0, 8), gray3(GRAY))
    deep_gray = DEEP[:, :, 1]
    yield Kind("PNG, gray, 16 bits", ".png", png(deep_gray, 0, 16), gray3(to_8(deep_gray)))
    yield Kind("PNG, RGB, 16 bits", ".png", png(DEEP, 2, 16), to_8(DEEP))
    la, rgba = np.stack([GRAY, ALPHA], axis=2), np.concatenate([RGB, ALPHA[:, :, None]], axis=2)
    deep_alpha = ALPHA.astype(np.uint16) * 257
    yield Kind("PNG, gray and alpha", ".png", png(la, 4, 8), over_white(gray3(GRAY), ALPHA))
    yield Kind("PNG, RGB and alpha", ".png", png(rgba, 6, 8), over_white(RGB, ALPHA))
    deep_la = np.stack([deep_gray, deep_alpha], axis=2)
    yield Kind(
        "PNG, gray and alpha, 16 bits", ".png", png(deep_la, 4, 16), over_white(gray3(to_8(deep_gray)), ALPHA), 1
    )
    deep_rgba = np.concatenate([DEEP, deep_alpha[:, :, None]], axis=2)
    yield Kind("PNG, RGB and alpha, 16 bits", ".png", png(deep_rgba, 6, 16), over_white(to_8(DEEP), ALPHA), 1)
    palette = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 90)], axis=1).astype(np.uint8)
    see = np.linspace(0, 255, 256).astype(np.uint8)
    clear = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", see.tobytes())
    yield Kind("PNG, palette with transparency", ".png", png(GRAY, 3, 8, clear), over_white(palette[GRAY], see[GRAY]))
    for name, values, colour, bits in (
        ("gray, 1 bit", GRAY >> 7, 0, 1),
        ("gray", GRAY, 0, 8),
        ("gray, 16 bits", deep_gray, 0, 16),
        ("RGB", RGB, 2, 8),
        ("RGB, 16 bits", DEEP, 2, 16),
    ):
        key = np.atleast_1d(values[5, 5])
        gone = (np.atleast_3d(values) == key).all(2)
        shown = {1: values * 255, 8: values, 16: to_8(values)}[bits]
        shown = np.where(gone[:, :, None], 255, np.atleast_3d(shown)).astype(np.uint8)
        shown = np.broadcast_to(shown, RGB.shape)
        trns = chunk(b"tRNS", key.astype(">u2").tobytes())
        yield Kind(f"PNG, {name}, one colour transparent", ".png", png(values, colour, bits, trns), shown)
    yield Kind(
        "PNG, animated: the first frame",
        ".png",
        saved(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        RGB,
    )
    yield Kind("PNG, orientation 6", ".png", png(RGB, 2, 8, chunk(b"eXIf", exif(6))), np.rot90(RGB, -1))
    yield Kind("PNG without its end", ".png", png(RGB, 2, 8, end=False), RGB)
    yield Kind("PNG, wrong checksum in a text", ".png", png(RGB, 2, 8, chunk(b"tEXt", b"Comment\0hello", 1)), RGB)
    broken = plain.index(b"IDAT") + 40
    yield Kind(
        "PNG, wrong bytes in its pixels", ".png", plain[:broken] + bytes(30) + plain[broken + 30 :], refused=True
    )
    yield Kind("PNG, cut off", ".png", plain[: len(plain) // 2], refused=True)
    yield Kind(
        "PNG that promises 100000 x 100000 pixels", ".png", with_size(plain, 16, ">II", 100000, 100000), refused=True
    )
    yield Kind("PNG in a file called .jpg", ".jpg", plain, RGB)


def count_bits(bits: int) -> str:
    return "1 bit" if bits == 1 else f"{bits} bits"


def others() -> Iterator[Kind]:
    image, gray = Image.fromarray(RGB), Image.fromarray(GRAY)
    few = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    few_rgb = np.asarray(few.convert("RGB"))
    rgba = Image.fromarray(np.concatenate([RGB, ALPHA[:, :, None]], axis=2))
    white = over_white(RGB, ALPHA)
    gif = saved(few, "GIF")
    yield Kind("GIF", ".gif", gif, few_rgb)
    yield Kind(
        "GIF, animated: the first frame",
        ".gif",
        saved(few, "GIF", save_all=True, append_images=[few.rotate(90)]),
        few_rgb,
    )
    clear = np.where((np.asarray(few) == 3)[:, :, None], 255, few_rgb)
    yield Kind("GIF, one colour transparent", ".gif", saved(few, "GIF", transparency=3, optimize=False), clear)
    yield Kind("GIF, cut off", ".gif", gif[: len(gif) // 2], refused=True)
    yield Kind("GIF that promises 65535 x 65535 pixels", ".gif", with_size(gif, 6, "<HH", 65535, 65535), refused=True)
    yield Kind("WebP", ".webp", saved(image, "WEBP", quality=98), RGB, 40)
    lossless = [
        saved(image.crop((0, 0, w, HEIGHT)), "WEBP", lossless=True, exif=b"Exif\0\0" + exif(1)) for w in range(30, 56)
    ]
    odd = next(i for i, content in enumerate(lossless) if content[content.index(b"VP8L") + 4] % 2)
    yield Kind("WebP, lossless, a chunk of odd size, EXIF", ".webp", lossless[odd], RGB[:, : 30 + odd])
    yield Kind("WebP, alpha", ".webp", saved(rgba, "WEBP", lossless=True, exact=True), white)
    two = saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)], lossless=True)
    yield Kind("WebP, animated: the first frame", ".webp", two, RGB)
    yield Kind("WebP, cut off", ".webp", lossless[0][: len(lossless[0]) // 2], refused=True)
    yield Kind("BMP", ".bmp", saved(image, "BMP"), RGB)
    yield Kind("BMP, 16 bits a pixel", ".bmp", bmp16(RGB), ((RGB >> 3).astype(int) * 255 // 31).astype(np.uint8), 1)
    yield Kind("BMP, palette", ".bmp", saved(few, "BMP"), few_rgb)
    yield Kind(
        "BMP, black and white", ".bmp", saved(gray.convert("1"), "BMP"), gray3(np.asarray(gray.convert("1")) * 255)
    )
    yield Kind(
        "BMP that promises 200000 x 200000 pixels",
        ".bmp",
        with_size(saved(image, "BMP"), 18, "<ii", 200000, 200000),
        refused=True,
    )
    yield Kind("AVIF", ".avif", saved(image, "AVIF", quality=100, subsampling="4:4:4"), RGB, 12)
    yield Kind("AVIF, alpha", ".avif", saved(rgba, "AVIF", quality=100, subsampling="4:4:4"), white, 12)
    yield Kind("TGA", ".tga", saved(image, "TGA"), RGB)
    yield Kind("TGA, packed, alpha", ".tga", saved(rgba, "TGA", compression="tga_rle"), white)
    yield Kind(
        "ICO", ".ico", saved(image.resize((32, 32)), "ICO", sizes=[(32, 32)]), np.asarray(image.resize((32, 32)))
    )
    yield Kind("PPM", ".ppm", saved(image, "PPM"), RGB)
    deep = b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP[:, :, 0].astype(">u2").tobytes()
    yield Kind("PGM, 16 bits", ".pgm", deep, gray3(to_8(DEEP[:, :, 0])))
    deep = b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP.astype(">u2").tobytes()
    yield Kind("PPM, 16 bits", ".ppm", deep, to_8(DEEP))
    yield Kind("JPEG 2000", ".jp2", saved(image, "JPEG2000"), RGB)
    for format_, suffix in (("PCX", ".pcx"), ("SGI", ".sgi"), ("DDS", ".dds"), ("QOI", ".qoi")):
        yield Kind(format_, suffix, saved(image, format_), RGB)


def tiffs() -> Iterator[Kind]:
    image, gray = Image.fromarray(RGB), Image.fromarray(GRAY)
    rgba = Image.fromarray(np.concatenate([RGB, ALPHA[:, :, None]], axis=2))
    plain = saved(image, "TIFF")
    deep_alpha = (ALPHA.astype(np.uint16) * 257)[:, :, None]
    deep_gray = DEEP[:, :, 0]
    two_tone = gray.convert("1")
    yield Kind("TIFF", ".tif", plain, RGB)
    yield Kind("TIFF, LZW", ".tiff", saved(image, "TIFF", compression="tiff_lzw"), RGB)
    yield Kind("TIFF, JPEG inside", ".tif", saved(image, "TIFF", compression="jpeg", quality=95), RGB, 40)
    yield Kind(
        "TIFF, fax (group 4)", ".tif", saved(two_tone, "TIFF", compression="group4"), gray3(np.asarray(two_tone) * 255)
    )
    yield Kind("TIFF, gray, 16 bits", ".tif", saved(Image.fromarray(deep_gray), "TIFF"), gray3(to_8(deep_gray)))
    packed = (cv2.IMWRITE_TIFF_COMPRESSION, 5)
    yield Kind("TIFF, RGB, 16 bits", ".tif", cv_encoded(".tif", DEEP, cv2.IMWRITE_TIFF_COMPRESSION, 1), to_8(DEEP))
    yield Kind("TIFF, RGB, 16 bits, LZW", ".tif", cv_encoded(".tif", DEEP, *packed), to_8(DEEP))
    deep = np.concatenate([DEEP, deep_alpha], axis=2)
    yield Kind(
        "TIFF, RGB and alpha, 16 bits", ".tif", cv_encoded(".tif", deep, *packed), over_white(to_8(DEEP), ALPHA), 1
    )
    yield Kind("TIFF, RGB and alpha", ".tif", saved(rgba, "TIFF"), over_white(RGB, ALPHA))
    yield Kind("TIFF, CMYK", ".tif", saved(image.convert("CMYK"), "TIFF"), RGB, 1)
    yield Kind("TIFF, orientation 6", ".tif", saved(image, "TIFF", tiffinfo={274: 6}), np.rot90(RGB, -1))
    yield Kind(
        "TIFF of several pages: the first",
        ".tif",
        saved(image, "TIFF", save_all=True, append_images=[image.rotate(90)]),
        RGB,
    )
    yield Kind("TIFF, floats", ".tif", saved(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), refused=True)
    yield Kind("TIFF, 32-bit integers", ".tif", saved(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), refused=True)
    yield Kind(
        "TIFF of a camera's raw file (DNG)", ".tif", saved(image, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), refused=True
    )
    yield Kind("TIFF, cut off", ".tif", saved(image, "TIFF", compression="tiff_lzw")[:600], refused=True)


def strangers() -> Iterator[Kind]:
    for name, suffix, content in (
        ("HEIC", ".heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300)),
        ("JPEG XL", ".jxl", b"\xff\x0a" + bytes(range(200))),
        ("JPEG XR", ".jpg", b"II\xbc\x01" + bytes(200)),
        ("Camera's raw file (CR3)", ".jpg", b"\0\0\0\x18ftypcrx " + bytes(300)),
        ("MP4 video", ".jpg", b"\0\0\0\x18ftypisom" + bytes(300)),
        ("SVG", ".jpg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("PDF", ".jpg", b"%PDF-1.7\n" + bytes(100)),
        ("PostScript", ".jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("Web page", ".jpg", b"<!DOCTYPE html><html>404</html>"),
        ("Git LFS pointer", ".jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        ("ZIP archive", ".jpg", b"PK\x03\x04" + bytes(60)),
        ("Text", ".jpg", b"no image at all\n" * 20),
        ("Zeros", ".jpg", bytes(500)),
        ("Empty file", ".jpg", b""),
    ):
        yield Kind(name, suffix, content, refused=True)


def kinds() -> list[Kind]:
    return [*jpegs(), *pngs(), *others(), *tiffs(), *strangers()]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What became of a file. `behind`: by decoder, its pixels or why there are none; `fault`: as indexing and the data
    check have it, "" for none."""

    kind: Kind
    fault: str
    behind: dict[str, Picture | Fault]
    hash: bytes  # of the data check
    doubt: str
    plain: bool  # taken by libjpeg-turbo itself

    @property
    def picture(self) -> Picture | None:
        """As it is decoded where libjpeg-turbo is."""
        shown = self.behind["turbo"]
        return None if isinstance(shown, Fault) else shown


def look_at(found: Sequence[Kind], folder: Path) -> list[Seen]:
    """Every file met in every way: indexed, checked, decoded by each decoder, all in one batch."""
    for i, kind in enumerate(found):
        (folder / f"{i:03}{kind.suffix}").write_bytes(kind.content)
    manifest = ingest(str(folder), DataSection(cache=str(folder / "cache")))
    order = [int(Path(path).stem) for path in manifest.paths]
    facts = look(manifest, str(folder), str(folder / "cache"))
    contents = [read_file(path) for path in manifest.paths]
    decoders: dict[str, Decoder] = {"turbo": TurboDecoder(2), "dali": DaliDecoder(torch.device("cpu"), 2)}
    behind = {name: decoded(decoder, contents) for name, decoder in decoders.items()}
    seen = {
        kind: Seen(
            kind=found[kind],
            fault=str(manifest.faults[row] or facts.faults[row] or ""),
            behind={name: answers[row] for name, answers in behind.items()},
            hash=facts.hash_NB[row].tobytes(),
            doubt=facts.doubts[row],
            plain=taken_by_turbo(contents[row]),
        )
        for row, kind in enumerate(order)
    }
    return [seen[i] for i in range(len(found))]


def decoded(decoder: Decoder, contents: Sequence[bytes | Fault]) -> list[Picture | Fault]:
    answers: list[Any] = [one if isinstance(one, Fault) else decoder.open([one])[0] for one in contents]
    opened = [one for one in answers if isinstance(one, Opened)]
    pixels = iter(decoder.pixels(opened))
    answers = [next(pixels) if isinstance(one, Opened) else one for one in answers]
    return [one if isinstance(one, Fault) else one.pixels_HW3.numpy().copy() for one in answers]


def taken_by_turbo(content: bytes | Fault) -> bool:
    opened = content if isinstance(content, Fault) else PillowDecoder(1).open([content])[0]
    if isinstance(opened, Fault) or opened.header is None:
        return False
    whole = Region(0, 0, opened.width, opened.height)
    return jpeg.decode([opened.content], [opened.header], [whole], threads=1) != [None]


PAGE = """\
# What is a picture

Made by `.venv/bin/python tests/decode/kinds.py > docs/formats.md` from files that it writes and what the code does with
them. `tests/decode/test_kinds.py` fails when this page says anything else, when two ways of meeting a file differ in
their verdict or their pixels, and when a picture is not the one that was saved.

A file is what its content says, whatever its name. Whoever meets one (indexing, `engine data check`, the search for
near-duplicates, training, scoring, prediction, pages, augmented copies) goes by one rule, in `engine/pictures.py`:

* Plain JPEGs (8 bits, gray or three colours) are decoded by libjpeg-turbo, or by DALI where that is chosen or there is
  a GPU. All else, and every JPEG that these refuse, Pillow decodes, and its word is final.
* **Damage.** A JPEG is refused when libjpeg stops at an error, when the file ends before its picture does, or when it
  promises more pixels than its bytes can hold. What libjpeg only warns of, such as a hole in the coded data, is read,
  and told of by the data check. Of another format, a file is refused when Pillow cannot decode all of the picture.
* **Size.** More pixels than `decode.max_megapixels` (250 by default) are refused by what the header says, before any
  memory is taken. TIFF, WebP and GIF beyond 178 megapixels are refused by Pillow itself.
* **Bits.** 16 bits become 8 by scaling: v / 257, rounded. Floats and 32-bit integers are refused, because nothing says
  which value is white.
* **Transparency.** What can be seen through lies over `decode.background`, white by default, which is kept with the
  weights.
* **Orientation.** EXIF turns pictures upright, whatever type of integer and order of bytes holds it.
* **CMYK** is converted by the simple formula, (255 - C) (255 - K) / 255, without a colour profile.
* Of several frames or pages, the first counts.

"Equal everywhere" means: indexing, the data check and both decoders take or refuse the file alike, and its pixels are
the same, of a plain JPEG but for rounding between libjpeg-turbo and DALI.

| kind | what is made of it | equal everywhere |
|---|---|---|
"""


def page(seen: Sequence[Seen]) -> str:
    rows = [f"| {one.kind.name} | {_made_of(one)} | {'yes' if agrees(one) else 'NO'} |" for one in seen]
    return PAGE + "\n".join(rows) + "\n"


def _made_of(one: Seen) -> str:
    if one.picture is None:
        return f"refused: {one.fault}"
    who = "libjpeg-turbo, DALI" if one.plain else "Pillow"
    return f"read by {who}" + ("; the data check warns of it" if one.doubt else "")


def agrees(one: Seen) -> bool:
    """Whether indexing and the data check, and every decoder, say the same, and show the same pixels."""
    shown = list(one.behind.values())
    if one.fault:
        return all(isinstance(answer, Fault) and answer.detail == one.fault for answer in shown)
    pictures_ = [answer for answer in shown if not isinstance(answer, Fault)]
    if len(pictures_) < len(shown) or len({picture.shape for picture in pictures_}) > 1:
        return False
    apart = max(int(np.abs(picture.astype(int) - pictures_[0]).max()) for picture in pictures_)
    return apart <= (3 if one.plain else 0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(page(look_at(kinds(), Path(folder))))


if __name__ == "__main__":
    main()
