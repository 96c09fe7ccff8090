"""Text files as people have them, read whatever wrote them, and nothing guessed behind their backs.

A byte order mark says what the text is written in. UTF-16 and UTF-32 without one show by their zero bytes, UTF-8 by
decoding at all: other text practically never does. The rest is one of many encodings in which any bytes are some text
(the bytes of "Größe" are a Chinese character in another), so it is never chosen here. The error shows how the text
would look in each that makes sense of it, the likeliest first, with the command that converts it.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from engine.errors import DataError

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
# By the names that iconv knows as well. Of two that make the same of a text, the first is named.
_LEGACY = ("cp949", "cp932", "gb18030", "big5", "cp1252", "cp1250", "cp1251", "koi8-r", "cp1253", "cp1254", "cp850")
_NO_TEXT = tuple(
    (re.compile(beginning, re.IGNORECASE), words)
    for beginning, words in (
        (rb"PK\x03\x04", "is a workbook of a spreadsheet, or a zip, and no text. Save it as CSV (UTF-8), or: unzip {}"),
        (rb"\xd0\xcf\x11\xe0", "is a workbook of an old spreadsheet and no text. Save it as CSV (UTF-8)"),
        (rb"\x1f\x8b", "is compressed by gzip. Unpack it: gzip -dc {} > unpacked.csv"),
        (rb"BZh\d1AY&SY", "is compressed by bzip2. Unpack it: bzip2 -dc {} > unpacked.csv"),
        (rb"\xfd7zXZ", "is compressed by xz. Unpack it: xz -dc {} > unpacked.csv"),
        (rb"\x28\xb5\x2f\xfd", "is compressed by zstd. Unpack it: zstd -dc {} > unpacked.csv"),
        (rb"PAR1[^ -~]", "is a Parquet table. Let its name end in .parquet"),
        (rb"version https://git-lfs", "is a pointer of Git LFS and not the file: fetch that with git lfs pull"),
        (rb"\s*<(!doctype html|html|head|body)", "is a web page and no table, perhaps of a download that failed"),
    )
)
"""How files begin that are taken for text and are none, and what to do; {} stands for the file's name."""
_HEAD = 1 << 20  # bytes that tell what a file is written in
_MOST_SHOWN = 5
_EXCERPT = 60  # characters of a line that are shown


