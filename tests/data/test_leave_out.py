"""What the recipe leaves out is left out by its name, before anybody looks for its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.data.clean import Cleaned, clean
from engine.data.ingest import ingest
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection

MakePhoto = Callable[..., Path]

TEXT = "path,label\n0.jpg,a\n1.jpg,b\n2.jpg,a\n3.jpg,b\ngone.jpg,a\nlost/5.jpg,Not sure\n"


@pytest.fixture
def table(tmp_path: Path, photo: MakePhoto) -> Path:
    """Four photos in a table of six."""
    for n in range(4):
        photo(f"{n}.jpg")
    (tmp_path / "train.csv").write_text(TEXT)
    return tmp_path / "train.csv"


def cleaned(source: Path, **keys: object) -> Cleaned:
    section = DataSection(train=str(source), **keys)  # type: ignore[arg-type]
    return clean(ingest(section.train, section), section)


def test_missing_files_are_counted_and_the_key_is_named(table: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 6 files .* line 6: 'gone\.jpg'; line 7.*data\.missing = \"leave_out\""):
        cleaned(table)


def test_missing_files_are_left_out_by_name_and_not_in_a_table_to_predict(table: Path) -> None:
    result = cleaned(table, missing="leave_out")
    assert result.manifest.ids == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    said, doubtful = result.notices[1], result.notices[0]
    assert "2 of 6 files in column 'path' do not exist and are left out (data.missing), lines 6, 7" in said
    assert "may mean that there is none: 'Not sure' (1)" in doubtful
    assert [str(entry) for entry in result.left_out.values()] == [
        f"{table.parent / name}: cannot be read: No such file or directory" for name in ("gone.jpg", "lost/5.jpg")
    ]
    with pytest.raises(DataError, match="2 of 6 files"):
        ingest(str(table), DataSection(test=str(table), missing="leave_out"))


def test_a_table_of_which_no_file_is_there_is_refused_in_any_case(table: Path) -> None:
    table.write_text("path,label\nx.jpg,a\ny.jpg,b\n")
    with pytest.raises(DataError, match="2 of 2 files") as raised:
        cleaned(table, missing="leave_out")
    assert "data.missing" not in str(raised.value)


def test_an_image_on_the_noise_list_need_not_be_there(table: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.txt"
    noise.write_text("lost/5.jpg\nnobody.jpg\n")
    result = cleaned(table, exclude=("gone.jpg", "0.jpg"), exclude_file=str(noise))
    assert result.manifest.ids == ["1.jpg", "2.jpg", "3.jpg"]
    assert "2 images left out by data.exclude" in result.notices
    assert "1 image left out by data.exclude_file" in result.notices
    assert "data.exclude_file: 1 of 2 names are no image's: nobody.jpg" in result.notices


def test_an_image_on_the_noise_list_need_not_have_a_label(table: Path) -> None:
    table.write_text("path,label\n0.jpg,a\n1.jpg,b\n2.jpg,\n")
    assert cleaned(table, exclude=("2.jpg",)).manifest.ids == ["0.jpg", "1.jpg"]
    assert cleaned(table, drop_classes=("",)).manifest.ids == ["0.jpg", "1.jpg"]
    with pytest.raises(
        DataError, match=r'column .label. is empty in 1 of 3 rows: line 4\. .*data\.drop_classes = \[""\]'
    ):
        cleaned(table)


def test_dropped_classes_are_counted_and_their_files_not_looked_for(table: Path) -> None:
    result = cleaned(table, drop_classes=("Not*",), exclude=("gone.jpg",))
    assert set(result.manifest.labels) == {"a", "b"}
    assert "1 image left out by data.drop_classes: 'Not sure' (1)" in result.notices


def test_a_pattern_that_matches_no_class_is_refused_with_the_nearest(table: Path) -> None:
    with pytest.raises(RecipeError, match=r"no class is called 'not sure'; capitals count\. Nearest: 'Not sure'"):
        cleaned(table, drop_classes=("not sure",))


def test_classes_are_dropped_by_what_relabelling_makes_of_them(table: Path, tmp_path: Path) -> None:
    relabel = tmp_path / "relabel.csv"
    relabel.write_text("image,label\n0.jpg,Not sure\n3.jpg,a\n")
    result = cleaned(table, relabel=str(relabel), drop_classes=("Not sure",), exclude=("gone.jpg",))
    assert dict(zip(result.manifest.ids, result.manifest.labels, strict=True)) == {
        "1.jpg": "b",
        "2.jpg": "a",
        "3.jpg": "a",
    }


def test_classes_are_dropped_by_either_of_their_names(table: Path) -> None:
    names = (("Not sure", "none of them"), ("a", "[a]"))
    for pattern in ("Not sure", "none*", "none of them"):
        dropped = cleaned(table, label_names=names, drop_classes=(pattern,), exclude=("gone.jpg",)).manifest
        assert set(dropped.labels) == {"[a]", "b"}
    dropped = cleaned(table, label_names=names, drop_classes=("[a]",), exclude=("lost/5.jpg",)).manifest
    assert set(dropped.labels) == {"b"}  # a name is itself before it is a pattern


def test_folders_leave_out_by_the_same_keys(tmp_path: Path, photo: MakePhoto) -> None:
    for name in ("a/1.jpg", "b/2.jpg", "Skip/3.jpg", "Skip me/4.jpg", "b/5.jpg"):
        photo(f"set/{name}")
    result = cleaned(tmp_path / "set", drop_classes=("Skip*",), exclude=("5.jpg",))
    assert result.manifest.ids == ["a/1.jpg", "b/2.jpg"]
    assert "2 images left out by data.drop_classes: 'Skip' (1), 'Skip me' (1)" in result.notices
    shown = ingest(str(tmp_path / "set"), DataSection(exclude=("5.jpg",)))  # by engine data index
    assert "b/5.jpg" not in shown.ids and len(shown) == 4
