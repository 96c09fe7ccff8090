"""Drawn data sets: the same bytes however they are drawn, classes that differ, and pictures that say nothing else."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.synth.drawn.documents import KINDS, LOOK_ALIKES
from engine.synth.drawn.scenes import LONGEST_SIDE, SHORTEST_SIDE, Scene, draw_scene
from engine.synth.drawn.vehicles import FAMILY, MOST_CLASSES, class_names, design
from engine.synth.sets import DocumentSet, DrawnSet, VehicleSet, draw_set

VEHICLES = VehicleSet(classes=3, per_class=12, test_per_class=2, seed=5)
DOCUMENTS = DocumentSet(train=34, test=6, wrong=0.2, seed=5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "vehicles"
    assert draw_set(folder, VEHICLES, workers=1)
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "documents"
    assert draw_set(folder, DOCUMENTS, workers=1)
    return folder


def test_two_processes_draw_the_same_bytes_as_one(vehicles: Path, documents: Path, tmp_path: Path) -> None:
    draw_set(tmp_path / "vehicles", VEHICLES, workers=2)
    draw_set(tmp_path / "documents", DOCUMENTS, workers=2)
    assert contents(tmp_path / "vehicles") == contents(vehicles)
    assert contents(tmp_path / "documents") == contents(documents)


@pytest.mark.parametrize(
    ("spec", "other"),
    [
        (VEHICLES, VehicleSet(classes=3, per_class=12, test_per_class=2, seed=6)),
        (DOCUMENTS, DocumentSet(train=34, test=6, wrong=0.2, seed=6)),
    ],
)
def test_another_seed_draws_other_pictures(spec: DrawnSet, other: DrawnSet) -> None:
    for a, b in zip(spec.pictures()[:3], other.pictures()[:3], strict=True):
        assert spec.draw(a) != other.draw(b)


def test_every_picture_of_a_set_is_a_different_one(vehicles: Path, documents: Path) -> None:
    for folder in (vehicles, documents):
        pictures = [data for name, data in contents(folder).items() if name.endswith(".jpg")]
        assert len(set(pictures)) == len(pictures)


def test_vehicle_folders_and_tables_agree(vehicles: Path) -> None:
    names = sorted(p.name for p in (vehicles / "train").iterdir())
    assert names == sorted(VEHICLES.names)
    for name in names:
        files = sorted(p.name for p in (vehicles / "train" / name).iterdir())
        assert files == [f"{name}_{k:04d}.jpg" for k in range(1, 13)]
    ids = [f"TEST_{i:05d}" for i in range(6)]
    assert [(row["ID"], row["img_path"]) for row in table(vehicles / "test.csv")] == [
        (i, f"./test/{i}.jpg") for i in ids
    ]
    assert sorted(p.stem for p in (vehicles / "test").iterdir()) == ids
    submission = table(vehicles / "sample_submission.csv")
    assert [row.pop("ID") for row in submission] == ids
    for row in submission:
        assert list(row) == names
        assert sum(map(float, row.values())) == pytest.approx(1)
    labels = [row["label"] for row in table(vehicles / "test_labels.csv")]
    assert {name: labels.count(name) for name in names} == dict.fromkeys(names, 2)


def test_the_order_of_the_test_part_tells_nothing_about_the_class() -> None:
    labels = VehicleSet(classes=12, per_class=1, test_per_class=20).test_classes
    same_as_next = np.mean(np.array(labels[1:]) == np.array(labels[:-1]))
    assert same_as_next < 0.25  # sorted by class it would be 0.95, by chance it is 0.08


def test_sides_are_between_500_and_1100_pixels_and_the_aspect_varies(vehicles: Path) -> None:
    shapes = [decoded(p.read_bytes()).shape for p in vehicles.rglob("*.jpg")]
    assert min(min(s[:2]) for s in shapes) >= SHORTEST_SIDE == 500
    assert max(max(s[:2]) for s in shapes) <= LONGEST_SIDE == 1100
    assert len({round(width / height, 1) for height, width, _ in shapes}) > 3


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_any_scene_is_within_its_limits(seed: int) -> None:
    scene = draw_scene(np.random.default_rng(seed))
    assert SHORTEST_SIDE <= min(scene.height, scene.width) <= max(scene.height, scene.width) <= LONGEST_SIDE
    assert 70 <= scene.exposure.quality <= 95
    assert 0.1 < abs(scene.azimuth) < 1.0  # the side and one end are seen
    assert all(0 <= channel <= 255 for channel in scene.paint)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_class_names_are_korean_unique_and_fit_a_file_name(seed: int) -> None:
    names = class_names(seed, MOST_CLASSES)
    assert len(set(names)) == MOST_CLASSES
    for name in names:
        assert unicodedata.is_normalized("NFC", name)
        assert any("HANGUL" in unicodedata.name(letter, "") for letter in name)
        assert not set(name) & set('/\\:*?"<>| ')
        assert len(f"{name}_0000.part".encode()) < 255


def test_more_classes_keep_the_names_and_designs_of_fewer() -> None:
    assert class_names(3, 40)[:12] == class_names(3, 12)


@given(st.integers(0, 2**32 - 1), st.integers(0, MOST_CLASSES // FAMILY - 1))
@settings(max_examples=50, deadline=None)
def test_a_family_shares_its_body_and_differs_in_details(seed: int, family: int) -> None:
    first, facelift, successor = (design(seed, family * FAMILY + k) for k in range(FAMILY))
    assert first.body == facelift.body
    assert first.body.name == successor.body.name
    assert first.body != successor.body
    for style in ("head_lamp", "tail_lamp", "grille", "wheel", "trim", "roof"):
        assert len({getattr(member, style) for member in (first, facelift, successor)}) == FAMILY


# What says nothing about the class, as numbers that an analysis of variance can compare.
NUISANCES = {
    "brightness of the paint": lambda s: sum(s.paint),
    "redness of the paint": lambda s: s.paint[2] - s.paint[0],
    "azimuth": lambda s: s.azimuth,
    "elevation": lambda s: s.elevation,
    "distance": lambda s: s.distance,
    "mirrored": lambda s: float(s.mirrored),
    "filling": lambda s: s.filling,
    "place": lambda s: s.place[0],
    "width": lambda s: s.width,
    "aspect": lambda s: s.width / s.height,
    "backdrop": lambda s: s.backdrop,
    "sun": lambda s: s.sun,
    "gain": lambda s: s.exposure.gain,
    "noise": lambda s: s.exposure.noise,
    "quality": lambda s: s.exposure.quality,
    "door": lambda s: float(bool(s.door_words)),
}


def variance_ratio(values: np.ndarray, labels: np.ndarray) -> float:
    """F of a one-way analysis of variance: near 1 when the classes do not differ."""
    groups = [values[labels == label] for label in np.unique(labels)]
    between = sum(len(g) * (g.mean() - values.mean()) ** 2 for g in groups) / (len(groups) - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (len(values) - len(groups))
    return float(between / within)


def nuisance_ratios(scenes: list[Scene], labels: list[int]) -> dict[str, float]:
    return {
        name: variance_ratio(np.array([value(scene) for scene in scenes], float), np.array(labels))
        for name, value in NUISANCES.items()
    }


def test_the_scene_is_independent_of_the_class() -> None:
    spec = VehicleSet(classes=12, per_class=60, test_per_class=10)
    pictures = spec.pictures()
    scenes, labels = [spec.scene(p) for p in pictures], [p.label for p in pictures]
    ratios = nuisance_ratios(scenes, labels)
    # F(11, 828) exceeds 3.1 once in 2,500 times by chance; there are 16 nuisances
    assert max(ratios.values()) < 3.1, ratios
    # the check would notice a slight dependence: one picture in three photographed by its class
    leaking = [spec.scene(pictures[p.label if i % 3 == 0 else i]) for i, p in enumerate(pictures)]
    assert max(nuisance_ratios(leaking, labels).values()) > 10


def edges(image: np.ndarray) -> np.ndarray:
    """Gradient strengths by direction on a coarse grid: where the outlines are, without their colours."""
    grey = cv2.cvtColor(cv2.resize(image, (96, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    down, right = np.gradient(grey.astype(np.float32))
    strength, direction = np.hypot(right, down), np.arctan2(down, right) % np.pi / np.pi * 8
    by_direction = np.stack([np.where(direction.astype(int) % 8 == k, strength, 0) for k in range(8)], axis=-1)
    cells = cv2.resize(by_direction, (12, 8), interpolation=cv2.INTER_AREA)
    return (np.sqrt(cells) / np.sqrt(cells.sum() + 1)).ravel()


def ridge(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Classes by ridge regression on one-hot labels, solved over the samples, which are fewer than the features."""
    centre = known.mean(axis=0)
    known, asked = known - centre, asked - centre
    similar = known @ known.T
    weights = np.linalg.solve(
        similar + 0.1 * np.trace(similar) / len(known) * np.eye(len(known)), np.eye(labels.max() + 1)[labels]
    )
    return (asked @ known.T @ weights).argmax(axis=1)


