"""`engine distill`: a finished run teaches a small model, and both stand side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.main import main
from engine.predict.predictor import Predictor
from engine.predictions import Predictions
from engine.tune.student import beside_teacher, rate

RECIPE = """
name = "student"
data = {{ train = "{signs}/train", cache = "{cache}", folds = {{ count = 2, run = [0] }} }}
decode = {{ threads = 1 }}
model = {{ backbone = "test_convnext", pretrained = false }}
ensemble = {{ calibrate = "off" }}
[[stage]]
size = 32
batch = 8
epochs = 1
lr = 3e-3
"""


@pytest.fixture
def recipe(signs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "student.toml"
    path.write_text(RECIPE.format(signs=signs, cache=tmp_path / "cache"), "utf-8")
    return path


def test_a_student_is_trained_and_stands_beside_its_teacher(
    finished_run: Path, signs: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.tune.student._LEAST_S", 0.01)
    monkeypatch.setattr("engine.cli.distill._TIMED", 4)
    student = tmp_path / "student"
    command = ["distill", str(finished_run), str(recipe), "--set", f"output={student}"]
    command += ["--unlabelled", str(signs / "test")]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "48 images, out of fold" in done.output
    assert "student for teacher: log loss" in done.output and "95% interval" in done.output
    answered = student / "unlabelled" / "predictions.parquet"
    found = Predictions.read(answered)
    assert len(found) == 24
    whole = Predictor(finished_run)([signs / "test" / Path(id_).name for id_ in found.ids[:3]])
    assert (
        abs(found.take([0, 1, 2]).probabilities_NC - whole.in_order(whole.ids, found.classes).probabilities_NC).max()
        < 1e-6
    )
    before = answered.read_bytes()
    monkeypatch.setattr("engine.predict.run._answered", lambda *_: pytest.fail("the teacher is asked again"))
    again = CliRunner().invoke(main, command, catch_exceptions=False)
    assert again.exit_code == 0 and answered.read_bytes() == before


def test_a_teacher_does_not_teach_itself(finished_run: Path, recipe: Path) -> None:
    command = ["distill", str(finished_run), str(recipe), "--set", f"output={finished_run}"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2 and "the teacher's folder" in done.output


def test_a_folder_without_models_is_no_teacher(recipe: Path, tmp_path: Path) -> None:
    command = ["distill", str(tmp_path / "none"), str(recipe), "--set", f"output={tmp_path / 'student'}"]
    for more in ([], ["--unlabelled", str(tmp_path)]):
        done = CliRunner().invoke(main, [*command, *more])
        assert done.exit_code != 0 and str(tmp_path / "none") in done.output
        assert not (tmp_path / "student").exists()


def test_the_same_run_beside_itself_is_not_told_apart(
    finished_run: Path, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.tune.student.rate", lambda predictor, photos: float(len(photos)))
    photos = [*map(str, sorted((signs / "test").glob("*.jpg")))]
    lesson = beside_teacher(finished_run, finished_run, photos)
    assert lesson.images == 96 and (lesson.teacher.one_fold, lesson.teacher.all_folds) == (24, 24)
    assert {one.verdict for one in lesson.differences} == {"not told apart"}


def test_a_photo_that_cannot_be_read_takes_no_rate_away(finished_run: Path, signs: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(next(iter(sorted((signs / "test").iterdir()))).read_bytes()[:200])
    photos = [str(tmp_path / "cut.jpg"), *map(str, sorted((signs / "test").iterdir())[:3])]
    assert rate(Predictor(finished_run / "0"), photos, least_s=0) > 0


def test_a_rate_counts_what_was_answered_after_a_first_batch(finished_run: Path, signs: Path) -> None:
    asked: list[int] = []
    times = iter(range(100))

    class Counting(Predictor):
        def __init__(self) -> None:
            pass

        def answered(self, images, names):  # type: ignore[no-untyped-def, override]
            asked.append(len(images))

    assert rate(Counting(), ["a.jpg", "b.jpg"], least_s=3, clock=lambda: float(next(times))) == 16 * 3 / 4
    assert asked == [16] * 4
