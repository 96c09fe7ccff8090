"""What machines leave behind is no image and no class; what people made is, whatever it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.data.sources.litter import (
    Others,
    is_litter_file,
    is_litter_folder,
    is_litter_label,
    is_litter_path,
    may_mean_nothing,
    means_nothing,
    spoiled,
    tidy,
    whole_numbers,
)
from engine.errors import DataError
from engine.recipe.sections import DataSection

MakePhoto = Callable[..., Path]


def names(text: str) -> list[str]:
    return text.split(",")


FOLDERS = names(
    "__MACOSX,@eaDir,@tmp,#recycle,#snapshot,@Recycle,@Recently-Snapshot,~snapshot,$RECYCLE.BIN,$Recycle.Bin,"
    "System Volume Information,FOUND.000,found.012,DfsrPrivate,lost+found,LOST.DIR,Network Trash Folder,"
    "Temporary Items,__pycache__,.Trash-1000,.Trashes,.thumbnails,.ipynb_checkpoints,.git,.cache,.sync,.stversions,"
    ".picasaoriginals,.dropbox.cache,.Spotlight-V100,.fseventsd,.engine,.anything,"
    "__MACOSX 2,__MACOSX (1),@SynoResource,@__thumb,TheVolumeSettingsFolder,Config.Msi,WPSystem,_vti_cnf,_gsdata_,"
    "Catalog Previews.lrdata,site-packages,node_modules,__results___files,wandb,mlruns,lightning_logs"
)
FILES = names(
    "._photo.jpg,.DS_Store,Icon\r,Thumbs.db,thumbs.db,ehthumbs_vista.db,desktop.ini,Desktop.ini,"
    "photo.jpg:Zone.Identifier,~$locked.xlsx,.~lock.labels.ods#,.nfs000000000012a4,.fuse_hidden0001,"
    ".trashed-1700000000-IMG_1.jpg,.pending-1700000000-IMG_1.jpg,.syncthing.photo.jpg.tmp,SYNOPHOTO_THUMB_XL.jpg,"
    "SYNOFILE_THUMB_M.png,AlbumArt_{B5020207-474E}_Large.jpg,AlbumArtSmall.jpg,Picasa.ini,.picasa.ini,"
    "SYNOPHOTO_FILM_M.jpg,Thumbs.db:encryptable,photo.jpg:AFP_AfpInfo,photo.jpg:com.dropbox.attributes"
)
PHOTOS = names(
    "photo (1).jpg,Copy of photo.jpg,photo - Copy.jpg,photo-edited.jpg,MVIMG_20200101.jpg,IMG_0001.JPG,#1.jpg,~1.jpg,"
    "@me.jpg,$5.jpg,thumb.jpg,police-checkpoint.jpg,Folder.jpg,None.jpg,nan.jpg"
)
CLASSES = names("found,recycle,recycler,trash,cache,train,New folder,a.b,#1,$5,@home,checkpoint,.NET,.45,...")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_a_machine_made_is_passed_over(name: str) -> None:
    assert is_litter_folder(name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_a_machine_made_is_no_image(name: str) -> None:
    assert is_litter_file(name) and is_litter_path(f"d/a/{name}") and is_litter_label(name)


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_of_an_odd_name_is_one(name: str) -> None:
    assert not is_litter_file(name)
    assert not any(is_litter_path(f"{folder}/{name}") for folder in ("/home/me/.cache/kaggle", "/#snapshot/a", "a"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_label_of_an_odd_name_is_one(name: str) -> None:
    assert not is_litter_label(name)
    assert is_litter_folder(name) == name.startswith(".")


def test_all_of_it_at_once_leaves_the_photos(tmp_path: Path, photo: MakePhoto) -> None:
    for name in PHOTOS:
        photo(f"set/a/{name}")
    photo("set/b/1.jpg")
    for folder in FOLDERS:
        photo(f"set/{folder}/1.jpg"), photo(f"set/a/{folder}/1.jpg")
    for name in FILES:
        for folder in ("set", "set/a"):
            (tmp_path / folder / name).write_bytes(b"no image")
    for name in ("1.jpg.json", "1.xmp", "1.AAE", "1.THM", "1.LRV", "labels.csv", "ZbThumbnail.info"):
        (tmp_path / "set" / "a" / name).write_bytes(b"beside the photo")
    manifest = ingest(str(tmp_path / "set"), DataSection(train=str(tmp_path / "set")))
    assert sorted(manifest.ids) == sorted([*(f"a/{name}" for name in PHOTOS), "b/1.jpg"])
    assert manifest.notices == ()


def test_what_a_person_may_have_wanted_is_told() -> None:
    found = names(
        "a/.IMG_1.jpg.icloud,a/.IMG_2.jpg.icloud,a/1.jpg.crdownload,a/2.JPG.part,a/3.CR2,a/4.mp4,a/.hidden.jpg,"
        "a/5.jpg.1,a/6.jpg?w=100,a/7.svg,a/8.zip,a/1.jpg.json,a/notes.txt,a/.keep,"
        "b/1.jpg ,b/2.jpg\r,b/3.JPG;1,b/4.jpg_large,b/5.jpg-orig,b/6.jpg%3Fw=1,b/7.jpg_original,b/8.jpg.nextcloud"
    )
    others = Others()
    for name in found:
        others.append(name)
    said = others.passed_over()
    text = "\n".join(said)
    assert "2 photos that are only in iCloud passed over, such as 'a/.IMG_1.jpg.icloud': download them first" in text
    assert "2 unfinished downloads" in text and "1 camera raw file passed" in text and "1 video passed" in text
    assert "1 hidden image passed over, such as 'a/.hidden.jpg'" in text
    assert "8 images under another suffix passed over, such as 'a/5.jpg.1'" in text
    assert "1 photo that is only in a cloud passed over, such as 'b/8.jpg.nextcloud'" in text
    assert "1 archive" in text and "1 drawing or document" in text
    assert "json" not in text and "txt" not in text and ".keep" not in text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (" a ", "a"),
        ("a\u00a0b", "a b"),
        ("a\u3000 b", "a  b"),
        ("\ufeffa", "a"),
        ("a\u200bb\u00ad", "ab"),
        ("\u200ea\u200f", "a"),
        ("“cat”", "cat"),
        ("‘cat’", "cat"),
        ("l’été", "l’été"),
        ("e\u0301te\u0301", "été"),
        ("a\tb", "a b"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # a joiner that is part of the word
        ("“", "“"),
    ],
)
def test_a_label_is_what_people_see_of_it(text: str, seen: str) -> None:
    assert tidy(text) == seen == tidy(seen)


def test_words_for_no_value() -> None:
    for word in ("nan", "NaN", "NAN", "#N/A", "N/A", "null", "NULL", "<NA>", "NaT", "#REF!", "#DIV/0!", "undefined"):
        assert means_nothing(word) and not may_mean_nothing(word)
    for word in ("#NV", "#¡VALOR!", "#ССЫЛКА!", "Loading...", r"\N", "<undefined>", "NA_character_"):
        assert means_nothing(word) and not may_mean_nothing(word)
    for word in ("NA", "None", "none", "-", "?", "unknown", "Not_sure", "기타"):  # Namibia, no fault, minus
        assert may_mean_nothing(word) and not means_nothing(word)
    for word in ("Nan's kitchen", "Nana", "no", "0", "x", "nothing"):
        assert not means_nothing(word) and not may_mean_nothing(word)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1.23E+05", "shortened"),
        ("4E-10", "shortened"),
        ("May-01", "date"),
        ("1-Sep", "date"),
        ("2001-05-01 00:00:00", "date"),
        ("1,234", "thousands"),
        ("#####", "cell"),
        ("[object Object]", "program"),
        ("tensor(3)", "program"),
        ("Gr\ufffdße", "lost"),
    ],
)
def test_what_a_spreadsheet_has_made_of_a_value_is_seen(text: str, says: str) -> None:
    assert says in spoiled(text)


@pytest.mark.parametrize("text", ["E5", "1E", "May", "1.5", "2001", "Sep-tember", "a,b", "#1", "123", "3E4F"])
def test_a_value_that_is_one_is_not_suspected(text: str) -> None:
    assert spoiled(text) == ""


def test_whole_numbers_that_became_floats() -> None:
    assert whole_numbers(["3.0", "1", "2.00", "nan", ""]) == {"3.0": "3", "2.00": "2"}
    assert whole_numbers(["1.0", "2.5"]) == whole_numbers(["1.0", "a"]) == whole_numbers(["1", "2"]) == {}
    assert whole_numbers(["007", "008"]) == {}


# In tables


def listed(tmp_path: Path, text: str, **keys: object) -> Manifest:
    source = tmp_path / "train.csv"
    source.write_text(text, encoding="utf-8")
    return ingest(str(source), DataSection(train=str(source), **keys))  # type: ignore[arg-type]


def test_rows_that_a_listing_made_of_litter_are_left_out(tmp_path: Path, photo: MakePhoto) -> None:
    for name in ("a/1.jpg", "b/2.jpg", "a/.ipynb_checkpoints/1-checkpoint.jpg", ".ipynb_checkpoints/3.jpg"):
        photo(name)
    (tmp_path / "a" / ".DS_Store").write_bytes(b"")
    text = (
        "path,label\na/1.jpg,a\nb/2.jpg,b\na/.DS_Store,a\na/.ipynb_checkpoints/1-checkpoint.jpg,a\n"
        ".ipynb_checkpoints/3.jpg,.ipynb_checkpoints\n"
    )
    manifest = listed(tmp_path, text)
    assert manifest.ids == ["a/1.jpg", "b/2.jpg"]
    assert "3 rows left out that no person wrote: 'a/.DS_Store'" in manifest.notices[0]


def test_labels_that_mean_none_are_refused_with_the_keys(tmp_path: Path, photo: MakePhoto) -> None:
    for n in range(5):
        photo(f"{n}.jpg")
    text = "path,label\n0.jpg,a\n1.jpg,nan\n2.jpg,b\n3.jpg,#N/A\n4.jpg,NaN\n"
    with pytest.raises(
        DataError, match=r"3 of 5 labels mean that there is none, '#N/A', 'NaN', 'nan': lines 3, 5, 6\."
    ):
        listed(tmp_path, text)
    kept = listed(tmp_path, text, drop_classes=("#N/A", "NaN", "nan"))
    assert kept.labels == ["a", "b"]
    assert "3 images left out by data.drop_classes: '#N/A' (1), 'NaN' (1), 'nan' (1)" in kept.notices
    named = listed(tmp_path, text, label_names=(("nan", "nan"), ("NaN", "nan"), ("#N/A", "nan")))
    assert named.labels == ["a", "nan", "b", "#N/A", "NaN"]


def test_a_class_that_may_mean_none_is_one_and_is_told(tmp_path: Path, photo: MakePhoto) -> None:
    photo("0.jpg"), photo("1.jpg"), photo("2.jpg")
    text = "path,label\n0.jpg,NA\n1.jpg,none\n2.jpg,none\n"
    manifest = listed(tmp_path, text)
    assert manifest.labels == ["NA", "none", "none"]
    (said,) = manifest.notices
    assert "may mean that there is none: 'NA' (1), 'none' (2)" in said and 'data.drop_classes = ["NA", "none"]' in said
    assert listed(tmp_path, text, label_names=(("NA", "NA"), ("none", "none"))).notices == ()


def test_a_folder_that_a_notebook_named_after_no_value_is_refused(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/a/1.jpg"), photo("set/b/2.jpg"), photo("set/nan/3.jpg")
    source = str(tmp_path / "set")
    with pytest.raises(DataError, match=r"1 of 3 labels mean that there is none, 'nan': image nan/3\.jpg"):
        ingest(source, DataSection(train=source))
    assert ingest(source, DataSection(train=source, drop_classes=("nan",))).ids == ["a/1.jpg", "b/2.jpg"]
    assert ingest(source, DataSection()).labels == ["a", "b", ""]  # looked at


def test_labels_that_became_floats_are_whole_numbers_again(tmp_path: Path, photo: MakePhoto) -> None:
    photo("0.jpg"), photo("1.jpg"), photo("2.jpg")
    text = "path,label\n0.jpg,3.0\n1.jpg,1.0\n2.jpg,3\n"
    manifest = listed(tmp_path, text)
    assert manifest.labels == ["3", "1", "3"]
    assert "'1.0' is read as '1'" in manifest.notices[0]
    assert listed(tmp_path, text, label_names=(("3.0", "three"),)).labels == ["3.0", "1.0", "3"]


def test_labels_that_differ_in_what_nobody_sees_are_one_class(tmp_path: Path, photo: MakePhoto) -> None:
    photo("0.jpg"), photo("1.jpg"), photo("2.jpg")
    manifest = listed(tmp_path, "path,label\n0.jpg,T\u00a0Shirt\n1.jpg,T Shirt\u200b\n2.jpg,“T Shirt”\n")
    assert set(manifest.labels) == {"T Shirt"}
    assert "3 labels read without invisible characters" in manifest.notices[0]


def test_labels_that_a_spreadsheet_has_spoiled_are_told(tmp_path: Path, photo: MakePhoto) -> None:
    photo("0.jpg"), photo("1.jpg")
    manifest = listed(tmp_path, "path,label\n0.jpg,May-01\n1.jpg,b\n")
    assert "1 label that may be a date that a spreadsheet made of something else: 'May-01'" in manifest.notices[0]


@pytest.mark.parametrize(
    ("written", "file", "says"),
    [
        ("7", "007.jpg", r"There is '007\.jpg': a spreadsheet or pandas has taken the zeros"),
        ("7.0", "007.jpg", "has taken the zeros"),
        ("1.23E+05", "123456.jpg", "a number that a spreadsheet has shortened: export the column as text"),
        ('"1,234"', "1234.jpg", "separators of thousands"),
        ("IMG.JPG", "img.jpg", r"There is 'img\.jpg': capitals count"),
        ("gone/1.jpg", "1.jpg", "There is no folder"),
    ],
)
def test_a_name_that_a_spreadsheet_has_spoiled_is_told_by_what_is_there(
    tmp_path: Path, photo: MakePhoto, written: str, file: str, says: str
) -> None:
    photo(file), photo("b.jpg")
    with pytest.raises(DataError, match=says):
        listed(tmp_path, f"path,label\n{written},a\nb.jpg,b\n")
