"""Folders of splits are splits and no classes, and a class called train stays one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.data.clean import clean
from engine.data.folds import divide
from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.data.sources.splits import split_named
from engine.errors import DataError
from engine.recipe.sections import DataSection, FoldsSection

MakePhoto = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Train", "TRAIN", "training", "train_set", "train2017", "seg_train")),
        *((name, "val") for name in ("val", "Valid", "validation", "Validation", "dev", "val_images", "val2017")),
        *((name, "test") for name in ("test", "Testing", "TEST", "test-set")),
        *((name, None) for name in ("trainer", "trains", "a", "value", "contest", "train station", "2017", "")),
    ],
)
def test_a_split_is_known_by_its_name(name: str, split: str | None) -> None:
    assert split_named(name) == split


def set_of(photo: MakePhoto, *names: str) -> None:
    for name in names:
        photo(f"set/{name}")


def training(tmp_path: Path, **keys: object) -> Manifest:
    source = str(tmp_path / "set")
    return ingest(source, DataSection(train=source, **keys))  # type: ignore[arg-type]


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Training", "Validation"), ("TRAIN", "valid")])
def test_what_lies_in_val_is_held_out(tmp_path: Path, photo: MakePhoto, train: str, val: str) -> None:
    set_of(photo, f"{train}/a/1.jpg", f"{train}/b/2.jpg", f"{train}/b/deep/3.jpg", f"{val}/a/4.jpg", f"{val}/b/5.jpg")
    manifest = training(tmp_path)
    assert dict(zip(manifest.ids, zip(manifest.labels, manifest.folds_N.tolist(), strict=True), strict=True)) == {
        f"{train}/a/1.jpg": ("a", -1),
        f"{train}/b/2.jpg": ("b", -1),
        f"{train}/b/deep/3.jpg": ("b", -1),
        f"{val}/a/4.jpg": ("a", 0),
        f"{val}/b/5.jpg": ("b", 0),
    }
    assert f"{val} (2 images) is held out as fold 0" in manifest.notices[0]
    divided = divide(manifest, DataSection(), 0)  # five folds, of which nobody has said anything
    assert divided.run == (0,) and (divided.fold_N == manifest.folds_N).all()


def test_test_images_are_never_trained_on(tmp_path: Path, photo: MakePhoto) -> None:
    set_of(photo, "train/a/1.jpg", "train/b/2.jpg", "Test/a/3.jpg", "Test/b/4.jpg")
    manifest = training(tmp_path)
    assert manifest.ids == ["train/a/1.jpg", "train/b/2.jpg"] and manifest.labels == ["a", "b"]
    assert set(manifest.folds_N.tolist()) == {-1}  # folds are drawn
    assert "Test (2 images) is never trained on" in manifest.notices[0]
    set_of(photo, "val/a/5.jpg", "other/1.jpg")
    assert sorted(training(tmp_path).ids) == ["train/a/1.jpg", "train/b/2.jpg", "val/a/5.jpg"]


def test_unlabelled_test_images_beside_train_are_no_class(tmp_path: Path, photo: MakePhoto) -> None:
    set_of(photo, "train/a/1.jpg", "train/b/2.jpg", "test/3.jpg", "test/4.jpg")
    assert training(tmp_path).labels == ["a", "b"]


def test_all_splits_are_predicted(tmp_path: Path, photo: MakePhoto) -> None:
    set_of(photo, "train/a/1.jpg", "val/a/2.jpg", "test/b/3.jpg")
    manifest = ingest(str(tmp_path / "set"), DataSection(test=str(tmp_path / "set")))
    assert manifest.labels == ["b", "a", "a"] and set(manifest.folds_N.tolist()) == {-1}


def test_with_one_fold_all_is_trained_on_and_said(tmp_path: Path, photo: MakePhoto) -> None:
    set_of(photo, "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg")
    manifest = training(tmp_path, folds=FoldsSection(count=1))
    assert "val (2 images) is trained on, too: data.folds.count is 1" in manifest.notices[0]
    assert set(divide(manifest, DataSection(folds=FoldsSection(count=1)), 0).fold_N.tolist()) == {-1}


def test_a_class_may_be_called_like_a_split(tmp_path: Path, photo: MakePhoto) -> None:
    set_of(photo, "train/1.jpg", "bus/2.jpg", "car/3.jpg", "test/4.jpg", "train/red/5.jpg", "test/blue/6.jpg")
    manifest = training(tmp_path)
    assert set(manifest.labels) == {"train", "bus", "car", "test"} and manifest.notices == ()


@pytest.mark.parametrize("names", [("train/1.jpg", "val/2.jpg"), ("test/a/1.jpg", "val/a/2.jpg")])
def test_folders_that_can_only_be_splits_and_are_none_are_refused(
    tmp_path: Path, photo: MakePhoto, names: tuple[str, ...]
) -> None:
    set_of(photo, *names)
    with pytest.raises(DataError, match="called like the parts of a split data set and no classes"):
        training(tmp_path)
    assert len(ingest(str(tmp_path / "set"), DataSection())) == 2  # to look at, it is as good as any


@pytest.mark.parametrize("around", ["archive", "archive/archive", "a b/dataset"])
def test_folders_around_the_classes_are_passed(tmp_path: Path, photo: MakePhoto, around: str) -> None:
    set_of(photo, f"{around}/a/1.jpg", f"{around}/b/2.jpg")
    manifest = training(tmp_path)
    assert manifest.labels == ["a", "b"] and manifest.ids == [f"{around}/a/1.jpg", f"{around}/b/2.jpg"]
    assert f"all images are in {around}/, so the folders in it are the classes" in manifest.notices[0]


def test_splits_in_a_folder_around_them(tmp_path: Path, photo: MakePhoto) -> None:
    set_of(photo, "archive/train/a/1.jpg", "archive/train/b/2.jpg", "archive/val/a/3.jpg")
    manifest = training(tmp_path)
    assert manifest.labels == ["a", "b", "a"] and manifest.folds_N.tolist() == [-1, -1, 0]


def test_a_column_of_words_leaves_test_images_out(tmp_path: Path, photo: MakePhoto) -> None:
    lines = ["path,label,split"]
    for n, word in enumerate(["Train", "valid", "TEST", "nan", "test"]):
        photo(f"{n}.jpg")
        lines.append(f"{n}.jpg,{'ab'[n % 2]},{word}")
    source = tmp_path / "train.csv"
    source.write_text("\n".join(lines))
    section = DataSection(train=str(source), fold_column="split")
    manifest = ingest(str(source), section)
    assert manifest.ids == ["0.jpg", "1.jpg", "3.jpg"] and manifest.folds_N.tolist() == [-1, 0, -1]
    assert "2 test images left out, by data.fold_column" in clean(manifest, section).notices[0]
