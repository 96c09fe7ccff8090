"""From folders and tables to a manifest: what is found, what is refused, and what is not done twice."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.data import headers, threads
from engine.data import ingest as ingest_module
from engine.data.describe import describe
from engine.data.headers import HeaderFacts, read_header
from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.errors import DataError
from engine.quarantine import Fault, FaultKind
from engine.recipe.sections import DataSection

MakePhoto = Callable[..., Path]
NFC, NFD = (unicodedata.normalize(form, "아반떼 N") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "user cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that have been opened so far."""
    names: list[str] = []

    def counted(path: str) -> HeaderFacts:
        names.append(Path(path).name)
        return read_header(path)

    monkeypatch.setattr(headers, "read_header", counted)
    return names


def training(source: Path, **keys: str) -> Manifest:
    return ingest(str(source), DataSection(train=str(source), **keys))


def predicting(source: Path, **keys: str) -> Manifest:
    return ingest(str(source), DataSection(test=str(source), **keys))


def table(tmp_path: Path, text: str, name: str = "train.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# Folders


def test_the_first_folder_on_the_way_is_the_class(tmp_path: Path, photo: MakePhoto) -> None:
    for name in ("b/2.jpg", "b/deep/er/1.JPG", "a c/3.jpeg", "a c/x.PNG", "b/4.webp", "b/5.Bmp"):
        photo(f"set/{name}")
    manifest = training(tmp_path / "set")
    assert manifest.ids == ["a c/3.jpeg", "a c/x.PNG", "b/2.jpg", "b/4.webp", "b/5.Bmp", "b/deep/er/1.JPG"]
    assert manifest.labels == ["a c", "a c", "b", "b", "b", "b"]
    assert manifest.paths == [str(tmp_path / "set" / id_) for id_ in manifest.ids]
    assert set(manifest.table["status"].to_pylist()) == {"ok"}
    assert manifest.sizes_N2.tolist() == [[12, 20]] * 6


def test_a_flat_folder_is_unlabelled_test_images(tmp_path: Path, photo: MakePhoto) -> None:
    photo("test/TEST_1.jpg"), photo("test/TEST_0.jpg")
    manifest = predicting(tmp_path / "test")
    assert manifest.ids == ["TEST_0.jpg", "TEST_1.jpg"]
    assert manifest.labels == ["", ""]


def test_images_to_train_on_beside_the_class_folders_are_refused(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/a/1.jpg"), photo("set/loose.jpg")
    with pytest.raises(DataError, match=r"1 of 2 images lie in no class folder .* 'loose\.jpg'"):
        training(tmp_path / "set")


def test_a_class_written_in_two_unicode_forms_is_one_class(tmp_path: Path, photo: MakePhoto) -> None:
    for name in (f"{NFC}/1.jpg", f"{NFD}/2.jpg", f"{NFC}/둘.jpg", f"{NFD}/1.jpg"):
        photo(f"set/{name}")
    manifest = training(tmp_path / "set")
    assert manifest.labels == [NFC] * 4
    assert f"{NFC}/2.jpg" in manifest.ids
    # Two files under what would be one id: each keeps the spelling on disk.
    assert {f"{NFC}/1.jpg", f"{NFD}/1.jpg"} < set(manifest.ids)
    assert all(Path(path).is_file() for path in manifest.paths)


def test_hidden_files_and_leftovers_of_macos_are_passed_over(tmp_path: Path, photo: MakePhoto) -> None:
    for name in ("a/1.jpg", "a/._1.jpg", ".trash/1.jpg", "__MACOSX/a/1.jpg", ".hidden.jpg"):
        photo(f"set/{name}")
    (tmp_path / "set" / "a" / "notes.txt").write_text("not an image")
    assert training(tmp_path / "set").ids == ["a/1.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/a/1.jpg"), photo("elsewhere/2.jpg"), photo("elsewhere/sub/3.jpg")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "elsewhere" / "itself").symlink_to(tmp_path / "elsewhere" / "itself")
    assert training(tmp_path / "set").ids == ["a/1.jpg", "b/2.jpg", "b/sub/3.jpg"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images here or in any sub-folder"):
        predicting(tmp_path)


def test_a_file_name_that_is_not_utf8_is_named_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + "차.jpg".encode("cp949"))).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    with pytest.raises(DataError, match=r"not UTF-8.*convmv"):
        predicting(folder)


