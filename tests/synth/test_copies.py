"""Augmented copies: reproducible, of the right shape and class, listed with what they were made of."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.clean import clean
from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection
from engine.synth.copies import CopySpec, originals, write_copies
from engine.synth.kinds import KINDS


def picture(number: int, height: int = 48, width: int = 64) -> Image.Image:
    coarse = np.random.default_rng(number).integers(30, 226, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three photos, one of them upright."""
    for n in range(6):
        path = tmp_path / "set" / ("가방", "모자")[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(n, *((64, 48) if n == 2 else (48, 64))).save(path, quality=95)
    return tmp_path / "set"


def manifest_of(source: Path, **keys: str) -> Manifest:
    return ingest(str(source), DataSection(train=str(source), **keys))


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_every_kind_changes_the_picture_in_its_own_way(folder: Path, tmp_path: Path) -> None:
    made = write_copies(manifest_of(folder), DataSection(), tmp_path / "out", CopySpec(tuple(KINDS)))
    assert len(KINDS) >= 17 and made.copies == 6 * len(KINDS) and made.originals == 6 and not made.left_out
    of_one = {row["kind"]: row for row in rows(made.table) if row["made_from"] == "가방/0.jpg"}
    original = pixels(folder / "가방" / "0.jpg")
    seen = {}
    for kind, row in of_one.items():
        copy = pixels(made.table.parent / row["path"])
        assert copy.shape in (original.shape, (64, 48, 3))  # as it was, or turned by a quarter
        if copy.shape == original.shape:
            assert np.abs(copy - original).mean() > 0.7, kind
            seen[kind] = copy
    for a in seen:
        for b in seen:
            assert a == b or np.abs(seen[a] - seen[b]).mean() > 0.3, (a, b)
    assert np.abs(seen["flip"] - original[:, ::-1]).mean() < 4
    assert np.abs(seen["invert"] - (255 - original)).mean() < 4
    assert np.ptp(seen["gray"], axis=2).mean() < 4 < np.ptp(original, axis=2).mean()
    assert (seen["shadow"] <= original + 12).all()


def test_labels_and_sources_are_carried_along(folder: Path, tmp_path: Path) -> None:
    made = write_copies(
        manifest_of(folder), DataSection(), tmp_path / "out", CopySpec(("tilt+noise", "mixup"), copies=2)
    )
    listed = rows(made.table)
    label_of = {row["id"]: row["label"] for row in listed}
    copies = [row for row in listed if row["made_from"]]
    assert len(listed) == 6 + 24 and len(copies) == 24
    for row in copies:
        assert row["label"] == label_of[row["made_from"]]
        assert (row["kind"] == "mixup") == bool(row["mixed_with"])
        if row["mixed_with"]:
            assert row["mixed_with"] != row["made_from"] and label_of[row["mixed_with"]] == row["label"]
    again = clean(
        ingest(str(made.table), DataSection(train=str(made.table))), DataSection(train=str(made.table))
    )  # the table trains
    assert len(again.manifest) == 30 and int(again.manifest.copies_N.sum()) == 24 and not again.left_out


def test_a_copy_depends_on_the_seed_its_number_and_its_source_alone(folder: Path, tmp_path: Path) -> None:
    def bytes_of(name: str, manifest: Manifest, spec: CopySpec) -> dict[str, bytes]:
        out = tmp_path / name
        write_copies(manifest, DataSection(), out, spec)
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.jpg"))}

    whole = manifest_of(folder)
    first = bytes_of("first", whole, CopySpec(("turn", "noise"), copies=2))
    assert len(first) == 24 and len(set(first.values())) == 24
    assert bytes_of("again", whole, CopySpec(("turn", "noise"), copies=2)) == first
    fewer = bytes_of("fewer", whole.take([4, 1]), CopySpec(("noise",), copies=1))
    assert fewer.items() <= first.items() and len(fewer) == 2
    other = bytes_of("other", whole, CopySpec(("turn", "noise"), copies=2, seed=1))
    assert other.keys() == first.keys() and not set(other.values()) & set(first.values())


def test_what_was_made_is_not_made_again(folder: Path, tmp_path: Path) -> None:
    out, manifest, spec = tmp_path / "out", manifest_of(folder), CopySpec(("flip", "jpeg"))
    made = write_copies(manifest, DataSection(), out, spec)
    files = sorted(out.rglob("*.jpg"))
    before = {path: path.stat().st_mtime_ns for path in files[1:]}
    table = made.table.read_text("utf-8")
    files[0].unlink(), made.table.unlink()
    done: list[tuple[int, int]] = []
    write_copies(manifest, DataSection(), out, spec, lambda at, total: done.append((at, total)))
    assert files[0].is_file() and made.table.read_text("utf-8") == table
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == before
    assert done == [(12, 12)]


def test_copies_are_called_after_the_whole_id(tmp_path: Path) -> None:
    names = ("P1.left.jpg", "P1.right.jpg", "1.2.826.0.1.jpg", "1.2.826.0.2.JPG")
    for n, name in enumerate(names):
        picture(n).save(tmp_path / name, "JPEG")
    table = tmp_path / "t.csv"
    table.write_text(
        "id,path,label\n" + "".join(f"{name[:-4]},{name},{n % 2}\n" for n, name in enumerate(names)), "utf-8"
    )
    section = DataSection(train=str(table))
    write_copies(ingest(section.train, section), section, tmp_path / "out", CopySpec(("flip",), longest=16))
    made = sorted(path.name for path in (tmp_path / "out").rglob("*.jpg"))
    assert made == sorted(f"{name[:-4]}__flip_1.jpg" for name in names)


def test_copies_are_no_longer_than_wished_and_never_enlarged(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_copies(manifest_of(folder), DataSection(), out, CopySpec(("quarter_turn", "blur"), copies=3, longest=32))
    assert {Image.open(path).size for path in out.rglob("*.jpg")} == {(32, 24), (24, 32)}
    write_copies(manifest_of(folder), DataSection(), tmp_path / "large", CopySpec(("blur",), longest=512))
    assert {Image.open(path).size for path in (tmp_path / "large").rglob("*.jpg")} == {(64, 48), (48, 64)}


def test_a_turned_copy_is_not_squeezed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_copies(manifest_of(folder), DataSection(), out, CopySpec(("quarter_turn",), copies=4))
    original = pixels(folder / "가방" / "0.jpg")
    for path in out.rglob("0__*.jpg"):
        assert (
            min(
                np.abs(pixels(path) - turned).mean()
                for turn in (1, 2, 3)
                if (turned := np.rot90(original, turn)).shape == pixels(path).shape
            )
            < 4
        )


def test_groups_and_folds_of_the_user_are_inherited(tmp_path: Path) -> None:
    for n in range(4):
        picture(n).save(tmp_path / f"{n}.jpg")
    lines = "".join(f"{n},{n}.jpg,{'ab'[n % 2]},car {n // 2},{n // 2}\n" for n in range(4))
    (tmp_path / "train.csv").write_text(f"ID,img_path,target,car,part\n{lines}", encoding="utf-8")
    section = DataSection(
        train=str(tmp_path / "train.csv"), id_column="ID", label_column="target", group_column="car", fold_column="part"
    )
    made = write_copies(ingest(section.train, section), section, tmp_path / "out", CopySpec(("gamma",)))
    listed = rows(made.table)
    assert list(listed[0]) == ["ID", "path", "target", "car", "part", "made_from", "mixed_with", "kind"]
    assert [(row["car"], row["part"]) for row in listed[4:]] == [(f"car {n // 2}", str(n // 2)) for n in range(4)]
    follow = section.model_copy(update={"train": str(made.table)})
    assert len(ingest(follow.train, follow)) == 8


def test_a_photo_that_does_not_decode_is_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder)
    bad = folder / "가방" / "0.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    made = write_copies(manifest, DataSection(), tmp_path / "out", CopySpec(("flip", "cutmix")))
    assert list(made.left_out) == ["가방/0.jpg"] and made.left_out["가방/0.jpg"].where == str(bad)
    copies = [row for row in rows(made.table) if row["made_from"]]
    assert "가방/0.jpg" not in {row["made_from"] for row in copies} | {row["mixed_with"] for row in copies}


def test_the_only_photo_of_a_class_is_mixed_with_nothing(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder).take([0, 1, 3])
    made = write_copies(manifest, DataSection(), tmp_path / "out", CopySpec(("mixup", "flip")))
    kinds = [row["kind"] for row in rows(made.table) if row["made_from"] == manifest.ids[2]]
    assert manifest.labels.count(manifest.labels[2]) == 1 and kinds == ["flip"]


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not empty"):
        write_copies(manifest_of(folder), DataSection(), tmp_path / "mine", CopySpec(("flip",)))
    write_copies(manifest_of(folder), DataSection(), tmp_path / "out", CopySpec(("flip",)))
    with pytest.raises(RecipeError, match="a set of copies that differs in seed: 0 -> 2"):
        write_copies(manifest_of(folder), DataSection(), tmp_path / "out", CopySpec(("flip",), seed=2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kinds": ("blurr",)}, "there is no kind 'blurr'; the kinds are flip"),
        ({"kinds": ("flip+sparkle",)}, "no kind 'sparkle'"),
        ({"kinds": ()}, "at least one kind"),
        ({"kinds": ("flip", "flip")}, "each once"),
        ({"kinds": ("flip",), "copies": 0}, "at least one copy"),
    ],
)
def test_impossible_copies_are_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CopySpec(**spec)  # type: ignore[arg-type]


def test_copies_are_made_of_what_training_keeps_with_labels_as_found(folder: Path) -> None:
    section = DataSection(train=str(folder), exclude=("2.jpg",), aliases=(("모자", "가방"),))
    sources, notices = originals(ingest(str(folder), section), section)
    assert sources.ids == ["가방/0.jpg", "가방/4.jpg", "모자/1.jpg", "모자/3.jpg", "모자/5.jpg"]
    assert set(sources.labels) == {"가방", "모자"}
    assert notices[0] == "1 image left out by data.exclude"
