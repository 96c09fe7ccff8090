"""Tables are read as they are clearly meant, by the lines of the file."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data.sources.columns import column_roles
from engine.data.sources.listing import list_samples
from engine.data.tables import UserTable, open_table, read_list, read_pairs
from engine.errors import DataError
from engine.recipe.sections import DataSection


def opened(tmp_path: Path, text: str, name: str = "t.csv") -> UserTable:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return open_table(str(path))


def rows(table: UserTable, *names: str) -> list[tuple[str, ...]]:
    columns = table.columns(names)
    return list(zip(*(columns[name].to_pylist() for name in names), strict=True))


EXPECTED = [("1.jpg", "a"), ("2.jpg", "b")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\n1.jpg,a\n2.jpg,b\n", ""),
        ("path,label\r\n1.jpg,a\r\n2.jpg,b", ""),
        ("path,label\r1.jpg,a\r2.jpg,b\r", ""),
        ("path;label\n1.jpg;a\n2.jpg;b\n", "semicolons between its columns"),
        ("path\tlabel\n1.jpg\ta\n2.jpg\tb\n", "tabs between"),
        ("path|label\n1.jpg|a\n2.jpg|b\n", "bars between"),
        ("sep=;\npath;label\n1.jpg;a\n2.jpg;b\n", "semicolons between"),
        ('"sep=,"\r\npath,label\r\n1.jpg,a\r\n2.jpg,b\r\n', ""),
        ("\n\npath,label\n\n1.jpg,a\n\n\n2.jpg,b\n\n", ""),
        ("path,label,,\n1.jpg,a,,\n2.jpg,b,,\n", ""),
        ("path,label\n1.jpg,a,,,\n2.jpg,b,\n", ""),
        ("path,label\n1.jpg,a\n2.jpg,b\n,\n , \n,\n", "3 rows with nothing in any column"),
        ('"path","label"\n"1.jpg","a"\n"2.jpg","b"\n', ""),
        ('"path", "label"\n"1.jpg", "a"\n"2.jpg", "b"\n', ""),
        (" path , label \n1.jpg,a\n2.jpg,b\n", ""),
        ("“path”,\u00a0label\u200b\n1.jpg,a\n2.jpg,b\n", ""),
        ("\ufeffpath,label\n1.jpg,a\n\ufeffpath,label\n2.jpg,b\n", "the header stands again in line 3"),
        (",path,label\n0,1.jpg,a\n1,2.jpg,b\n", ""),
        ("Unnamed: 0,path,label\n0,1.jpg,a\n1,2.jpg,b\n", ""),
        ('"path","label"\n"1","1.jpg","a"\n"2","2.jpg","b"\n', ""),  # R's write.table
        ("path,label,a|b|c|d\n1.jpg,a,0\n2.jpg,b,0\n", ""),
        ("path;label;weight,in,kg,net\n1.jpg;a;0,5\n2.jpg;b;1,5\n", "semicolons between"),
        ("path,label\n1.jpg,a\n2.jpg,b\n\x1a", ""),
        ('path,label\n="1.jpg",="a"\n="2.jpg","=""b"""\n', ""),
    ],
)
def test_what_is_clearly_meant_is_read_and_told(tmp_path: Path, text: str, says: str) -> None:
    table = opened(tmp_path, text)
    assert rows(table, "path", "label") == EXPECTED
    assert says in "\n".join(table.notices) and bool(says) == bool(table.notices)


def test_rows_are_called_by_the_lines_of_the_file(tmp_path: Path) -> None:
    table = opened(tmp_path, 'path,note\n\n1.jpg,"two\nlines"\n\n2.jpg,x\n,\n3.jpg,y\n')
    assert rows(table, "path", "note") == [("1.jpg", "two\nlines"), ("2.jpg", "x"), ("3.jpg", "y")]
    assert table.where.name([0, 1, 2]) == "lines 3, 6, 8"
    assert table.where.take([2]).name([0]) == "line 8"


def test_short_rows_lack_their_last_cells(tmp_path: Path) -> None:
    assert rows(opened(tmp_path, "path,label\n1.jpg\n2.jpg,b\n"), "path", "label") == [("1.jpg", ""), ("2.jpg", "b")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "path,label\n1.jpg,a\n2.jpg,Smith, J\n3.jpg,x,y\n",
            r"line 3 has 3 cells and the header 2, and so 1 more lines",
        ),
        ('path,label\n1.jpg,a\n2.jpg,"b\n3.jpg,c\n', "line 3: a double quote is opened and never closed"),
        ("path,label,label\n", "2 columns are called 'label'"),
    ],
)
def test_what_may_be_meant_otherwise_is_refused_by_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as raised:
        opened(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path / "t.csv"))


def test_a_tab_separated_file_has_its_own_suffix(tmp_path: Path) -> None:
    assert rows(opened(tmp_path, "path\tlabel\n1.jpg\ta\n2.jpg\tb\n", "t.tsv"), "path", "label") == EXPECTED