def read_text(path: str | Path, key: str = "") -> str:
    """The text of a file, without a byte order mark; line ends as they are.

    Raises DataError, which names the recipe key `data.key`, for what is no regular file, cannot be read, or is in an
    encoding that would have to be guessed.
    """
    data = _bytes(os.fspath(path), f" (data.{key})" if key else "").removesuffix(b"\x1a")  # DOS marks the end so
    for beginning, words in _NO_TEXT:
        if beginning.match(data):
            raise DataError(f"{path}: {words.format(shlex.quote(os.fspath(path)))}")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding, path)
    if b"\0" in data:
        return _wide(data, path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unknown(data, error.start, os.fspath(path)) from None


@contextmanager
def open_text(path: str | Path, head: int = _HEAD) -> Iterator[tuple[str, TextIO]]:
    """The beginning of a text file, `head` bytes of it, and all of it, to be read a line at a time; line ends as they
    are. For files that are too large for `read_text`: a byte order mark says what they are in, else they are UTF-8.

    Raises DataError as `read_text` does for what the beginning shows, and UnicodeDecodeError while it is read on.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        data = file.read(head)
    for beginning, words in _NO_TEXT:
        if beginning.match(data):
            raise DataError(f"{path}: {words.format(shlex.quote(os.fspath(path)))}")
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        shown = codecs.getincrementaldecoder(encoding)().decode(data[len(mark) :])
    except UnicodeDecodeError as error:
        raise _unknown(data, error.start, os.fspath(path)) from None
    if "\0" in shown:
        raise DataError(f"{path}: holds zero bytes, so it is no text. Save it as a CSV table, in UTF-8")
    with open(path, encoding=encoding, newline="") as text:  # noqa: PTH123
        text.seek(len(mark))
        yield shown, text


def _bytes(path: str, named: str) -> bytes:
    try:
        # Not to wait for whoever might write to a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DataError(f"{path}: expected a file with text{named}, and this is no regular file")
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read{named}: {error.strerror or error}") from None


def _decoded(data: bytes, encoding: str, path: str | Path) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: begins as {encoding.upper()} text and is none from byte {error.start} on. Save it again as UTF-8"
        ) from None


def _wide(data: bytes, path: str | Path) -> str:
    """Text with zero bytes and no mark: in whichever of the wide encodings it is lines of letters."""
    for encoding in _WIDE:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not any(_strange(letter) for letter in set(text)) and re.search(r"[\r\n,;\t]", text):
            return text
    raise DataError(f"{path}: holds zero bytes, so it is no text. Save it as a CSV table, in UTF-8")


def _strange(letter: str) -> bool:
    """Whether a letter stands in no text: control characters, unassigned and private ones."""
    return letter not in "\t\r\n" and unicodedata.category(letter) in ("Cc", "Cn", "Co", "Cs")


def _unknown(data: bytes, at: int, path: str) -> DataError:
    """The error for text of an unknown encoding: the line with byte `at` in each that is likely."""
    folder, name = os.path.split(path)
    converted = os.path.join(folder, f"utf8_{name}")  # noqa: PTH118
    seen: dict[str, str] = {}
    for encoding in _likely(data):
        shown = _excerpt(data, at, encoding)
        if shown not in seen.values() and len(seen) < _MOST_SHOWN:
            seen[encoding] = shown
    if not seen:
        return DataError(f"{path}: not UTF-8 text, nor text in any other encoding that is known here. Save it as UTF-8")
    lines = [
        f"  {shown}\n    iconv -f {encoding} -t utf-8 {shlex.quote(path)} > {shlex.quote(converted)}"
        for encoding, shown in seen.items()
    ]
    return DataError(
        f"{path}: not UTF-8 text. Take the command below the line that reads as it should, and then {converted}; or "
        "save the file as UTF-8:\n" + "\n".join(lines)
    )


def _excerpt(data: bytes, at: int, encoding: str) -> str:
    start = max(data.rfind(b"\n", 0, at), data.rfind(b"\r", 0, at)) + 1
    before = len(data[start:at].decode(encoding, "replace"))
    line = data[start:].decode(encoding).splitlines()[0]
    cut = max(0, before - _EXCERPT // 2)
    return ("..." if cut else "") + line[cut : cut + _EXCERPT].strip() + ("..." if len(line) > cut + _EXCERPT else "")


def _likely(data: bytes) -> list[str]:
    """The encodings in which the bytes are text, the likeliest first."""
    scores: dict[str, float] = {}
    for encoding in _LEGACY:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not any(map(_strange, set(text))):
            scores[encoding] = _likeliness(text)
    best = max(scores.values(), default=0.0)
    return sorted((e for e in scores if scores[e] > 0 and scores[e] >= best / 4), key=lambda e: -scores[e])


def _likeliness(text: str) -> float:
    """What share of the words with letters beyond ASCII look like words, 0 to 1."""
    words = list(_words(text))
    return sum(map(_word_likeliness, words)) / len(words) if words else 0.0


def _words(text: str) -> Iterator[str]:
    """Words, and single signs, with anything beyond ASCII in them."""
    return (found for found in re.findall(r"[^\W\d_]+|[^\x00-\x7f]", text) if not found.isascii())


# Letters that words of one script are made of, and how often a word of them is right where several scripts fit.
_SCRIPTS = (
    (re.compile("[\u3041-\u30ff\u4e00-\u9fff]*[\u3041-\u30ff][\u3041-\u30ff\u4e00-\u9fff]*"), 1.0),  # Japanese
    (re.compile("[\u0400-\u045f]+"), 0.9),  # Cyrillic
    (re.compile("[\u0370-\u03ff]+"), 0.8),  # Greek
    (re.compile("[A-Za-z\u00c0-\u00ff]+"), 0.9),  # western European
    (re.compile("[A-Za-z\u00c0-\u017f]+"), 0.8),  # other Latin
    (
        re.compile(
            "[\u2018-\u201e\u2026\u2013\u2014\u20ac\u00a0\u00ab\u00bb\u00b0\u00b7\u2116\u3000-\u3011\uff01-\uff5e]"
        ),
        0.7,
    ),  # signs
)


def _word_likeliness(word: str) -> float:
    if re.fullmatch("[\uac00-\ud7a3]+", word):
        return 1.0 if _in(word, "euc_kr") else 0.3
    if re.fullmatch("[\u4e00-\u9fff]+", word):
        return 0.75 if _common(word) else 0.1
    for script, weight in _SCRIPTS:
        if script.fullmatch(word):
            return weight * _as_written(word)
    return 0.0


def _common(word: str) -> bool:
    """Whether all characters are among the few thousand in daily use: the first levels of JIS, GB 2312 and Big5."""
    levels = (("shift_jis", 0x98), ("gb2312", 0xD7), ("big5", 0xC6))
    return any(_in(word, encoding) and max(word.encode(encoding)[::2]) <= last for encoding, last in levels)


def _in(word: str, encoding: str) -> bool:
    try:
        return bool(word.encode(encoding))
    except UnicodeEncodeError:
        return False


def _as_written(word: str) -> float:
    """Capitals stand at the beginning of a word, or everywhere, and letters of ASCII beside those with accents."""
    if word.lower() == word.upper():  # no capitals in this script
        return 1.0
    cased = 1.0 if word[1:].islower() or word.isupper() or len(word) == 1 else 0.2
    accented = sum(not letter.isascii() for letter in word)
    latin = unicodedata.name(word[0], "").startswith("LATIN") or word[0].isascii()
    return cased * (0.3 if latin and len(word) > 2 and accented > len(word) / 2 else 1.0)
