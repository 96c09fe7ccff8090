"""Text is read where it says what it is, and shown, never guessed, where it does not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.data.encodings import read_text
from engine.errors import DataError

TEXT = "path,label\na/1.jpg,Größe\nb/2.jpg,아반떼\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-be"])
def test_unicode_in_any_form_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "t.csv") == TEXT


LEGACY = [
    ("cp949", "1.jpg,아반떼"),
    ("cp949", "경로,label"),
    ("cp932", "1.jpg,トヨタ プリウス"),
    ("cp932", "1.jpg,犬"),
    ("gb18030", "路径,红色汽车"),
    ("big5", "路徑,紅色汽車"),
    ("cp1252", "1.jpg,Größe"),
    ("cp1252", "1.jpg,“été”"),
    ("cp1251", "путь,Собака"),
    ("koi8-r", "путь,собака"),
    ("cp1250", "1.jpg,žółty"),
    ("cp1253", "1.jpg,γάτα"),
    ("cp1254", "1.jpg,kırmızı"),
    ("cp850", "1.jpg,Größe"),
]


@pytest.mark.parametrize(("encoding", "line"), LEGACY)
def test_another_encoding_is_among_those_shown_and_its_command_mends_the_file(
    tmp_path: Path, encoding: str, line: str
) -> None:
    table = tmp_path / "my labels.csv"
    table.write_bytes(f"path,label\n{line}\n".encode(encoding))
    with pytest.raises(DataError) as raised:
        read_text(table)
    text = str(raised.value)
    assert text.startswith(f"{table}: not UTF-8 text. Take the command below the line that reads as it should")
    command = re.search(rf"^  {re.escape(line)}\n    (iconv .*)$", text, re.MULTILINE)
    assert command, text
    if shutil.which("iconv"):
        subprocess.run(command[1], shell=True, check=True)
        assert read_text(tmp_path / "utf8_my labels.csv") == f"path,label\n{line}\n"


@pytest.mark.parametrize(("encoding", "line"), [LEGACY[n] for n in (0, 1, 2, 5, 6, 7, 8)])
def test_the_likeliest_reading_comes_first(tmp_path: Path, encoding: str, line: str) -> None:
    (tmp_path / "t.csv").write_bytes(f"path,label\n{line}\n".encode(encoding))
    with pytest.raises(DataError) as raised:
        read_text(tmp_path / "t.csv")
    assert str(raised.value).splitlines()[1].strip() == line


def test_a_long_line_is_cut_around_what_is_not_ascii(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(("x" * 500 + "Größe" + "y" * 500).encode("latin-1"))
    with pytest.raises(DataError, match=r"\n  \.\.\.x+Größey+\.\.\.\n"):
        read_text(tmp_path / "t.csv")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match=r"t\.csv: holds zero bytes, so it is no text"):
        read_text(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes("path,label\n".encode("utf-16") + b"\x00")
    with pytest.raises(DataError, match="begins as UTF-16-LE text and is none from byte 22 on"):
        read_text(tmp_path / "t.csv")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt: expected a file with text \(data\.exclude_file\), and this is no"):
        read_text(tmp_path / "pipe.txt", "exclude_file")
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read \(data\.relabel\): No such file"):
        read_text(tmp_path / "gone.txt", "relabel")
    with pytest.raises(DataError, match=r"cannot be read: Is a directory|no regular file"):
        read_text(tmp_path)