@pytest.mark.parametrize(("source", "says"), [("", "no data"), ("nowhere", "no such folder"), ("x.txt", "expected a")])
def test_a_source_that_cannot_be_is_refused(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match=says):
        ingest(source, DataSection(train=source))


# Files


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_header_is_read_as_pil_reads_it(photo: MakePhoto, suffix: str, orientation: int | None) -> None:
    path = photo(f"a.{suffix}", 37, 51, orientation)
    with Image.open(path) as image:
        assert read_header(str(path))[1:] == (image.height, image.width, image.getexif().get(0x0112, 1), "ok", "")


def test_unusual_jpegs_are_read_too(tmp_path: Path) -> None:
    image = Image.new("CMYK", (33, 21))
    image.save(tmp_path / "cmyk.jpg", progressive=True, comment=b"x" * 300)
    assert read_header(str(tmp_path / "cmyk.jpg"))[1:] == (21, 33, 1, "ok", "")
    Image.new("L", (5, 9)).save(tmp_path / "gray.png", format="JPEG")  # what counts is the content
    assert read_header(str(tmp_path / "gray.png"))[1:] == (9, 5, 1, "ok", "")


def test_a_damaged_exif_block_costs_only_the_orientation(photo: MakePhoto) -> None:
    path = photo("a.jpg", 10, 14, orientation=6)
    data = path.read_bytes()
    at = data.index(b"Exif\0\0") + 6
    path.write_bytes(data[: at + 4] + b"\xff\xff\xff\x00" + data[at + 8 :])
    assert read_header(str(path))[1:] == (10, 14, 1, "ok", "")


def test_a_jpeg_cut_anywhere_in_its_header_is_reported_and_never_raises(photo: MakePhoto) -> None:
    path = photo("a.jpg", orientation=6)
    data = path.read_bytes()
    header = data.index(b"\xff\xc0")
    for length in range(2, header + 8):
        path.write_bytes(data[:length])
        facts = read_header(str(path))
        assert facts.status == "not an image"
        assert facts.fault == "is a damaged or cut off JPEG file"


def test_what_cannot_be_used_is_kept_with_the_reason(tmp_path: Path, photo: MakePhoto) -> None:
    folder = photo("set/a/good.jpg").parent
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    (folder / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    photo("set/a/moving.gif")
    manifest = training(tmp_path / "set")
    heic = "is a HEIC photo, which cannot be read here: convert it to JPEG or PNG"
    page = "is a web page, perhaps of a download that failed: fetch the picture again"
    assert dict(zip(manifest.ids, manifest.faults, strict=True)) == {
        "a/empty.jpg": Fault(FaultKind.EMPTY, "is empty (0 bytes)"),
        "a/good.jpg": None,
        "a/link.jpg": Fault(FaultKind.UNREADABLE, "cannot be read: No such file or directory"),
        "a/moving.gif": None,
        "a/phone.jpg": Fault(FaultKind.NOT_AN_IMAGE, heic),
        "a/text.jpg": Fault(FaultKind.NOT_AN_IMAGE, page),
    }
    assert manifest.usable().ids == ["a/good.jpg", "a/moving.gif"]
    assert list(manifest.quarantine) == ["a/empty.jpg", "a/link.jpg", "a/phone.jpg", "a/text.jpg"]
    assert str(manifest.quarantine["a/empty.jpg"]) == f"{folder / 'empty.jpg'}: is empty (0 bytes)"


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"none of its 1 images is usable; the first, .*1\.jpg: is not an image"):
        training(tmp_path)


# Doing it again


def test_the_second_time_only_what_changed_is_opened(tmp_path: Path, photo: MakePhoto, opened: list[str]) -> None:
    for n in range(6):
        photo(f"set/{'ab'[n % 2]}/{n}.jpg")
    steps: list[tuple[int, int]] = []
    source = str(tmp_path / "set")
    section = DataSection(train=source)
    first = ingest(source, section, lambda done, total: steps.append((done, total)))
    assert (steps[0], steps[-1], len(opened)) == ((0, 6), (6, 6), 6)
    cached = tmp_path / "set" / ".engine" / "manifest.parquet"
    assert pq.read_table(cached).equals(first.table)
    written = cached.stat().st_mtime_ns

    opened.clear(), steps.clear()
    assert ingest(source, section, lambda done, total: steps.append((done, total))).table.equals(first.table)
    assert (opened, steps) == ([], [(6, 6)])
    assert cached.stat().st_mtime_ns == written

    photo("set/a/new.jpg")
    photo("set/b/1.jpg", 40, 50)
    os.utime(tmp_path / "set" / "a" / "0.jpg", ns=(1, 1))
    (tmp_path / "set" / "a" / "2.jpg").unlink()
    (tmp_path / "set" / "b").rename(tmp_path / "set" / "c")  # a new class: its paths are new
    second = ingest(source, section)
    assert sorted(opened) == ["0.jpg", "1.jpg", "3.jpg", "5.jpg", "new.jpg"]
    assert second.ids == ["a/0.jpg", "a/4.jpg", "a/new.jpg", "c/1.jpg", "c/3.jpg", "c/5.jpg"]
    assert second.sizes_N2[3].tolist() == [40, 50]
    shutil.rmtree(cached.parent)
    assert ingest(source, section).table.equals(second.table)  # what was carried over is what is there


