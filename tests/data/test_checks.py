"""A check finds what was planted, and says nothing about sound data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.data.checks import Checked, check
from engine.data.ingest import ingest
from engine.recipe.sections import DataSection

MakeScene = Callable[..., Image.Image]


def checked(source: Path, test: Path | None = None, **keys: object) -> Checked:
    section = DataSection(train=str(source), **keys)  # type: ignore[arg-type]
    tested = None if test is None else (ingest(str(test), section), str(test))
    return check(ingest(str(source), section), str(source), section, tested)


def found(result: Checked) -> dict[str, list[list[str]]]:
    """By kind, the ids of every case; of cases without images their notes."""
    return {
        finding.kind: [[sample.id for sample in case.samples] or [case.note] for case in finding.cases]
        for finding in result.findings
    }


@pytest.fixture
def sound(tmp_path: Path, scene: MakeScene) -> Path:
    """Two classes of ten different photos."""
    for n in range(20):
        path = tmp_path / "set" / ("hat", "shoe")[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(n).save(path, quality=90)
    return tmp_path / "set"


def test_nothing_is_found_in_sound_data(sound: Path, tmp_path: Path, scene: MakeScene) -> None:
    (tmp_path / "test").mkdir()
    scene(77).save(tmp_path / "test" / "1.jpg")
    result = checked(sound, tmp_path / "test")
    assert found(result) == {}
    assert result.facts["classes"] == {"hat": 10, "shoe": 10}


@pytest.fixture
def faulty(sound: Path, scene: MakeScene) -> Path:
    """The same with one of every fault."""
    hat, shoe = sound / "hat", sound / "shoe"
    (hat / "empty.jpg").write_bytes(b"")
    cut = (hat / "0.jpg").read_bytes()
    (hat / "0.jpg").write_bytes(cut[: len(cut) // 2])
    hole = bytearray((hat / "2.jpg").read_bytes())
    hole[len(hole) // 2 : len(hole) // 2 + 150] = bytes(150)
    (hat / "2.jpg").write_bytes(hole)
    scene(30).save(hat / "drawing.jpg", format="PNG")
    Image.new("RGB", (80, 80), "white").save(hat / "blank.jpg")
    shutil.copy(hat / "4.jpg", hat / "again.jpg")
    shutil.copy(hat / "6.jpg", shoe / "six.jpg")
    scene(8).resize((120, 90)).save(hat / "smaller.jpg")
    scene(10).transpose(Image.Transpose.ROTATE_180).save(shoe / "turned.jpg")
    scene(31, 40, 60).save(hat / "tiny.jpg")
    scene(32, 70, 700).save(hat / "long.jpg")
    exif = Image.Exif()
    exif[0x0112] = 8
    scene(33).save(hat / "exif.jpg", exif=exif)
    (sound / "Hat_").mkdir()
    scene(34).save(sound / "Hat_" / "1.jpg")
    return sound


def test_every_fault_is_found_and_nothing_else(faulty: Path, tmp_path: Path, scene: MakeScene) -> None:
    test = tmp_path / "test"
    test.mkdir()
    shutil.copy(faulty / "hat" / "12.jpg", test / "copy.jpg")
    scene(14).resize((200, 150)).save(test / "near.jpg")
    (test / "bad.jpg").write_bytes(b"no image")
    result = checked(faulty, test)
    assert found(result) == {
        "unreadable": [["hat/empty.jpg"], ["bad.jpg"], ["hat/0.jpg"]],
        "equal_leaks": [["hat/12.jpg", "copy.jpg"]],
        "equal_conflicts": [["hat/6.jpg", "shoe/six.jpg"]],
        "near_leaks": [["hat/14.jpg", "near.jpg"]],
        "near_conflicts": [["hat/10.jpg", "shoe/turned.jpg"]],
        "damaged": [["hat/2.jpg"]],
        "blank": [["hat/blank.jpg"]],
        "tiny": [["hat/tiny.jpg"]],
        "few": [["Hat_: 1"]],
        "alike_names": [["Hat_ = hat"]],
        "wrong_extension": [["hat/drawing.jpg"]],
        "equal": [["hat/4.jpg", "hat/again.jpg"]],
        "near": [["hat/8.jpg", "hat/smaller.jpg"]],
        "long": [["hat/long.jpg"]],
        "turned": [["hat/exif.jpg"]],
        "uneven": [["hat: 17; Hat_: 1"]],
    }
    assert [f.severity for f in result.findings] == sorted(
        (f.severity for f in result.findings), key=["error", "warning", "note"].index
    )
    plain = json.loads(json.dumps(result.to_dict()))
    (case,) = next(f for f in plain["findings"] if f["kind"] == "near_leaks")["cases"]
    assert [image["split"] for image in case["images"]] == ["train", "test"] and "of 256 bits" in case["note"]


def test_what_the_recipe_settles_is_found_no_more(faulty: Path) -> None:
    result = found(checked(faulty, exclude=("tiny.jpg", "six.jpg"), aliases=(("hat", "Hat_"),), near_bits=0))
    assert not {"tiny", "equal_conflicts", "alike_names", "few", "uneven"} & result.keys()
    assert "near" not in result or ["hat/8.jpg", "hat/smaller.jpg"] not in result["near"]


def test_groups_of_classes_are_counted(sound: Path) -> None:
    result = checked(sound, class_groups=(("worn on the head", "hat"),))
    assert result.groups == {"worn on the head": 10, "others": 10}