def test_classes_are_told_apart_by_shape_with_effort_and_not_by_colour() -> None:
    spec = VehicleSet(classes=6, per_class=18, test_per_class=12, seed=1)
    colours, shapes, labels, parts = [], [], [], []
    for picture in spec.pictures():
        image = decoded(spec.draw(picture))
        for view in (image, image[:, ::-1]) if picture.part == 0 else (image,):
            colours.append(image.mean(axis=(0, 1)))
            shapes.append(edges(view))
            labels.append(picture.label)
            parts.append(picture.part)
    train = np.array(parts) == 0
    truth = np.array(labels)
    chance = 1 / spec.classes

    centroids = np.stack([np.array(colours)[train & (truth == c)].mean(axis=0) for c in range(spec.classes)])
    nearest = np.linalg.norm(np.array(colours)[~train, None] - centroids, axis=2).argmin(axis=1)
    assert (nearest == truth[~train]).mean() < chance + 0.14  # three standard deviations of 72 pictures

    accuracy = (ridge(np.array(shapes)[train], truth[train], np.array(shapes)[~train]) == truth[~train]).mean()
    assert 2 * chance < accuracy < 0.95


def test_document_tables_agree_with_the_folders(documents: Path) -> None:
    assert [row["class_name"] for row in table(documents / "meta.csv")] == list(KINDS)
    train, test = table(documents / "train.csv"), table(documents / "test_labels.csv")
    assert {row["ID"] for row in train} == {p.name for p in (documents / "train").iterdir()}
    assert {row["ID"] for row in test} == {p.name for p in (documents / "test").iterdir()}
    assert (len(train), len(test)) == (34, 6)
    assert [row["ID"] for row in table(documents / "sample_submission.csv")] == [row["ID"] for row in test]