def test_a_moved_folder_is_not_indexed_again(tmp_path: Path, photo: MakePhoto, opened: list[str]) -> None:
    photo("set/a/1.jpg"), photo("set/b/2.jpg")
    before = training(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "moved")
    opened.clear()
    after = training(tmp_path / "moved")
    assert opened == []
    assert after.paths == [str(tmp_path / "moved" / id_) for id_ in before.ids]
    assert after.fingerprint == before.fingerprint


def test_an_edited_table_counts_at_once_without_opening_a_file(
    tmp_path: Path, photo: MakePhoto, opened: list[str]
) -> None:
    photo("1.jpg"), photo("2.jpg")
    assert training(table(tmp_path, "path,label\n1.jpg,a\n2.jpg,b\n")).labels == ["a", "b"]
    opened.clear()
    assert training(table(tmp_path, "path,label\n2.jpg,a\n1.jpg,a\n")).labels == ["a", "a"]
    assert opened == []
    assert (tmp_path / ".engine" / "train.csv.manifest.parquet").is_file()


def test_what_was_indexed_before_an_interruption_is_kept(
    tmp_path: Path, photo: MakePhoto, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_CHUNK", 2)
    for n in range(8):
        photo(f"set/a/{n}.jpg")
    source = str(tmp_path / "set")

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, DataSection(train=source), stop)
    opened.clear()
    assert len(training(tmp_path / "set")) == 8
    assert sorted(opened) == ["4.jpg", "5.jpg", "6.jpg", "7.jpg"]


@pytest.mark.parametrize("why", ["marked read-only", "fails"])
def test_data_that_cannot_be_written_beside_is_cached_in_the_users_folder(
    why: str, tmp_path: Path, photo: MakePhoto, opened: list[str], user_cache: Path
) -> None:
    photo("set/a/1.jpg")
    if why == "marked read-only":
        (tmp_path / "set").chmod(0o555)  # which does not stop root
    else:
        (tmp_path / "set" / ".engine").write_text("a file where the folder would be")
    training(tmp_path / "set")
    assert not (tmp_path / "set" / ".engine").is_dir()
    assert len(list((user_cache / "engine").glob("set-*.parquet"))) == 1
    opened.clear()
    training(tmp_path / "set")
    assert opened == []


def test_the_cache_folder_of_the_recipe_is_used_instead(tmp_path: Path, photo: MakePhoto, user_cache: Path) -> None:
    photo("set/a/1.jpg"), photo("other/set/a/1.jpg")
    for folder in ("set", "other/set"):
        training(tmp_path / folder, cache=str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("set-*.parquet"))) == 2
    assert not (tmp_path / "set" / ".engine").exists()
    assert not user_cache.exists()


def test_a_broken_cache_is_made_again(tmp_path: Path, photo: MakePhoto, opened: list[str]) -> None:
    photo("set/a/1.jpg")
    first = training(tmp_path / "set")
    cached = tmp_path / "set" / ".engine" / "manifest.parquet"
    cached.write_bytes(cached.read_bytes()[:100])
    assert training(tmp_path / "set").table.equals(first.table)
    assert opened == ["1.jpg", "1.jpg"]
    assert pq.read_table(cached).equals(first.table)


