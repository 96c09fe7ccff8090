"""Which column holds what is told by its name, and a guess is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.data.ingest import ingest
from engine.data.sources.columns import column_roles, guess_column
from engine.data.sources.table import list_labels
from engine.errors import DataError
from engine.recipe.sections import DataSection

MakePhoto = Callable[..., Path]


@pytest.mark.parametrize(
    ("names", "path", "id_", "label"),
    [
        (["path", "label"], "path", "", "label"),
        (["", "ID", "img_path", "class"], "img_path", "ID", "class"),
        (["id", "target"], "id", "id", "target"),
    ],
)
def test_usual_names_are_no_guess(names: list[str], path: str, id_: str, label: str) -> None:
    roles = column_roles("t.csv", names, DataSection(), True)
    assert (roles.path, roles.id, roles.label, roles.notices) == (path, id_, label, ())


@pytest.mark.parametrize(
    ("names", "usual", "others", "found"),
    [
        (["Image", "Label"], ("label",), (), ("Label", False)),
        (["IMAGE PATH"], ("path",), ("imagepath",), ("IMAGE PATH", False)),
        (["Image", "image"], ("image",), (), ("image", True)),
        (["x", "y"], ("label",), ("y",), ("y", False)),
        (["x", "z"], ("label",), ("y",), ("", False)),
    ],
)
def test_a_name_that_is_like_a_usual_one_is_a_guess(
    names: list[str], usual: tuple[str, ...], others: tuple[str, ...], found: tuple[str, bool]
) -> None:
    assert guess_column(names, usual, others) == found


@pytest.mark.parametrize(
    ("header", "path", "label"),
    [
        ("image_id,label", "image_id", "label"),
        ("Image,Label", "Image", "Label"),
        ("Image Path,Class Name", "Image Path", "Class Name"),
        ("FILE_NAME,category_id", "FILE_NAME", "category_id"),
        (" filename ,LABELS", "filename", "LABELS"),
    ],
)
def test_columns_of_other_names_are_taken_and_told(
    tmp_path: Path, photo: MakePhoto, header: str, path: str, label: str
) -> None:
    photo("1.jpg"), photo("2.jpg")
    source = tmp_path / "train.csv"
    source.write_text(f"{header}\n1.jpg,a\n2.jpg,b\n")
    manifest = ingest(str(source), DataSection(train=str(source)))
    assert manifest.ids == ["1.jpg", "2.jpg"] and manifest.labels == ["a", "b"]
    text = "\n".join(manifest.notices)
    assert (f"column {path!r} is taken for data.path_column" in text) == (path != "filename")
    assert (f"column {label!r} is taken for data.label_column" in text) == (label != "label")
    named = DataSection(train=str(source), path_column=path, label_column=label)  # the remedy of every error here
    assert ingest(str(source), named).notices == ()


def test_of_columns_that_may_hold_paths_the_one_that_does_is_taken(tmp_path: Path, photo: MakePhoto) -> None:
    photo("1.jpg"), photo("2.jpg")
    source = tmp_path / "train.csv"
    source.write_text("id,file_name,image,label\n7,1.jpg,cat one,a\n8,2.jpg,cat two,b\n")
    manifest = ingest(str(source), DataSection(train=str(source)))
    assert manifest.ids == ["7", "8"] and [Path(path).name for path in manifest.paths] == ["1.jpg", "2.jpg"]
    assert "column 'file_name' is taken for data.path_column" in manifest.notices[0]
    source.write_text("id,path,label\n1.jpg,gone/1.jpg,a\n2.jpg,2.jpg,b\n")  # some are there: the usual name counts
    with pytest.raises(DataError, match="1 of 2 files in column 'path'"):
        ingest(str(source), DataSection(train=str(source)))


def test_a_named_column_may_differ_in_capitals_where_one_is_meant() -> None:
    roles = column_roles("t.csv", ["File", "What"], DataSection(path_column="file", label_column="what"), True)
    assert (roles.path, roles.label) == ("File", "What") and len(roles.notices) == 2
    with pytest.raises(DataError, match=r"no column file; its columns are 'File', 'FILE'"):
        column_roles("t.csv", ["File", "FILE"], DataSection(path_column="file"), False)


def test_truth_is_read_like_other_tables(tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_bytes("Image_ID;Label\r\n1.jpg;3.0\r\n2.jpg;nan\r\n;\r\n3.jpg;1.0\r\n".encode("utf-16"))
    assert list_labels(str(table), DataSection()) == {"1.jpg": "3", "2.jpg": "", "3.jpg": "1"}
    with pytest.raises(DataError, match="no column label or class"):
        table.write_text("id,x\n1,a\n")
        list_labels(str(table), DataSection())
