"""Files read in C++: the bytes that are there, faults in the words of Python's own reading, and headers as
`engine.pictures` has them."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import pictures
from engine.kernels import files
from engine.loader.source import Files
from engine.quarantine import Fault, read_file

from ..decode import kinds

pytestmark = pytest.mark.skipif(not files.available(), reason=files.why_not())

THREADS = 3
CORPUS = kinds.kinds()
JPEGS = [kind.content for kind in CORPUS if kind.content[:2] == b"\xff\xd8"]


def contents(paths: list[str]) -> list[bytes | int]:
    return [one if isinstance(one, int) else bytes(one) for one in files.read(paths, THREADS)]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    sizes = [1, 2, 63, 64, 65, 4095, 4096, 4097, 1 << 20, (8 << 20) + 1, 20 << 20, 3]
    written = [np.random.default_rng(size).bytes(size) for size in sizes]
    paths = [str(tmp_path / f"{i} \u00e4\u4e16") for i in range(len(sizes))]
    for path, content in zip(paths, written, strict=True):
        Path(path).write_bytes(content)
    for _ in range(2):
        found = files.read(paths[::-1], THREADS)
        assert [bytes(one) for one in found if isinstance(one, files.Encoded)] == written[::-1]
        assert [len(one) for one in found if isinstance(one, files.Encoded)] == sizes[::-1]
    assert files.read([], THREADS) == []


def test_what_cannot_be_read_is_told_as_python_tells_it(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "good").write_bytes(b"good")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    names = ["good", "empty", "missing", "folder", "pipe", "circle", "good/below", "x" * 300]
    if os.getuid():
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "secret").chmod(0)
        names.append("secret")
    paths = [*(str(tmp_path / name) for name in names), "/dev/zero", "/proc/self/mem", ""]
    (good, *found), (_, *expected) = Files(paths).read(np.arange(len(paths))), [read_file(path) for path in paths]
    assert not isinstance(good, Fault) and bytes(good) == b"good"
    assert found == expected


def test_a_file_whose_size_is_not_told_is_read_to_its_end() -> None:
    (found,) = contents(["/proc/self/environ"])
    assert found == Path("/proc/self/environ").read_bytes() or found == files.EMPTY


def test_a_path_with_a_zero_is_refused_as_by_python(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for path in (f"{tmp_path}/a\0b", "\0"):
        with pytest.raises(ValueError, match="embedded null byte"):
            files.read([str(tmp_path / "a"), path], THREADS)


def test_memory_is_used_again_when_nobody_has_it_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first" * 1000)
    (tmp_path / "b").write_bytes(b"other" * 1000)
    (one,) = files.read([str(tmp_path / "a")], THREADS)
    assert isinstance(one, files.Encoded)
    view = np.asarray(one)
    address = one.address
    del one
    others = [files.read([str(tmp_path / "b")], THREADS)[0] for _ in range(6)]
    assert view.tobytes() == b"first" * 1000 and view.flags.writeable
    del view, others
    addresses = {files.read([str(tmp_path / "b")], THREADS)[0].address for _ in range(8)}  # type: ignore[union-attr]
    assert len(addresses) <= 3, address


def test_threads_may_read_at_the_same_time(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(i)) for i in range(40)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(bytes([i]) * (1 + 997 * i))
    wrong = []

    def read() -> None:
        for _ in range(20):
            found = contents(paths)
            wrong.extend(i for i, one in enumerate(found) if one != bytes([i]) * (1 + 997 * i))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_headers_of_every_kind_of_file_are_those_of_python(tmp_path: Path) -> None:
    known = 0
    for i, kind in enumerate(CORPUS):
        path = tmp_path / f"{i}{kind.suffix}"
        path.write_bytes(kind.content)
        (found,) = files.read([str(path)], THREADS)
        if isinstance(found, int):
            assert found == files.EMPTY and not kind.content
            continue
        known += found.header is not None
        assert_as_pictures(found)
    assert known > len(CORPUS) / 6


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_headers_of_damaged_jpegs_are_those_of_python(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes changed, mostly in the segments before the picture, cut off, inserted."""
    content = bytearray(data.draw(st.sampled_from(JPEGS)))
    for _ in range(data.draw(st.integers(0, 4))):
        if len(content) < 4:
            break
        at = data.draw(st.integers(2, min(len(content) - 1, data.draw(st.sampled_from([40, 200, 100_000])))))
        value = data.draw(st.sampled_from([0xFF, 0xD8, 0xD9, 0xE1, 0xC0, 0x00, 0x01, *range(0, 256, 17)]))
        match data.draw(st.sampled_from(["set", "insert", "cut", "length"])):
            case "set":
                content[at] = value
            case "insert":
                content.insert(at, value)
            case "cut":
                del content[at:]
            case "length":
                content[at : at + 2] = struct.pack(">H", data.draw(st.integers(0, 65535)))
    path = _scratch(tmp_path_factory)
    path.write_bytes(bytes(content) or b"\xff")
    (found,) = files.read([str(path)], 1)
    assert isinstance(found, files.Encoded)
    assert_as_pictures(found)


@settings(max_examples=100, deadline=None)
@given(
    order=st.sampled_from(["<", ">"]),
    start=st.sampled_from([8, 9, 30, 2**32 - 1]),
    entries=st.lists(
        st.tuples(
            st.sampled_from([0x0112, 0x0112, 0x010F, 0]),
            st.integers(0, 14),
            st.integers(0, 2**32 - 1) | st.integers(0, 9),
        ),
        max_size=4,
    ),
    promised=st.integers(0, 6),
    cut=st.integers(0, 30),
    tail=st.binary(max_size=6),
)
def test_orientations_in_any_block_are_those_of_python(
    order: str,
    start: int,
    entries: list[tuple[int, int, int]],
    promised: int,
    cut: int,
    tail: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    tiff += bytes(max(0, min(start, 64) - len(tiff))) + struct.pack(order + "H", promised)
    for tag, kind, value in entries:
        tiff += struct.pack(order + "HHI", tag, kind, 1) + struct.pack(order + "I", value)
    tiff = tiff[: max(0, len(tiff) - cut)] + tail
    segment = b"Exif\0\0" + tiff
    plain = next(content for content in JPEGS if content[2:4] == b"\xff\xe0")
    path = _scratch(tmp_path_factory)
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:])
    (found,) = files.read([str(path)], 1)
    assert isinstance(found, files.Encoded) and found.header is not None
    assert found.header.orientation == pictures.exif_orientation(tiff)
    assert_as_pictures(found)


def assert_as_pictures(found: files.Encoded) -> None:
    """Where the C++ answers, it answers what Python does; where Python has no plain answer, it has none."""
    content = bytes(found)
    expected = pictures._jpeg_header(content) if content[:2] == b"\xff\xd8" else None
    if found.header is None:
        assert not isinstance(expected, pictures.Header)
        return
    assert isinstance(expected, pictures.Header)
    assert found.header[:4] == expected[1:]
    assert found.header.sound == pictures.runs_to_its_end(content)


def _scratch(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / f"scratch-{threading.get_ident()}.jpg"