def test_parquet_columns_of_any_plain_type_are_text(tmp_path: Path) -> None:
    columns = {
        "int": pa.array([1, None]),
        "float": pa.array([3.0, float("nan")], from_pandas=False),
        "bool": pa.array([True, False]),
        "category": pa.array(["a", None]).dictionary_encode(),
        "number category": pa.array([10, 20]).dictionary_encode(),
        "large": pa.array(["a", "b"], pa.large_string()),
        "image": pa.array([{"bytes": b"x"}, {"bytes": b"y"}]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = open_table(str(tmp_path / "t.parquet"))
    found = {name: [value for (value,) in rows(table, name)] for name in table.names if name != "image"}
    assert found == {
        "int": ["1", ""],
        "float": ["3", ""],
        "bool": ["true", "false"],
        "category": ["a", ""],
        "number category": ["10", "20"],
        "large": ["a", "b"],
    }
    assert table.where.name([1]) == "row 1" and len(table) == 2
    with pytest.raises(DataError, match=r"column 'image' holds struct.*, expected text or numbers"):
        table.columns(["image"])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="no regular file"):
        open_table(str(tmp_path / name))


def test_pairs_are_read_like_tables(tmp_path: Path) -> None:
    path = tmp_path / "meta.csv"
    path.write_bytes("\ufefftarget;name\r\n\r\n0;Größe \r\n1;b\r\n;\r\n".encode("utf-16-le"))
    assert read_pairs(str(path), "label_table") == ([("0", "Größe"), ("1", "b")], ("target", "name"))
    path.write_text("target,name\n0,a\n1\n")
    with pytest.raises(
        DataError, match=r"at least two columns in every line \(data\.label_table\), which line 3 has not"
    ):
        read_pairs(str(path), "label_table")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (",path,label\n0,1.jpg,a\n1,2.jpg,b\n", "the first column has no name and holds 0, 1, 2"),
        ("Unnamed: 0,path,label\n0,1.jpg,a\n", "the first column has no name"),
        ('"path","label"\n"1","1.jpg","a"\n"2","2.jpg","b"\n', "the first column has no name"),
        ("1.jpg,a\n2.jpg,b\n", r"there is no header \(data\.relabel\)"),
    ],
)
def test_pairs_that_begin_elsewhere_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "relabel.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_pairs(str(path), "relabel")
    path.write_text(",name\n0,cat\n1,dog\n")  # with two columns there is no other way to read them
    assert read_pairs(str(path), "label_table")[0] == [("0", "cat"), ("1", "dog")]


def test_a_list_is_read_in_any_unicode_form(tmp_path: Path) -> None:
    (tmp_path / "noise.txt").write_bytes("# noise\r\nb/3.jpg\r\n\r\n둘.jpg\r\n".encode("utf-16"))
    assert read_list(str(tmp_path / "noise.txt"), "exclude_file") == ["b/3.jpg", "둘.jpg"]


def test_a_cell_may_be_of_any_length(tmp_path: Path) -> None:
    mask = "1 " * 100_000
    assert rows(opened(tmp_path, f"path,mask\n1.jpg,{mask}\n"), "path", "mask") == [("1.jpg", mask)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04\x14\0\6\0", r"a workbook of a spreadsheet, or a zip.*Save it as CSV.*unzip .*t\.csv"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old spreadsheet.*Save it as CSV"),
        (gzip.compress(b"path,label\n1.jpg,a\n", mtime=0), r"compressed by gzip.*gzip -dc .*t\.csv > unpacked\.csv"),
        (b"PAR1\x15\0\x15\0", r"a Parquet table. Let its name end in \.parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"", "there is nothing in this table"),
        (b"1.jpg,a\n2.jpg,b\n", "there is no header: the first line is '1.jpg', 'a'. Put a line.*path,label"),
        (b"Photos of 2020\npath,label\n1.jpg,a\n", "If line 1 is no header but a title, remove it"),
    ],
)
def test_what_is_no_table_is_told_with_its_remedy(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=says):
        column_roles(str(path), open_table(str(path)).names, DataSection(), training=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("set.zip", "an archive. Unpack it, and name the folder: unzip -d .*set .*set.zip"),
        ("set.tar.gz", "mkdir -p .*set && tar -C .*set -xf .*set.tar.gz"),
        ("t.csv.gz", r"a compressed table.*gzip -dc .*t.csv.gz > .*t\.csv"),
        ("t.xlsx", "a workbook of a spreadsheet. Save its sheet as CSV"),
        ("1.JPG", "one image. Name the folder"),
        ("t.txt", r"let its name end in \.csv"),
        ("t.json", "expected a folder of images, or a table ending in"),
    ],
)
def test_a_file_that_is_no_source_is_told_with_its_remedy(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=says):
        list_samples(str(tmp_path / name), DataSection())


def test_an_address_is_no_source() -> None:
    with pytest.raises(DataError, match=r"https://example.org/set.zip: an address. Download"):
        list_samples("https://example.org/set.zip", DataSection())
