"""What is served besides a run: an exported file, with the pixels that a run would see."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import CheckpointError, RecipeError
from engine.export.runner import Exported
from engine.pictures import read_pixels
from engine.quarantine import Fault, FaultKind
from engine.serve.model import Answer, ExportModel, open_model
from engine.serve.photo import Photo


def exported(ask: Callable[[np.ndarray], np.ndarray], takes: str = "pixels", **more: Any) -> Exported:
    """As a file whose graph is `ask`."""
    return Exported(Path("model.onnx"), {"classes": ["a", "b"], "takes": takes, "batch": None, **more}, "", ask)


def test_an_export_is_shown_upright_pixels_and_a_bad_photo_costs_its_neighbours_nothing(
    photo: Callable[..., str], damaged: dict[str, str]
) -> None:
    shown: list[np.ndarray] = []

    def ask(images: np.ndarray) -> np.ndarray:
        shown.extend(images)
        first_N = images[:, 0, 0, 0].astype(np.float32) / 255
        return np.stack([first_N, 1 - first_N], axis=1)

    paths = [photo("a.jpg", 48, 64, orientation=6), damaged["cut off"], photo("b.png", mode="L"), damaged["text"]]
    contents = [Path(path).read_bytes() for path in paths]
    turned, cut, gray, text = ExportModel(exported(ask))([Photo(content, 1) for content in contents])
    assert isinstance(cut, Fault) and cut.kind == FaultKind.DAMAGED
    assert isinstance(text, Fault) and text.kind == FaultKind.NOT_AN_IMAGE
    for answer, content, size in ((turned, contents[0], (64, 48, 3)), (gray, contents[2], (48, 64, 3))):
        expected = read_pixels(content)
        assert isinstance(answer, Answer) and isinstance(expected, np.ndarray) and expected.shape == size
        (seen,) = [one for one in shown if one.shape == size]
        assert np.abs(seen.astype(int) - expected).max() <= 2
        assert answer.p_C[0] == np.float32(seen[0, 0, 0]) / np.float32(255) and answer.beside == {}


def test_what_is_transparent_lies_over_the_colour_that_training_had_there() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 6), (200, 100, 50, 0)).save(file, "PNG")

    def ask(images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, :2].astype(np.float32)

    for more, seen in (({"background": [0.0, 0.2, 1.0]}, [0, 51]), ({}, [255, 255])):
        (answer,) = ExportModel(exported(ask, **more))([Photo(file.getvalue(), 1)])
        assert isinstance(answer, Answer) and answer.p_C.tolist() == seen


def nothing(*_: Any) -> np.ndarray:
    raise AssertionError("it is not asked")


def test_what_cannot_be_served_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="without --bytes"):
        ExportModel(exported(nothing, takes="bytes"))
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(RecipeError, match="answers as it was exported"):
        open_model(file, ["predict.tta=1"])
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        open_model(file)
