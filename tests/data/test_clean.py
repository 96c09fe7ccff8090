"""Cleaning does what the recipe says, tells of it, and keeps copies with their originals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.data.clean import Cleaned, clean
from engine.data.folds import divide, held_out, trained_on
from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.quarantine import FaultKind
from engine.recipe.sections import DataSection, DecodeSection, FoldsSection

MakeScene = Callable[..., Image.Image]


@pytest.fixture
def folder(tmp_path: Path, scene: MakeScene) -> Path:
    """Two classes of six different photos."""
    for n in range(12):
        path = tmp_path / "set" / "ab"[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(n).save(path, quality=90)
    return tmp_path / "set"


def cleaned(source: Path, **keys: object) -> Cleaned:
    section = DataSection(train=str(source), **keys)  # type: ignore[arg-type]
    return clean(ingest(section.train, section), section)


def test_files_of_too_many_pixels_are_left_out_and_named_whatever_was_allowed_before(folder: Path) -> None:
    section = DataSection(train=str(folder))
    Image.open(folder / "a" / "0.jpg").resize((200, 150)).save(folder / "a" / "large.png")
    for megapixels, large in ((0.04, []), (0.02, ["a/large.png"]), (0.04, [])):
        manifest = ingest(section.train, section)
        result = clean(manifest, section, decode=DecodeSection(max_megapixels=megapixels))
        assert list(result.left_out) == large
        assert len(result.manifest) == 13 - len(large)
        for entry in result.left_out.values():
            assert entry.fault.kind is FaultKind.TOO_LARGE and "decode.max_megapixels" in str(entry)


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_clean_data_stays_as_it_is(folder: Path) -> None:
    section = DataSection(train=str(folder))
    manifest = ingest(section.train, section)
    result = clean(manifest, section)
    assert result.manifest.table.equals(manifest.table)
    assert result.notices == () and not result.left_out


def test_named_images_are_left_out_and_strange_names_are_told(folder: Path, tmp_path: Path) -> None:
    noise = written(tmp_path / "noise.txt", "# interiors\n\nb/3.jpg\n5.jpg\n")
    result = cleaned(folder, exclude=("0.jpg", "gone.jpg"), exclude_file=noise)
    assert set(range(12)) - {int(Path(id_).stem) for id_ in result.manifest.ids} == {0, 3, 5}
    text = "\n".join(result.notices)
    assert "1 image left out by data.exclude\n" in text and "2 images left out by data.exclude_file" in text
    assert "1 of 2 names are no image's: gone.jpg" in text


def test_labels_are_corrected_from_a_table(folder: Path, tmp_path: Path) -> None:
    relabel = written(tmp_path / "relabel.csv", "file,label\n0.jpg,b\n2.jpg,a\nb/1.jpg,c\n")
    result = cleaned(folder, relabel=relabel)
    label_of = dict(zip(result.manifest.ids, result.manifest.labels, strict=True))
    assert (label_of["a/0.jpg"], label_of["a/2.jpg"], label_of["b/1.jpg"]) == ("b", "a", "c")
    assert f"2 labels changed by {relabel}" in result.notices
    assert any("makes new classes: c" in notice for notice in result.notices)


def test_two_labels_for_one_image_are_refused_however_it_is_called(folder: Path, tmp_path: Path) -> None:
    relabel = written(tmp_path / "relabel.csv", "file,label\n0.jpg,b\n./a/0.jpg,a\n")
    with pytest.raises(DataError, match=r"two labels for the image 'a/0.jpg': '0.jpg' \(b\) and './a/0.jpg' \(a\)"):
        cleaned(folder, relabel=relabel)
    assert cleaned(folder, relabel=written(tmp_path / "twice.csv", "file,label\n0.jpg,b\n0.jpg,b\n")).manifest


def test_equal_files_of_one_class_are_one_and_of_two_classes_none(folder: Path) -> None:
    shutil.copy(folder / "a" / "0.jpg", folder / "a" / "again.jpg")
    shutil.copy(folder / "a" / "2.jpg", folder / "b" / "wrong.jpg")
    result = cleaned(folder)
    assert set(result.manifest.ids) == {f"{'ab'[n % 2]}/{n}.jpg" for n in range(12)} - {"a/2.jpg"}
    assert "1 exact duplicate collapsed" in result.notices
    assert any("2 files with equal content and different labels left out" in notice for notice in result.notices)
    kept = cleaned(folder, duplicates="keep", conflicts="keep").manifest
    groups = dict(zip(kept.ids, kept.groups, strict=True))
    assert len(kept) == 14
    assert groups["a/0.jpg"] == groups["a/again.jpg"] != "" and groups["a/2.jpg"] == groups["b/wrong.jpg"] != ""
    assert groups["a/4.jpg"] == ""


def test_equal_files_of_classes_that_mean_the_same_are_duplicates(folder: Path) -> None:
    shutil.copy(folder / "a" / "2.jpg", folder / "b" / "same.jpg")
    (folder / "c").mkdir()
    shutil.move(folder / "b" / "1.jpg", folder / "c" / "1.jpg")
    result = cleaned(folder, aliases=(("ab", "a", "b"), ("x", "y")))
    assert set(result.manifest.labels) == {"ab", "c"} and len(result.manifest) == 12
    assert "1 exact duplicate collapsed" in result.notices
    assert any("names that no image has" in notice for notice in result.notices)


def test_near_duplicates_share_a_group_and_a_fold(folder: Path, scene: MakeScene) -> None:
    scene(0).resize((80, 60)).save(folder / "a" / "small.jpg")
    scene(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b" / "mirrored.jpg")
    result = cleaned(folder)
    groups = dict(zip(result.manifest.ids, result.manifest.groups, strict=True))
    near = {"a/0.jpg", "a/small.jpg", "b/mirrored.jpg"}
    assert len({groups[id_] for id_ in near}) == 1 and {id_ for id_, group in groups.items() if group} == near
    assert "3 near-duplicates in 1 group, kept together in every split" in result.notices
    for seed in range(3):
        fold_N = divide(result.manifest, DataSection(folds=FoldsSection(count=3)), seed).fold_N
        assert len({int(f) for f, id_ in zip(fold_N, result.manifest.ids, strict=True) if id_ in near}) == 1
    apart = cleaned(folder, folds=FoldsSection(near_duplicates="apart"))
    assert not any(apart.manifest.groups)


def test_near_duplicates_join_the_users_groups(tmp_path: Path, scene: MakeScene) -> None:
    lines = ["path,label,car"]
    for n, car in enumerate(["red", "red", "blue", "blue", "", "green"]):
        scene(n).save(tmp_path / f"{n}.jpg")
        lines.append(f"{n}.jpg,{'ab'[n % 2]},{car}")
    scene(1).resize((90, 70)).save(tmp_path / "near.jpg")
    table = Path(written(tmp_path / "train.csv", "\n".join([*lines, "near.jpg,b,blue"])))
    groups = cleaned(table, group_column="car").manifest.groups
    assert len({groups[n] for n in (0, 1, 2, 3, 6)}) == 1 and groups[4] == "" and groups[5] == "green"
    assert groups[0] not in ("", "green")


def test_near_duplicates_torn_by_the_users_own_folds_are_told(tmp_path: Path, scene: MakeScene) -> None:
    for n in range(4):
        scene(n).save(tmp_path / f"{n}.jpg")
    scene(0).resize((90, 70)).save(tmp_path / "near.jpg")
    rows = "0.jpg,a,0\n1.jpg,b,0\n2.jpg,a,1\n3.jpg,b,1\nnear.jpg,a,1\n"
    table = Path(written(tmp_path / "train.csv", f"path,label,fold\n{rows}"))
    result = cleaned(table, fold_column="fold")
    assert (
        "2 near-duplicates in 1 group, 1 of them split by data.fold_column, so scores will be too good"
        in result.notices
    )


def test_files_that_do_not_decode_are_left_out_and_named(folder: Path) -> None:
    cut = folder / "a" / "0.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    result = cleaned(folder)
    (entry,) = result.left_out.values()
    assert (entry.id, entry.where, entry.fault.kind) == ("a/0.jpg", str(cut), FaultKind.DAMAGED)
    assert "truncated" in entry.fault.detail
    assert "a/0.jpg" not in result.manifest.ids
    assert "a/0.jpg" in cleaned(folder, check="header").manifest.ids  # which looks at headers alone


def test_when_nothing_is_left_it_says_why(tmp_path: Path, scene: MakeScene) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        scene(1).save(tmp_path / "set" / name / "x.jpg")
    with pytest.raises(DataError, match="nothing is left to train on: 2 files with equal content and different labels"):
        cleaned(tmp_path / "set")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"exclude_file": "gone.txt"}, r"gone\.txt: cannot be read"),
        ({"relabel": "gone.csv"}, r"gone\.csv: cannot be read"),
        ({"copies": "only"}, "lists no augmented copies"),
    ],
)
def test_lists_that_are_not_there_are_refused(folder: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises((DataError, RecipeError), match=message):
        cleaned(folder, **keys)


# Augmented copies


@pytest.fixture
def copied(tmp_path: Path, scene: MakeScene) -> Path:
    """Six originals of two classes, a copy of each, and two copies mixed of two."""
    lines = ["id,path,label,made_from,mixed_with"]
    for n in range(6):
        scene(n).save(tmp_path / f"{n}.jpg")
        scene(n + 20).save(tmp_path / f"{n}c.jpg")
        lines += [f"{n},{n}.jpg,{'ab'[n % 2]},,", f"{n}c,{n}c.jpg,{'ab'[n % 2]},{n},"]
    for a, b in ((0, 2), (1, 3)):
        scene(a + 40).save(tmp_path / f"{a}m.jpg")
        lines.append(f"{a}m,{a}m.jpg,{'ab'[a % 2]},{a},{b}")
    return Path(written(tmp_path / "train.csv", "\n".join(lines) + "\n"))


def sides(manifest: Manifest, section: DataSection, count: int = 3) -> list[tuple[set[str], set[str]]]:
    """For each fold who is trained on and who is validated."""
    fold_N = divide(manifest, DataSection(folds=FoldsSection(count=count)), 0).fold_N
    return [
        (
            {manifest.ids[row] for row in trained_on(manifest, fold_N, fold, section)},
            {manifest.ids[row] for row in held_out(manifest, fold_N, fold)},
        )
        for fold in range(count)
    ]


def test_a_copy_is_never_trained_on_while_an_original_of_it_is_validated(copied: Path) -> None:
    manifest = cleaned(copied).manifest
    folds = sides(manifest, DataSection())
    assert set().union(*(held for _, held in folds)) == set("012345")  # originals alone are validated
    for trained, held in folds:
        assert trained & set("012345") == set("012345") - held
        assert {id_[0] for id_ in trained if id_.endswith("c")} == set("012345") - held
        mixed = {"0m": {"0", "2"}, "1m": {"1", "3"}}
        assert {id_ for id_ in trained if id_.endswith("m")} == {m for m, two in mixed.items() if not two & held}


def test_copies_may_stand_in_for_the_originals_or_be_left_out(copied: Path) -> None:
    only = sides(cleaned(copied, copies="only").manifest, DataSection(copies="only"))
    assert all(trained and not trained & set("012345") for trained, _ in only)
    assert set().union(*(held for _, held in only)) == set("012345")
    without = cleaned(copied, copies="without").manifest
    assert set(without.ids) == set("012345")
    plain = sides(without, DataSection())
    assert [held for _, held in plain] == [held for _, held in only]  # the same folds with and without copies


def test_copies_follow_their_originals_out_and_into_another_class(copied: Path, tmp_path: Path) -> None:
    relabel = written(tmp_path / "relabel.csv", "id,label\n3,a\n")
    result = cleaned(copied, exclude=("2",), relabel=relabel)
    label_of = dict(zip(result.manifest.ids, result.manifest.labels, strict=True))
    assert not {"2", "2c", "0m"} & label_of.keys()  # 0m is mixed with 2
    assert label_of["3c"] == "a"
    assert "1m" not in label_of  # of b and of what is now a
    text = "\n".join(result.notices)
    assert (
        "2 augmented copies left out with their originals" in text and "1 mixed copy of images that now differ" in text
    )


def test_copies_of_a_duplicate_belong_to_the_file_that_stands_for_it(copied: Path) -> None:
    shutil.copy(copied.parent / "0.jpg", copied.parent / "2.jpg")
    manifest = cleaned(copied).manifest
    assert "2" not in manifest.ids
    row = manifest.ids.index("2c")
    assert manifest.table["made_from"][row].as_py() == "0"
