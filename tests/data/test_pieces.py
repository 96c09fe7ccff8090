"""Images to predict are listed piece by piece, as folders and tables are listed whole, and from more places."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine.data.sources.folder as folder_module
import engine.data.tables as tables
from engine.data.roll import ROLL, Roll, even
from engine.data.sources import table as table_module
from engine.data.sources.listing import list_samples
from engine.data.sources.pieces import walk_sources
from engine.errors import DataError
from engine.recipe.sections import DataSection


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Files that are called like photos: nobody opens them here."""
    for name in ("b/2.jpg", "b/1.jpg", "a.b/3.jpg", "a/\u00e9.png", "a/e\u0301.png", "b/c/4.JPG", "nan/5.jpg", "0.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    for name in ("b/1.mp4", "b/1.json", ".hidden.jpg", "Thumbs.db"):
        (tmp_path / "photos" / name).write_bytes(b"")
    return tmp_path / "photos"


def listed(*sources: object, scratch: Path, stdin: bytes = b"", **keys: object) -> tuple[pa.Table, list[str]]:
    section = DataSection(test=str(sources[0]), **keys)  # type: ignore[arg-type]
    notices: list[str] = []
    pieces = list(walk_sources([str(one) for one in sources], section, scratch, notices, io.BytesIO(stdin)))
    return pa.concat_tables(pieces, promote_options="permissive").cast(ROLL), notices


def whole(source: Path, **keys: object) -> tuple[dict[str, list[object]], list[str]]:
    listing = list_samples(str(source), DataSection(test=str(source), **keys))  # type: ignore[arg-type]
    return {name: list(_plain(listing.columns[name])) for name in listing.columns}, list(listing.notices)


def _plain(values: object) -> Sequence[object]:
    return values.to_pylist() if hasattr(values, "to_pylist") else [*values]  # type: ignore[call-overload]


def same(found: pa.Table, expected: dict[str, list[object]]) -> None:
    columns = found.to_pydict()
    for name in ("id", "path", "label", "bytes", "mtime_ns"):
        assert columns[name] == expected[name], name


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_a_folder_is_listed_as_a_whole_one_is(
    photos: Path, tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "ROWS", rows)
    monkeypatch.setattr("engine.data.spill._RUN", rows)
    found, notices = listed(photos, scratch=tmp_path / "scratch")
    expected, said = whole(photos)
    same(found, expected)
    assert notices == said and "1 video" in notices[1]
    assert "a/e\u0301.png" in found["id"].to_pylist()  # two spellings that would be one id
    assert found["label"].to_pylist()[-1] == ""  # nan is no class


def test_splits_and_wrappers_are_no_classes_here_either(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "set" / "archive" / name).mkdir(parents=True)
        (tmp_path / "set" / "archive" / name / "1.jpg").touch()
    found, notices = listed(tmp_path / "set", scratch=tmp_path / "scratch")
    expected, said = whole(tmp_path / "set")
    same(found, expected)
    assert notices == said and len(notices) == 2


def test_an_empty_folder_is_refused_in_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").touch()
    with pytest.raises(DataError) as expected:
        whole(tmp_path / "set")
    with pytest.raises(DataError) as found:
        listed(tmp_path / "set", scratch=tmp_path / "scratch")
    assert str(found.value) == str(expected.value)


TABLES = {
    "plain": "ID,img_path,label\n007,b/1.jpg,cat\n8,./b/2.jpg,\n9,b\\c\\4,nan\n",
    "semicolons": "img_path;label;x\nb/1.jpg;1.0;\n\nb/2;2;\n;;\nimg_path;label;x\n0.jpg;;\n",
    "R": "path,label\n1,b/1.jpg,cat\n2,b/2.jpg,dog\n",
    "quoted": 'path, label\n"b/1.jpg", "a\nb"\nb/2.jpg,=""\n',
}


@pytest.mark.parametrize("form", ["csv", "large csv", "parquet"])
@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("rows", [1, 1000])
def test_a_table_is_listed_as_a_whole_one_is(
    photos: Path, tmp_path: Path, content: str, form: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "ROWS", rows)
    monkeypatch.setattr(tables, "_COPIED", rows)
    path = tmp_path / "test.csv"
    path.write_bytes(content.encode())
    if form == "parquet":
        read = tables.open_table(str(path))
        names = [name or "x" for name in read.names]
        path = tmp_path / "test.parquet"
        pq.write_table(pa.table(dict(zip(names, zip(*read.rows(), strict=True), strict=True))), path)
    if form == "large csv":
        monkeypatch.setattr(tables, "LARGE", 0)
    found, notices = listed(path, scratch=tmp_path / "scratch", images=str(photos))
    expected, said = whole(path, images=str(photos))
    same(found, expected)
    assert sorted(notices) == sorted(said)


@pytest.mark.parametrize("large", [False, True])
def test_files_that_are_not_there_are_counted_over_all_pieces(
    photos: Path, tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "ROWS", 2)
    monkeypatch.setattr(tables, "LARGE", 0 if large else 1000)
    path = tmp_path / "test.csv"
    path.write_text("path\n\n" + "".join(f"b/{i}.jpg\n" for i in range(9)))
    with pytest.raises(DataError) as expected:
        whole(path, images=str(photos))
    with pytest.raises(DataError) as found:
        listed(path, scratch=tmp_path / "scratch", images=str(photos))
    assert (
        str(found.value) == str(expected.value) and "lines 3" not in str(found.value) and "line 3" in str(found.value)
    )


def test_a_large_table_that_is_none_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGE", 0)
    path = tmp_path / "test.csv"
    for content, message in (
        (b"path\na,b,c\n", "line 2 has 3 cells and the header 1"),
        (b'path\na\n"b\n', "a double quote is opened and never closed"),
        (b"", "there is nothing in this table"),
        (b"path\nGr\xf6\xdfe.jpg\n", "not UTF-8"),
        (b"path\n" + b"a.jpg\n" * 200_000 + b"\xf6.jpg\n", "from line .* on"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            listed(path, scratch=tmp_path / "scratch")


def test_patterns_mean_images_by_their_path_from_what_is_fixed(photos: Path, tmp_path: Path) -> None:
    found, notices = listed(photos / "**" / "*", scratch=tmp_path / "scratch")
    expected, _ = whole(photos)
    assert found["id"].to_pylist() == expected["id"] or len(found) == len(expected["id"])
    assert any("1 video passed over" in notice for notice in notices)
    found, _ = listed(photos / "b" / "[12].jpg", scratch=tmp_path / "scratch")
    assert found["id"].to_pylist() == ["1.jpg", "2.jpg"] and set(found["label"].to_pylist()) == {""}
    with pytest.raises(DataError, match=r"no image is called so; there are other files: 1 \.json"):
        listed(photos / "b" / "*.json", scratch=tmp_path / "scratch")


def test_a_name_with_signs_of_a_pattern_is_a_name_where_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "[set]").mkdir()
    (tmp_path / "[set]" / "1.jpg").touch()
    assert listed(tmp_path / "[set]", scratch=tmp_path / "s")[0]["id"].to_pylist() == ["1.jpg"]


@pytest.mark.parametrize("end", [b"\n", b"\0", b"\r\n"])
def test_lists_on_standard_input(photos: Path, tmp_path: Path, end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    paths = ["b/2.jpg", "./b/1.jpg", str(photos / "0.jpg"), "gone.jpg"]
    found, _ = listed("-", scratch=tmp_path / "scratch", stdin=end.join(map(str.encode, paths)) + end)
    assert found["id"].to_pylist() == ["b/2.jpg", "b/1.jpg", str(photos / "0.jpg"), "gone.jpg"]
    assert found["path"].to_pylist()[1] == str(photos / "b" / "1.jpg")
    assert found["bytes"].to_pylist() == [7, 7, 5, -1]
    with pytest.raises(DataError, match="nothing was listed on standard input"):
        listed("-", scratch=tmp_path / "scratch", stdin=b"\n\n")


def test_several_sources_have_ids_that_tell_them_apart(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    found, _ = listed("a.b", "b/*.jpg", "0.jpg", "b/c/", "-", scratch=tmp_path / "s", stdin=b"nan/5.jpg\n")
    assert found["id"].to_pylist() == ["a.b/3.jpg", "b/1.jpg", "b/2.jpg", "0.jpg", "b/c/4.JPG", "nan/5.jpg"]


def test_a_roll_gives_back_what_was_listed_and_says_what_changed(photos: Path, tmp_path: Path) -> None:
    table, _ = listed(photos, scratch=tmp_path)
    told: list[int] = []
    roll = Roll.write(tmp_path / "roll.parquet", (table.slice(i, 1) for i in range(table.num_rows)), told.append)
    assert len(roll) == table.num_rows == told[-1]
    assert roll.rows(0, len(roll)).equals(table.combine_chunks()) and roll.rows(2, 4).equals(table.slice(2, 2))
    assert list(roll.ids) == table["id"].to_pylist() and roll.ids[-1] == roll.ids[len(roll) - 1]
    assert roll.labels["b"] == 3
    again = Roll.write(tmp_path / "again.parquet", [table])
    assert again.change_since(roll) == ""
    shorter = Roll.write(tmp_path / "shorter.parquet", [table.slice(0, 3)])
    assert shorter.change_since(roll) == f"8 -> 3 images; row 3: {roll.ids[3]!r} is gone"
    touched = table.set_column(5, "mtime_ns", pa.array([1, *table["mtime_ns"].to_pylist()[1:]]))
    other = Roll.write(tmp_path / "other.parquet", [touched])
    assert other.change_since(roll) == f"8 -> 8 images; row 0: {roll.ids[0]!r} has another content"
    assert roll.relabelled({roll.ids[1]: "x"}).labels == {"": 7, "x": 1}


def test_samples_that_share_an_id_are_named_with_their_paths(photos: Path, tmp_path: Path) -> None:
    table, _ = listed(photos, scratch=tmp_path)
    with pytest.raises(DataError, match=r"1 sample ids are used more than once.*'0.jpg' \(.*/photos/0.jpg, .*/0.jpg\)"):
        Roll.write(tmp_path / "roll.parquet", [table, table.slice(0, 1)])


@pytest.mark.parametrize("rows", [1, 3, 5, 12, 100])
def test_rows_are_cut_anew_whatever_pieces_they_come_in(rows: int) -> None:
    pieces = [pa.table({"x": np.arange(start, start + length)}) for start, length in ((0, 2), (2, 0), (2, 9), (11, 1))]
    cut = list(even(pieces, rows))
    assert [piece.num_rows for piece in cut] == [min(rows, 12 - start) for start in range(0, 12, rows)]
    assert pa.concat_tables(cut)["x"].to_pylist() == list(range(12))
