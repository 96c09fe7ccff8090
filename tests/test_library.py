"""The library door: docs/library.md runs as it is written, and opening the door costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import engine
from engine import DataError, EngineError, Predictor
from engine.store import checkpoint

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.DOTALL)
RECIPE = """
data.folds.count = 2
decode.threads = 1
model = {backbone = "test_convnext", pretrained = false}
predict.tta = 2
track.tensorboard = false
stage = [{size = 32, batch = 4, epochs = 1, lr = 1e-3}]
"""


def draw(number: int, color: int) -> np.ndarray:
    pixels = np.random.default_rng(number).integers(0, 120, (40, 48, 3), dtype=np.uint8)
    pixels[:, :, color] += 120
    return pixels


def test_the_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for color, name in enumerate(("id", "label")):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(draw(i, color)).save(tmp_path / "photos" / "train" / name / f"{i}.jpg")
    (tmp_path / "photos" / "new").mkdir()
    for i, name in enumerate("ab"):
        Image.fromarray(draw(20 + i, i)).save(tmp_path / "photos" / "new" / f"{name}.jpg")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    names: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/library.md", "exec"), names)
    told = capsys.readouterr().out
    assert (tmp_path / "a_heat.jpg").is_file()
    assert "against" in told and "photos/new" in told and "[2, 3, 64, 64]" in told
    imported = {name for line in re.findall(r"from engine import (.+)", "".join(EXAMPLES)) for name in line.split(", ")}
    assert len(EXAMPLES) == 6 and imported <= {*engine.__all__}


@pytest.fixture
def predictor(tmp_path: Path, fold: object) -> Predictor:
    for number in (0, 1):
        checkpoint.save(tmp_path / "models" / str(number), fold(number))  # type: ignore[operator]
    return Predictor(tmp_path / "models", tta=2)


def test_a_photo_is_answered_alike_however_it_comes(predictor: Predictor, tmp_path: Path) -> None:
    pixels_HW3 = draw(1, 2)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels_HW3).save(path)
    answers = predictor([path, path.read_bytes(), pixels_HW3])
    assert answers.ids == (str(path), "1", "2") and answers.classes == predictor.classes
    np.testing.assert_array_equal(answers.probabilities_NC[0], answers.probabilities_NC[1])
    np.testing.assert_array_equal(answers.probabilities_NC[0], answers.probabilities_NC[2])


def test_a_batch_of_columns_is_answered_by_columns(predictor: Predictor, tmp_path: Path) -> None:
    photo, gone = tmp_path / "photo.png", tmp_path / "gone.png"
    Image.fromarray(draw(1, 0)).save(photo)
    paths = np.array([str(gone), str(photo)], dtype=object)
    found = predictor({"path": paths, "row": np.array([7, 8])})
    probabilities = [f"p:{name}" for name in predictor.classes]
    assert list(found) == ["path", "row", "prediction", "confidence", "status", *probabilities]
    assert found["row"].tolist() == [7, 8] and found["status"].tolist()[1] == "ok"
    assert "cannot be read" in found["status"][0]
    alone = predictor([photo])
    np.testing.assert_allclose([found[name][1] for name in probabilities], alone.probabilities_NC[0], atol=1e-6)
    assert found["prediction"][1] == alone.answers[0] and found["confidence"].dtype == np.float32
    np.testing.assert_allclose([found[name][0] for name in probabilities], [0.6, 0.3, 0.1], atol=1e-6)

    by_pixels = predictor({"image": np.stack([draw(1, 0)]), "path": paths[:1]})
    by_bytes = predictor({"bytes": [photo.read_bytes()]})
    for answered in (by_pixels, by_bytes):
        np.testing.assert_allclose(answered["confidence"], found["confidence"][1:], atol=1e-6)
    assert "image" not in by_pixels and "path" in by_pixels and "bytes" not in by_bytes
    assert [len(values) for values in predictor({"path": paths[:0]}).values()] == [0] * 7
    with pytest.raises(ValueError, match=r"expected a column image, bytes or path; got 'x'"):
        predictor({"x": paths})


def test_the_second_call_restores_nothing(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    first = predictor([draw(1, 0)])

    def refuse(*_: object) -> None:
        raise AssertionError("a model was built again")

    monkeypatch.setattr("engine.inference.member.build_model", refuse)
    np.testing.assert_array_equal(predictor([draw(1, 0)]).probabilities_NC, first.probabilities_NC)


def test_images_that_cannot_be_read_are_all_named(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read: .*gone\.jpg.*1: .*is empty"):
        predictor([tmp_path / "gone.jpg", b"", draw(0, 0)])
    with pytest.raises(EngineError, match="1 of 1"):
        predictor([b"no image"])


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_arrays_of_another_kind_are_refused(predictor: Predictor, pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        predictor([pixels])


def test_ids_have_to_tell_images_apart(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="an id for each"):
        predictor([draw(0, 0), draw(1, 0)], ids=["same", "same"])


def test_every_name_of_the_door_is_there_and_documented() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    for name in engine.__all__:
        assert getattr(engine, name) is not None
        assert name == "__version__" or name in page, name
    assert set(engine.__all__) <= set(dir(engine))
    with pytest.raises(AttributeError, match="its names are"):
        _ = engine.nothing_of_the_kind


def test_opening_the_door_loads_nothing() -> None:
    code = (
        "import sys, engine; engine.EngineError; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'click')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
