"""A few answers in the terminal: photos and their likeliest classes."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from engine.cli.shown import PHOTO, show_answers
from engine.predict.piece import Piece
from engine.recipe.sections import DecodeSection

CLASSES = ("가방", "cap", "hat", "shoe", "sock", "tie")


@pytest.fixture
def answered(tmp_path: Path) -> tuple[Any, Any]:
    """Five photos, each red above and blue below, answered from sure to unsure; the last could not be seen."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :, 0] = pixels[20:, :, 2] = 255
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path in paths:
        Image.fromarray(pixels).save(path)
    likeliest = np.array([0.5, 0.9, 0.7, 0.6, 1.0])
    p_NC = np.repeat((1 - likeliest[:, None]) / 5, 6, 1)
    p_NC[:, 1] = likeliest
    images = pa.table({"id": [*"abcde"], "path": paths, "label": ["cap", "가방", "", "cap", "cap"]})
    return of(images, p_NC, CLASSES)


def of(images: pa.Table, p_NC: np.ndarray, classes: tuple[str, ...]) -> tuple[Any, Any]:
    """A job and its outcome, in two pieces, as far as they are looked at."""
    status = ["ok"] * 4 + ["damaged"]
    pieces = [Piece(images.slice(at, n), p_NC[at : at + n], status[at : at + n], {}) for at, n in ((0, 2), (2, 3))]
    recipe = SimpleNamespace(decode=DecodeSection(background=(0.0, 1.0, 0.0)))
    job = SimpleNamespace(models=SimpleNamespace(recipe=recipe, classes=classes), images=images, p_NC=p_NC)
    return job, SimpleNamespace(pieces=lambda: iter(pieces))


def shown(answered: tuple[Any, Any], count: int, encoding: str = "utf-8", **options: Any) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    show_answers(*answered, count, Console(file=file, width=120, **options))
    file.seek(0)
    return file.read()


def test_photos_go_from_the_surest_to_the_least_sure(answered: tuple[Any, Any]) -> None:
    def names(count: int) -> list[str]:
        return [photo.splitlines()[0][-5] for photo in shown(answered, count).split("\n\n")[:-1]]

    assert names(4) == ["1", "2", "3", "0"]
    assert names(2) == ["1", "0"]
    assert names(99) == ["1", "2", "3", "0"]  # never the one that nobody saw


def test_a_photo_stands_with_its_path_its_class_and_five_answers(answered: tuple[Any, Any]) -> None:
    lines = shown(answered, 1).splitlines()
    assert lines[0] == answered[0].images["path"][1].as_py() and lines[1] == "it is 가방"
    assert lines[2].split() == ["90.0%", "█" * 18, "cap"]
    assert len(lines[2:7]) == 5 and lines[7] == ""


def test_a_class_is_told_where_it_is_known(answered: tuple[Any, Any]) -> None:
    photos = shown(answered, 4).split("\n\n")
    assert ["it is" in photo for photo in photos[:4]] == [True, False, True, True]


def test_a_terminal_with_colours_shows_the_photo_itself(answered: tuple[Any, Any]) -> None:
    told = shown(answered, 1, force_terminal=True, color_system="truecolor")
    assert told.count("▀") == 27 * PHOTO[1]  # 60 x 40 pixels fitted into 28 x 18
    assert "38;2;255;0;0;48;2;255;0;0" in told and "38;2;0;0;255;48;2;0;0;255" in told  # red above, blue below


def test_the_photo_is_shown_as_the_models_saw_it(answered: tuple[Any, Any]) -> None:
    path = answered[0].images["path"][1].as_py()
    clear = Image.new("RGBA", (60, 40), (255, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 30, 40))  # the left half is red, the right one transparent
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right: red above
    clear.save(path, exif=exif)
    told = shown(answered, 1, force_terminal=True, color_system="truecolor")
    assert told.count("▀") == 12 * PHOTO[1]
    first, last = told.index("38;2;255;0;0;48;2;255;0;0"), told.index("38;2;0;255;0;48;2;0;255;0")
    assert first < last  # the recipe's background


def test_a_photo_that_is_gone_by_now_leaves_its_answers(answered: tuple[Any, Any]) -> None:
    Path(answered[0].images["path"][1].as_py()).unlink()
    told = shown(answered, 1, force_terminal=True, color_system="truecolor")
    assert "▀" not in told and "90.0%" in told


def test_a_terminal_without_such_characters_gets_letters(answered: tuple[Any, Any]) -> None:
    job, _ = answered
    images = job.images.set_column(2, "label", pa.array([""] * 5))
    latin = of(images, job.p_NC, ("bag", *CLASSES[1:]))
    told = shown(latin, 1, "ascii", force_terminal=True, color_system="truecolor")
    assert "#" * 18 in told and "▀" not in told and "█" not in told
