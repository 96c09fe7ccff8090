"""The bench's photos are the same every time, and as hard to decode as photos are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.bench.photos import LONG, LONGEST, SHORT, SHORTEST, draw, many_sizes, photos, size_of


def test_a_photo_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = photos(tmp_path / "few", 3), photos(tmp_path / "many", 6)
    assert [Path(path).name for path in few] == [Path(path).name for path in many[:3]]
    assert [Path(path).read_bytes() for path in few] == [Path(path).read_bytes() for path in many[:3]]
    assert len({Path(path).read_bytes() for path in many}) == 6


def test_photos_are_drawn_once_and_only_where_they_are_missing(tmp_path: Path) -> None:
    first, second, _ = map(Path, photos(tmp_path, 3))
    content, made = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    photos(tmp_path, 3)
    assert second.read_bytes() == content
    assert first.stat().st_mtime_ns == made


def test_they_are_kept_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (path,) = photos(count=1)
    assert Path(path).is_relative_to(tmp_path / "engine")


def test_they_weigh_what_photos_weigh(tmp_path: Path) -> None:
    bytes_a_pixel = []
    for path in photos(tmp_path, 12):
        with Image.open(path) as image:
            assert sorted(image.size) == [SHORT, LONG]
            bytes_a_pixel.append(Path(path).stat().st_size / (SHORT * LONG))
    assert 0.1 < np.mean(bytes_a_pixel) < 0.2  # photos of clothes for sale: 0.08 to 0.19


def test_most_stand_upright_and_some_lie() -> None:
    assert [draw(i).shape[:2] for i in range(4)] == [(LONG, SHORT)] * 3 + [(SHORT, LONG)]


def test_many_sizes_are_spread_as_those_of_imagenet_are(tmp_path: Path) -> None:
    sizes = np.array([size_of(i) for i in range(500)])
    long = sizes.max(axis=1)
    assert long.min() == SHORTEST and LONGEST / 2 < long.max() <= LONGEST
    assert 450 < np.median(long) < 550 and 0.05 < np.mean(long > 1000) < 0.15
    assert 0.2 < np.mean(sizes[:, 0] > sizes[:, 1]) < 0.3
    assert 0.15e6 < np.median(sizes.prod(axis=1)) < 0.25e6  # ImageNet's: 500 x 375
    for i, path in enumerate(many_sizes(tmp_path, 3)):
        with Image.open(path) as image:
            assert image.size[::-1] == size_of(i)