def test_the_stated_share_of_document_labels_is_wrong_and_listed() -> None:
    spec = DocumentSet(train=400, test=0, wrong=0.05)
    truth = {Path(p.path).name: p.label for p in spec.pictures()}
    tables = spec.tables()
    given_labels = {row["ID"]: int(row["target"]) for row in csv.DictReader(tables["train.csv"].splitlines())}
    listed = list(csv.DictReader(tables["wrong_labels.csv"].splitlines()))
    wrong = {name for name, label in given_labels.items() if label != truth[name]}
    assert len(wrong) == 20 == len(listed)
    assert {row["ID"] for row in listed} == wrong
    names = list(KINDS)
    twins = {names.index(a): names.index(b) for pair in LOOK_ALIKES for a, b in (pair, pair[::-1])}
    for row in listed:
        assert int(row["target"]) == truth[row["ID"]]
        assert int(row["given"]) == given_labels[row["ID"]]
        assert int(row["given"]) == twins.get(truth[row["ID"]], int(row["given"]))


@given(st.integers(34, 3000), st.integers(0, 2000), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_document_classes_are_unbalanced_and_none_is_missing(train: int, test: int, seed: int) -> None:
    pictures = DocumentSet(train=train, test=test, seed=seed).pictures()
    counts = np.bincount([p.label for p in pictures if p.part == 0], minlength=len(KINDS))
    assert (counts.sum(), len(pictures)) == (train, train + test)
    assert counts.min() >= 2
    if train >= 500:
        assert counts.max() > 1.8 * counts.min()


def test_only_the_test_part_of_documents_is_turned() -> None:
    spec = DocumentSet(train=400, test=400)
    dashboard = list(KINDS).index("car_dashboard")  # a dark rectangle, whose angle is easily measured

    def slant(part: int) -> float:
        """Mean angle in degrees between the dashboard's outline and the picture's axes."""
        angles = []
        for picture in [p for p in spec.pictures() if p.label == dashboard and p.part == part][:12]:
            grey = cv2.cvtColor(decoded(spec.draw(picture)), cv2.COLOR_BGR2GRAY)
            points = np.argwhere(cv2.GaussianBlur(grey, (0, 0), 3) < 45)[:, ::-1].astype(np.float32)
            if len(points) > 1000:
                angle = cv2.minAreaRect(points)[2] % 90
                angles.append(min(angle, 90 - angle))
        assert len(angles) >= 5
        return float(np.mean(angles))

    assert slant(0) < 6 < slant(1)


def test_a_finished_set_is_left_as_it_is(vehicles: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in vehicles.rglob("*")}
    assert draw_set(vehicles, VEHICLES, workers=1) is False
    assert {p: p.stat().st_mtime_ns for p in vehicles.rglob("*")} == before


def test_an_interrupted_set_is_finished_without_drawing_anything_twice(vehicles: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    folder = tmp_path / "set"
    with pytest.raises(Stopped):
        draw_set(folder, VEHICLES, workers=1, progress=stop)
    assert not (folder / "synth.json").exists()
    drawn = {p: p.stat().st_mtime_ns for p in folder.rglob("*.jpg")}
    assert 0 < len(drawn) < 42
    assert draw_set(folder, VEHICLES, workers=1)
    assert contents(folder) == contents(vehicles)
    assert {p: p.stat().st_mtime_ns for p in drawn} == drawn


def test_a_foreign_folder_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match="not empty"):
        draw_set(tmp_path, VEHICLES)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}
    with pytest.raises(DataError, match="is a file"):
        draw_set(tmp_path / "thesis.txt", VEHICLES)


