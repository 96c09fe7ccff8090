"""What a file proves itself by: photos in which faults show, in a form that travels."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.ensemble.parts import NOTHING
from engine.errors import CheckpointError
from engine.export.proof import Print, Proof, Shot, Steps
from engine.export.proof_photos import KINDS, Made, drawn, make, photos_of
from engine.pictures import read_pixels
from engine.recipe.sections import DataSection


def unsure(photos: list[np.ndarray]) -> np.ndarray:
    """Surer of what is brighter."""
    bright_N = np.array([photo.mean() / 255 for photo in photos])
    return np.stack([bright_N, 1 - bright_N], axis=1)


@pytest.fixture(scope="module")
def made() -> list[Made]:
    return make((64, 48), drawn(), unsure)


def test_photos_are_there_for_something_each(made: list[Made]) -> None:
    assert [one.name for one in made] == [kind.name for kind in KINDS]
    by_name = {one.name: read_pixels(one.content) for one in made}
    assert by_name["1_exact.png"].shape == (64, 48, 3)
    assert by_name["2_large.png"].shape[0] > 100 and by_name["7_small.jpg"].shape[0] < 64
    wide, tall = by_name["3_wide.jpg"].shape, by_name["4_tall.jpg"].shape
    assert wide[1] / wide[0] > 1.2 and tall[0] / tall[1] > 2
    for name, turned in (("5_lying.jpg", 6), ("6_upside_down.jpg", 3)):
        image = Image.open(io.BytesIO(next(one.content for one in made if one.name == name)))
        assert image.getexif()[0x0112] == turned
        stored, upright = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
        assert stored.shape != upright.shape or np.abs(stored.astype(int) - upright).mean() > 10


def test_photos_are_in_colour_without_symmetry_and_change_without_antialiasing(made: list[Made]) -> None:
    for one in made:
        pixels = read_pixels(one.content).astype(int)
        for other in (pixels[:, :, ::-1], pixels[:, ::-1], pixels[::-1], pixels.mean(2, keepdims=True)):
            assert np.abs(pixels - other).mean() > 5, one.name
        if one.name[0] in "23456":
            image = Image.fromarray(pixels.astype(np.uint8))
            smooth, rough = (np.asarray(image.resize((40, 40), how), dtype=int) for how in (2, 0))
            assert np.abs(smooth - rough).mean() > 5, one.name


def test_those_are_taken_of_which_the_model_is_least_sure() -> None:
    sources = [np.full((80, 90, 3), level, np.uint8) for level in (10, 30, 120, 230, 250)]
    seen: list[float] = []

    def answer(photos: list[np.ndarray]) -> np.ndarray:
        seen.extend(photo[:10, :10].mean() for photo in photos)  # where no grating is drawn
        return unsure(photos)

    first = make((32, 32), sources, answer)[0]
    assert len(seen) == len(sources)
    assert abs(read_pixels(first.content)[:8, :8].mean() - 120) < 2


def test_without_photos_at_hand_they_are_drawn(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert photos_of(DataSection(train=str(tmp_path / "gone"))) == []
    assert len(drawn()) >= len(KINDS)
    with pytest.raises(ValueError, match="no photos"):
        make((32, 32), [], unsure)


def test_a_print_sees_what_differs() -> None:
    array = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float32)
    own = Print.of(array)
    assert own.difference(array) < 1e-6
    assert own.difference(array[::-1]) > 0.5  # channels
    assert own.difference(array[:, :, ::-1]) > 0.5
    assert own.difference(array * 1.01) > 1e-3
    assert own.difference(array.transpose(0, 2, 1)) == float("inf")


def proof() -> Proof:
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    return Proof(
        shots=(Shot("1_exact.png", b"\x89PNG\x00\xff", "한글", Print.of(image), 0.002),),
        probabilities_NC=np.array([[0.25, 0.75]], np.float32),
        prepared={"prepared_0": (Print.of(image / 255),)},
        logits={"logits_0": np.array([[[1.5, -2.25]]], np.float32)},
        tolerance=5e-4,
        steps=Steps((("logits_0",),), "soft", NOTHING),
    )


def test_a_proof_comes_back_as_it_was() -> None:
    own = proof()
    again = Proof.from_json(own.to_json())
    assert again.shots == own.shots and again.prepared == own.prepared and again.steps == own.steps
    np.testing.assert_array_equal(again.probabilities_NC, own.probabilities_NC)
    np.testing.assert_array_equal(again.logits["logits_0"], own.logits["logits_0"])
    assert again.tolerance_N.tolist() == [0.002] and again.tolerance == 5e-4


def test_a_damaged_or_newer_proof_is_named() -> None:
    content = json.loads(proof().to_json())
    (photo,) = content["photos"]
    changes: list[dict[str, object]] = [
        {"photos": [{}]},
        {"photos": []},
        {"photos": [photo | {"answer": 0.5}]},
        {"photos": [photo | {"name": "../../.bashrc"}]},  # would be written there
        {"steps": {"vote": "x"}},
    ]
    for broken in ("{", "[]", *(json.dumps(content | change) for change in changes)):
        with pytest.raises(CheckpointError, match=r"model.onnx: its proof is damaged .*export the run again"):
            Proof.from_json(broken, "model.onnx")
    with pytest.raises(CheckpointError, match="use a newer engine"):
        Proof.from_json(json.dumps(content | {"format": 9}))
