"""`Predictor.heatmap`: of photos as they come, for what is answered, and drawn on them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import DataError, Predictor
from engine.errors import CheckpointError
from engine.predict.overlay import overlay


@pytest.fixture(scope="module")
def predictor(finished_run: Path) -> Predictor:
    return Predictor(finished_run)


def as_file(image: Image.Image, orientation: int = 1) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def test_it_is_of_what_is_answered_unless_a_class_is_named(predictor: Predictor, signs: Path) -> None:
    photo = sorted((signs / "train" / "고리").iterdir())[1]
    before = predictor([photo])
    heat_HW = predictor.heatmap(photo)
    with Image.open(photo) as image:
        assert heat_HW.shape == (image.height, image.width)
    assert heat_HW.dtype == np.float32 and heat_HW.min() == 0 and heat_HW.max() == 1
    np.testing.assert_array_equal(predictor.heatmap(photo, before.answers[0]), heat_HW)
    others = [predictor.heatmap(photo, name) for name in predictor.classes if name != before.answers[0]]
    assert not any(np.array_equal(heat_HW, other) for other in others)
    np.testing.assert_array_equal(predictor([photo]).probabilities_NC, before.probabilities_NC)


def test_a_photo_that_lies_on_its_side_is_upright_first(predictor: Predictor, signs: Path) -> None:
    with Image.open(sorted((signs / "train" / "bar").iterdir())[0]) as opened:
        image = opened.convert("RGB")
    stored = image.transpose(Image.Transpose.ROTATE_90)  # 6: to be turned clockwise
    turned_HW = predictor.heatmap(as_file(stored, orientation=6), "bar")
    np.testing.assert_array_equal(turned_HW, predictor.heatmap(np.asarray(image), "bar"))
    assert turned_HW.shape == (image.height, image.width)


def test_what_cannot_be_asked_is_named(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class 'x': the models know 'bar'"):
        predictor.heatmap(np.zeros((20, 20, 3), np.uint8), "x")
    for label in (None, "bar"):
        with pytest.raises(DataError, match=r"1 of 1 images cannot be read: .*gone\.jpg"):
            predictor.heatmap(tmp_path / "gone.jpg", label)


def test_an_exported_file_has_no_gradients() -> None:
    with pytest.raises(CheckpointError, match=r"model\.onnx is an exported file.*no gradients"):
        Predictor("model.onnx")


def test_heat_is_drawn_over_the_photo_and_nothing_where_it_is_cold() -> None:
    photo = Image.new("RGB", (90, 60), (10, 20, 200))
    heat_HW = np.zeros((30, 45), np.float32)
    heat_HW[:10, 30:] = 1
    pixels_HW3 = np.asarray(overlay(photo, heat_HW))
    assert pixels_HW3.shape == (60, 90, 3)
    assert (pixels_HW3[40:, :40] == (10, 20, 200)).all()
    assert (pixels_HW3[2, 80] > (150, 150, 100)).all()
    assert np.array_equal(np.asarray(overlay(photo.convert("L"), heat_HW))[59, 0], [38] * 3)
    for wrong in (heat_HW * 2, heat_HW - 1, heat_HW * np.nan, heat_HW[0]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            overlay(photo, wrong)