def test_facts_of_another_engine_are_not_trusted(
    tmp_path: Path, photo: MakePhoto, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo("set/a/1.jpg")
    training(tmp_path / "set")
    monkeypatch.setattr(ingest_module, "_FORMAT", "another")
    training(tmp_path / "set")
    assert opened == ["1.jpg", "1.jpg"]


def test_a_file_that_was_bad_is_looked_at_again(tmp_path: Path, photo: MakePhoto, opened: list[str]) -> None:
    photo("set/a/1.jpg")
    (tmp_path / "set" / "a" / "bad.jpg").write_bytes(b"")
    training(tmp_path / "set")
    opened.clear()
    training(tmp_path / "set")
    assert opened == ["bad.jpg"]


# Tables


def test_columns_are_found_by_their_usual_names(tmp_path: Path, photo: MakePhoto) -> None:
    photo("img/둘 2.jpg"), photo("img/1.jpg")
    source = table(tmp_path, ",ID,img_path,class\n0,007,./img/둘 2.jpg,NA\n1,008,img/1.jpg, 08 \n")
    manifest = training(source)
    assert manifest.ids == ["007", "008"]  # text stays text
    assert manifest.labels == ["NA", "08"]
    assert manifest.paths == [str(tmp_path / "img/둘 2.jpg"), str(tmp_path / "img/1.jpg")]  # the table's order


def test_columns_and_folders_can_be_named(tmp_path: Path, photo: MakePhoto) -> None:
    photo("photos/1.jpg"), photo("photos/2.jpg")
    (tmp_path / "tables").mkdir()
    source = table(tmp_path, "where,what,car,part,n\n1.jpg,a,x,0,i1\n2.jpg,b,y,1,i2\n", "tables/t.csv")
    manifest = training(
        source,
        images=str(tmp_path / "photos"),
        path_column="where",
        label_column="what",
        group_column="car",
        fold_column="part",
        id_column="n",
    )
    assert (manifest.ids, manifest.labels, manifest.groups) == (["i1", "i2"], ["a", "b"], ["x", "y"])
    assert manifest.folds_N.tolist() == [0, 1]


def test_parquet_with_numbers_and_categories(tmp_path: Path, photo: MakePhoto) -> None:
    photo("1.jpg"), photo("2.jpg")
    columns = {"id": [10, 11], "path": ["1.jpg", "2.jpg"], "label": pa.array(["b", "a"]).dictionary_encode()}
    pq.write_table(pa.table(columns | {"part": pa.array([1.0, None])}), tmp_path / "train.parquet")
    manifest = training(tmp_path / "train.parquet", fold_column="part")
    assert (manifest.ids, manifest.labels, manifest.folds_N.tolist()) == (["10", "11"], ["b", "a"], [1, -1])


def test_a_table_of_bare_ids_finds_its_images(tmp_path: Path, photo: MakePhoto) -> None:
    photo("test/TEST_0.jpg"), photo("test/TEST_1.PNG"), photo(f"test/{NFD}.jpeg")
    (tmp_path / "test" / "TEST_0").mkdir()  # a folder of that name is not the image
    source = table(tmp_path, f"id\nTEST_0\nTEST_1\n{NFC}\n", "test.csv")
    manifest = predicting(source, images="unused", test_images=str(tmp_path / "test"))
    assert manifest.ids == ["TEST_0", "TEST_1", NFC]
    assert manifest.paths == [str(tmp_path / "test" / name) for name in ("TEST_0.jpg", "TEST_1.PNG", f"{NFD}.jpeg")]
    assert manifest.labels == ["", "", ""]


def test_paths_from_windows_and_excel_are_understood(tmp_path: Path, photo: MakePhoto) -> None:
    photo("img/1.jpg")
    source = table(tmp_path, "\ufeffpath,label\r\nimg\\1.jpg,a\r\n")
    assert training(source).paths == [str(tmp_path / "img" / "1.jpg")]


def test_the_label_column_of_the_recipe_may_be_missing_in_a_table_to_predict(tmp_path: Path, photo: MakePhoto) -> None:
    photo("1.jpg")
    source = table(tmp_path, "path\n1.jpg\n", "test.csv")
    assert predicting(source, label_column="what", group_column="car", fold_column="part").labels == [""]
    with pytest.raises(DataError, match=r"no column what; its columns are 'path'\. Set data\.label_column"):
        training(source, label_column="what")


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        ("path,label\n1.jpg,a\n1.jpg,b\n", {}, r"1 ids in column 'path' .* more than once: '1\.jpg' in lines 2, 3"),
        ("id,path,label\n5,1.jpg,a\n5,2.jpg,b\n", {}, r"ids in column 'id' .*: '5' in lines 2, 3"),
        ("path,label\n1.jpg,a\n2.jpg, \n", {}, r"column 'label' is empty in 1 of 2 rows: line 3"),
        (
            "path,label\n1.jpg,a\n3.jpg,b\n",
            {},
            r"1 of 2 files in column 'path' do not exist: line 3: '3\.jpg'\. ",
        ),
        (
            "path,label\n1.jpg,a\n",
            {"path_column": "pfad"},
            r"no column pfad; its columns are 'path', 'label'\. Set",
        ),
        (
            "where,label\n1.jpg,a\n",
            {},
            r"no column path or .*; its columns are 'where', 'label'\. Set data\.path_",
        ),
        ("path,what\n1.jpg,a\n", {}, r"no column label or .*; its columns are 'path', 'what'\. Set data\.label_column"),
        ("path,label,path\n1.jpg,a,b\n", {}, "2 columns are called 'path'"),
        ("path,label\n", {}, "no rows below the header"),
        ("", {}, "there is nothing in this table"),
        ("path,label\n1.jpg,a,b\n", {}, "not a CSV table"),
        ("path,label,f\n1.jpg,a,0\n2.jpg,b,x\n", {"fold_column": "f"}, r"fold numbers from 0.* not 'x' in line 3"),
        ("path,label,f\n1.jpg,a,-1\n2.jpg,b,\n", {"fold_column": "f"}, "puts no sample into any fold"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, photo: MakePhoto, text: str, keys: dict[str, str], says: str
) -> None:
    photo("1.jpg"), photo("2.jpg")
    source = table(tmp_path, text)
    with pytest.raises(DataError, match=says) as raised:
        training(source, **keys)
    assert str(source) in str(raised.value)


@pytest.mark.parametrize("text", ["경로,label\n1.jpg,a\n", "path,label\n1.jpg,차\n"])
def test_a_table_that_is_not_utf8_is_refused_with_the_remedy(tmp_path: Path, photo: MakePhoto, text: str) -> None:
    photo("1.jpg")
    source = tmp_path / "train.csv"
    source.write_bytes(text.encode("cp949"))
    with pytest.raises(DataError, match=r"(?s)not UTF-8 text.*iconv -f cp949"):
        training(source)


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a Parquet table"):
        training(table(tmp_path, "path,label\n", "train.parquet"))


# Describing


def test_describe_counts_what_is_there(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/b/1.jpg", 10, 30), photo("set/a/1.jpg", 10, 30, orientation=6), photo("set/b/2.jpg", 20, 40)
    shutil.copy(tmp_path / "set/b/1.jpg", tmp_path / "set/b/copy.jpg")
    bad = tmp_path / "set" / "a" / "bad.jpg"
    bad.write_bytes(b"")
    found = describe(training(tmp_path / "set"))
    assert json.loads(json.dumps(found)) == found
    assert (found["samples"], found["usable"], found["unlabelled"]) == (5, 4, 0)
    assert found["classes"] == {"a": 1, "b": 3}
    assert found["height"] == {"min": 10, "5%": 10, "median": 20, "95%": 30, "max": 30}
    assert (found["width"]["min"], found["width"]["max"]) == (10, 40)  # upright
    assert found["orientation"] == {"1": 3, "6": 1}
    assert found["exact_duplicates"] == 1
    assert found["status"] == {"empty": 1, "ok": 4}
    assert found["unusable"] == [[str(bad), "is empty (0 bytes)"]]
    assert found["total_bytes"] == sum(path.stat().st_size for path in (tmp_path / "set").rglob("*.jpg"))


def test_a_column_of_words_says_who_is_validated(tmp_path: Path, photo: MakePhoto) -> None:
    lines = ["path,label,split"]
    for n, word in enumerate(["train", "Valid", "validation", "training", ""]):
        photo(f"{n}.jpg")
        lines.append(f"{n}.jpg,a,{word}")
    manifest = training(table(tmp_path, "\n".join(lines)), fold_column="split")
    assert manifest.folds_N.tolist() == [-1, 0, 0, -1, -1]


def test_the_columns_of_augmented_copies_are_found_together(tmp_path: Path, photo: MakePhoto) -> None:
    photo("1.jpg"), photo("2.jpg")
    copies = training(table(tmp_path, "path,label,made_from,mixed_with\n1.jpg,a,,\n2.jpg,a,1.jpg,\n"))
    assert copies.copies_N.tolist() == [False, True]
    alone = training(table(tmp_path, "path,label,made_from\n1.jpg,a,web\n2.jpg,a,camera\n"))  # somebody else's column
    assert not alone.copies_N.any()