@pytest.mark.parametrize("marker", ["synth.json", "synth.json.part"])
def test_a_set_of_other_numbers_is_refused_and_says_which(vehicles: Path, tmp_path: Path, marker: str) -> None:
    (tmp_path / marker).write_bytes((vehicles / "synth.json").read_bytes())
    with pytest.raises(DataError, match="seed 5 there, 9 asked for"):
        draw_set(tmp_path, VehicleSet(classes=3, per_class=12, test_per_class=2, seed=9))
    with pytest.raises(DataError, match="kind 'vehicles' there, 'documents' asked for"):
        draw_set(tmp_path, DOCUMENTS)
    assert [p.name for p in tmp_path.iterdir()] == [marker]


@pytest.mark.parametrize("text", ["", "[1, 2]", "{"])
def test_a_damaged_marker_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "synth.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="choose"):
        draw_set(tmp_path, VEHICLES)


def test_progress_counts_up_to_all_pictures(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    draw_set(tmp_path / "set", DOCUMENTS, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [40] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == 40


def test_the_marker_says_what_was_drawn(vehicles: Path) -> None:
    marker = json.loads((vehicles / "synth.json").read_text(encoding="utf-8"))
    assert {"kind": "vehicles", "classes": 3, "per_class": 12, "test_per_class": 2, "seed": 5}.items() <= marker.items()


@pytest.mark.parametrize(
    ("make_spec", "named"),
    [
        (lambda: VehicleSet(classes=1), "classes = 1"),
        (lambda: VehicleSet(classes=MOST_CLASSES + 1), f"classes = {MOST_CLASSES + 1}"),
        (lambda: VehicleSet(per_class=0), "per_class = 0"),
        (lambda: VehicleSet(test_per_class=-1), "test_per_class = -1"),
        (lambda: VehicleSet(seed=-1), "seed = -1"),
        (lambda: DocumentSet(train=20), "train = 20"),
        (lambda: DocumentSet(wrong=0.9), "wrong = 0.9"),
    ],
)
def test_impossible_numbers_are_refused_by_name(make_spec, named: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=named):
        make_spec()
