"""`engine infer`: from fold models and images to files, joined by id, with nothing dropped and nothing half-written."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from engine.augment.views import View, crop_views, tta_views, view_named
from engine.cli.main import main
from engine.ensemble.vote import RULES, Rule, blend, vote
from engine.errors import DataError, RecipeError
from engine.inference.members import Members
from engine.metrics import log_loss
from engine.predict.job import prepare
from engine.predict.models import Wishes
from engine.predict.outcome import Outcome
from engine.predict.run import answer
from engine.predict.writing import write
from engine.predictions import LabelledPredictions, Predictions
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint

CPU = torch.device("cpu")
CLASSES = ("가방", "모자", "신발")
FoldMaker = Callable[..., Checkpoint]


def infer(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["infer", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def answered(models: Path, **wishes: object) -> Outcome:
    return answer(prepare(models, Wishes(**wishes)), CPU)  # type: ignore[arg-type]


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def table_of(photos: Path, order: list[int]) -> Path:
    """A table that lists the photos in this order, under ids of its own."""
    path = photos.parent / f"test_{len(order)}_{order[0]}.csv"
    lines = "".join(f"id-{i},photos/TEST_{i:05d}.jpg\n" for i in order)
    path.write_text("ID,img_path\n" + lines, encoding="utf-8")
    return path


def test_answers_belong_to_ids_whatever_order_the_images_come_in(models: Path, photos: Path) -> None:
    straight = answered(models, data=str(table_of(photos, list(range(10)))), batch=4)
    shuffled = answered(models, data=str(table_of(photos, [7, 2, 9, 0, 4, 1, 8, 3, 6, 5])), batch=3)
    assert shuffled.answers.ids != straight.answers.ids
    again = shuffled.answers.in_order(straight.answers.ids, straight.answers.classes)
    np.testing.assert_allclose(again.probabilities_NC, straight.answers.probabilities_NC, atol=1e-4)
    assert np.ptp(straight.answers.probabilities_NC, axis=0).max() > 0.1  # images do not all get the same answer


@pytest.mark.parametrize("rule", RULES)
def test_folds_together_are_the_vote_of_the_folds_alone(models: Path, rule: str) -> None:
    together, *alone = (
        answer(prepare(folder, Wishes(vote=rule)), CPU).answers  # type: ignore[arg-type]
        for folder in (models, models / "0", models / "1")
    )
    assert alone[0].classes != alone[1].classes
    np.testing.assert_allclose(together.probabilities_NC, vote(alone, rule).probabilities_NC, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "wishes", "views"),
    [
        ("soft", Wishes(views=3), tta_views(3)),
        ("logit", Wishes(views=3), tta_views(3)),
        ("soft", Wishes(views=5, sets=("predict.views=crops",)), crop_views(5)),
        ("soft", Wishes(sets=("predict.views=crops", "predict.tta=10")), crop_views(10)),
        (
            "soft",
            Wishes(named=("turn_90", "scale_1.5", "plain")),
            tuple(map(view_named, ("turn_90", "scale_1.5", "plain"))),
        ),
        ("soft", Wishes(named=("scale_1.25",)), (view_named("scale_1.25"),)),
    ],
)
def test_views_are_averaged_by_the_same_rule(models: Path, rule: Rule, wishes: Wishes, views: tuple[View, ...]) -> None:
    job = prepare(models / "0", dataclasses.replace(wishes, vote=rule))
    voted_NC = answer(job, CPU).answers.probabilities_NC
    members = Members.restored(job.models.checkpoints, CPU, views)
    from engine.loader.source import Files
    from engine.loader.stream import ImageStream

    (decoded,) = ImageStream(Files(job.roll.column("path")), [np.arange(10)], job.models.recipe.decode, CPU)
    views_VNC = members.logits(decoded.images)[0].double().softmax(2).numpy()
    np.testing.assert_allclose(voted_NC, blend(views_VNC, rule), atol=1e-4)
    plain_NC = Members.restored(job.models.checkpoints, CPU).logits(decoded.images)[0][0].softmax(1).numpy()
    assert np.abs(voted_NC - plain_NC).max() > 0.01


def test_crops_come_in_fives(models: Path) -> None:
    with pytest.raises(RecipeError, match="5 or 10"):
        prepare(models, Wishes(views=3, sets=("predict.views=crops",)))


def test_the_command_writes_predictions_and_a_submission(models: Path, photos: Path) -> None:
    result = infer("--tta", 5, "--folds", models)
    assert result.exit_code == 0, result.output
    out = models / "predictions"
    assert sorted(path.name for path in out.iterdir()) == ["predictions.parquet", "submission.csv"]
    assert str(out / "submission.csv") in result.output
    lines = read_csv(out / "submission.csv")
    assert lines[0] == ["id", "label", *CLASSES]
    assert [line[0] for line in lines[1:]] == [f"TEST_{i:05d}.jpg" for i in range(10)]
    predictions = Predictions.read(out / "predictions.parquet")
    assert predictions.ids == tuple(line[0] for line in lines[1:]) and type(predictions) is Predictions
    table = pq.read_table(out / "predictions.parquet")
    assert table.column_names == ["id", "path", "prediction", "confidence", "status", *(f"p:{c}" for c in CLASSES)]
    assert table["path"].to_pylist() == [str(photos / i) for i in predictions.ids]
    assert table["prediction"].to_pylist() == [line[1] for line in lines[1:]] == predictions.answers
    np.testing.assert_array_equal(table["confidence"], predictions.probabilities_NC.max(1))
    np.testing.assert_allclose(
        predictions.probabilities_NC, [[float(p) for p in line[2:]] for line in lines[1:]], atol=1e-6
    )
    plain = answered(models, views=1).answers.probabilities_NC
    assert np.abs(predictions.probabilities_NC - plain).max() > 0.01


def test_the_sample_submission_shapes_the_submission(models: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample_submission.csv"
    ids = [f"TEST_{i:05d}" for i in (3, 1, 2)]
    sample.write_text("ID,신발,가방,모자\n" + "".join(f"{i},0,0,0\n" for i in ids), encoding="utf-8")
    result = infer("--folds", models, "--out", tmp_path / "out", "--set", f"data.sample_submission={sample}")
    assert result.exit_code == 0, result.output
    assert "7 images are not asked for" in result.output
    lines = read_csv(tmp_path / "out" / "submission.csv")
    assert [line[0] for line in lines] == ["ID", *ids]
    assert lines[0] == ["ID", "신발", "가방", "모자"]
    predictions = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert float(lines[1][1]) == pytest.approx(predictions[3]["p:신발"], abs=1e-6)


def test_an_id_with_dots_gets_its_own_answer_and_not_that_of_the_picture_beside_it(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    names = ("P1", "P1.left", "P2", "P2.left", "1.2.826.0.1.1000", "1.2.826.0.1.1001")
    for number, name in enumerate(names):
        (photos / f"TEST_{number:05d}.jpg").rename(photos / f"{name}.jpg")
    sample = tmp_path / "sample.csv"
    asked = ("P2.left", "1.2.826.0.1.1001", "P1.left", "P1")
    sample.write_text("id,가방,모자,신발\n" + "".join(f"{name},0,0,0\n" for name in asked), encoding="utf-8")
    job = prepare(models, Wishes(sets=(f"data.sample_submission={sample}",)))
    outcome = answer(job, CPU)
    write(job, outcome, tmp_path / "out")
    answers = outcome.answers.to_pandas()
    for line in read_csv(tmp_path / "out" / "submission.csv")[1:]:
        expected = answers.loc[f"{line[0]}.jpg", ["가방", "모자", "신발"]].tolist()
        assert [float(cell) for cell in line[1:]] == pytest.approx(expected, abs=1e-6)
    (photos / "P1.png").write_bytes((photos / "P2.jpg").read_bytes())
    with pytest.raises(DataError, match=r"sample.csv: 'P1' may be any of 2 images: 'P1.jpg', 'P1.png'"):
        prepare(models, Wishes(sets=(f"data.sample_submission={sample}",)))


def test_the_recipes_sample_submission_is_not_that_of_other_images(
    fold: FoldMaker, photos: Path, tmp_path: Path
) -> None:
    one = fold(0, data="gone")
    recipe = {**one.recipe, "data": {**one.recipe["data"], "sample_submission": "gone.csv"}}
    checkpoint.save(tmp_path / "m", Checkpoint(**{**vars(one), "recipe": recipe}))
    assert prepare(tmp_path / "m", Wishes(data=str(photos))).sheet.columns[:2] == ("id", "label")
    with pytest.raises(DataError, match=r"other\.csv"):
        prepare(tmp_path / "m", Wishes(data=str(photos), sets=("data.sample_submission=other.csv",)))


def test_images_that_cannot_be_seen_are_answered_with_the_class_shares_and_named(models: Path, photos: Path) -> None:
    whole = answered(models).answers
    (photos / "TEST_00003.jpg").write_text("no picture")
    (photos / "TEST_00004.jpg").write_bytes(b"")
    content = (photos / "TEST_00005.jpg").read_bytes()
    (photos / "TEST_00005.jpg").write_bytes(content[: len(content) // 3])
    result = infer("--folds", models, "--batch", 4)
    assert result.exit_code == 0, result.output
    assert "3 images could not be seen" in result.output
    table = pq.read_table(models / "predictions" / "predictions.parquet").to_pylist()
    assert [row["id"] for row in table] == list(whole.ids)
    bad = [row for row in table if row["status"] != "ok"]
    assert [row["id"] for row in bad] == [f"TEST_{i:05d}.jpg" for i in (3, 4, 5)]
    for row in bad:
        assert [row[f"p:{name}"] for name in CLASSES] == pytest.approx([0.6, 0.3, 0.1])
        assert row["id"] in result.output
    good_N = [row for row in range(10) if row not in (3, 4, 5)]
    seen_NC = Predictions.read(models / "predictions" / "predictions.parquet").probabilities_NC
    np.testing.assert_allclose(seen_NC[good_N], whole.probabilities_NC[good_N], atol=1e-4)
    assert len(read_csv(models / "predictions" / "submission.csv")) == 11


def test_nothing_is_written_when_no_image_can_be_seen(models: Path, photos: Path) -> None:
    for path in photos.glob("*.jpg"):
        path.write_text("no picture")
    result = infer("--folds", models)
    assert result.exit_code == 1
    assert "TEST_00000.jpg" in result.output
    assert not (models / "predictions").exists()


def test_labelled_images_are_scored_beside_the_class_shares(models: Path, photos: Path, tmp_path: Path) -> None:
    labels = ["가방", "모자", "신발", "가방", "가방", "신발", "모자", "가방", "우산", "가방"]
    for i, label in enumerate(labels):
        (tmp_path / "valid" / label).mkdir(parents=True, exist_ok=True)
        (photos / f"TEST_{i:05d}.jpg").rename(tmp_path / "valid" / label / f"{i}.jpg")
    result = infer("--folds", models, "--data", tmp_path / "valid")
    assert result.exit_code == 0, result.output
    assert "우산" in result.output
    out = models / "predictions"
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert (scores["images"], scores["unknown"]) == (9, ["우산"])
    sure = scores["intervals"]["log_loss"]
    assert sure["low"] < sure["value"] == scores["together"]["log_loss"] < sure["high"]
    assert 0 < scores["chance_calibration_error"] < 1

    predictions = Predictions.read(out / "predictions.parquet")
    assert isinstance(predictions, LabelledPredictions)
    assert predictions.labels == tuple(sample_id.partition("/")[0] for sample_id in predictions.ids)
    known = [row for row, sample_id in enumerate(predictions.ids) if not sample_id.startswith("우산")]
    truth_N = np.array([CLASSES.index(predictions.ids[row].partition("/")[0]) for row in known])
    assert scores["together"]["log_loss"] == pytest.approx(
        log_loss(predictions.probabilities_NC[known], truth_N), abs=1e-5
    )
    shares_NC = np.tile([0.6, 0.3, 0.1], (9, 1))
    assert scores["baseline"]["log_loss"] == pytest.approx(log_loss(shares_NC, truth_N))
    assert scores["baseline"]["accuracy"] == pytest.approx(5 / 9)
    alone_NC = answered(models / "1", data=str(tmp_path / "valid")).answers.in_order(predictions.ids, CLASSES)
    assert scores["alone"]["1"]["log_loss"] == pytest.approx(
        log_loss(alone_NC.probabilities_NC[known], truth_N), abs=1e-4
    )

    assert infer("--folds", models, "--data", photos.parent / "valid" / "가방", "--out", out).exit_code == 0
    assert not (out / "scores.json").exists()  # those images have no labels


def test_labels_may_come_from_a_table_of_their_own(models: Path, photos: Path, tmp_path: Path) -> None:
    truth = tmp_path / "labels.csv"
    truth.write_text("ID,label\nTEST_00007,모자\nTEST_00002,가방\nTEST_99999,신발\n", encoding="utf-8")
    outcome = answered(models, truth=str(truth))
    assert outcome.scores is not None and outcome.scores.images == 2
    likelihood = outcome.answers.in_order(outcome.answers.ids, CLASSES).probabilities_NC[[7, 2], [1, 0]]
    assert outcome.scores.together["log_loss"] == pytest.approx(-np.log(likelihood).mean())
    assert answered(models).scores is None

    for content, message in (
        ("ID,label\na,모자\n", "none of its ids is an image's: 'a'"),
        ("ID,label\na,모자\na,신발\n", "more than once: 'a'"),
        ("ID,name\na,모자\n", "no column label"),
    ):
        truth.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            prepare(models, Wishes(truth=str(truth)))
    with pytest.raises(DataError, match="no such table"):
        prepare(models, Wishes(truth="none.csv"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({0: "A", 2: "B"}, "not scored: none of its labels is a class of the models: A, B; they know 가방, 모자, 신발"),
        ({0: "모자", 2: "B"}, "scored on 1 image; 1 more have labels that are no class of the models: B"),
        ({0: "", 2: ""}, "not scored: the labels of all its images are empty"),
        ({0: "모자"}, "has no label for 9 of 10 images: 'TEST_00001.jpg'"),
        ({0: "모자", 99: "모자"}, "1 of its 2 ids are no image's: 'TEST_00099'"),
    ],
)
def test_what_a_truth_table_cannot_score_is_told(
    models: Path, photos: Path, tmp_path: Path, rows: dict[int, str], told: str
) -> None:
    truth = tmp_path / "labels.csv"
    truth.write_text("ID,label\n" + "".join(f"TEST_{i:05d},{label}\n" for i, label in rows.items()), encoding="utf-8")
    notices = prepare(models, Wishes(truth=str(truth))).notices
    assert any(told in notice for notice in notices), notices
    assert all(notice.startswith(f"{truth}: ") for notice in notices)


def test_a_truth_table_without_a_class_of_the_models_is_told_to_the_user(models: Path, tmp_path: Path) -> None:
    truth = tmp_path / "labels.csv"
    truth.write_text("ID,label\nTEST_00001,bag\n", encoding="utf-8")
    result = infer("--folds", models, "--truth", truth)
    assert result.exit_code == 0
    assert "not scored: none of its labels is a class of the models: bag; they know 가방, 모자, 신발" in result.stderr
    named = infer("--folds", models, "--truth", truth, "--set", 'data.label_names=[["bag","가방"]]')
    assert "1 labelled images" in named.stdout and "not scored" not in named.stderr


def test_the_class_of_a_column_of_probabilities_can_be_named(models: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,target\nTEST_00003,0.5\nTEST_00001,0.5\n", encoding="utf-8")
    sets = (f"data.sample_submission={sample}", "predict.positive_class=모자")
    job = prepare(models, Wishes(sets=sets))
    assert job.sheet.contents == ("모자",) and "'모자'" in job.notices[0]
    with pytest.raises(
        RecipeError, match=r"predict\.positive_class = '모자x': is no class of the models; nearest: '모자'"
    ):
        prepare(models, Wishes(sets=(sets[0], "predict.positive_class=모자x")))
    with pytest.raises(DataError, match="not of which of the 3 classes"):
        prepare(models, Wishes(sets=sets[:1]))


def test_what_was_there_stays_when_prediction_is_interrupted(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert infer("--folds", models).exit_code == 0

    def there() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (models / "predictions").iterdir() if path.is_file()}

    before = there()
    outputs, batches = Members.outputs, []

    def interrupted(self: Members, images: object, *more: object) -> object:
        batches.append(images)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return outputs(self, images, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Members, "outputs", interrupted)
    assert infer("--folds", models, "--batch", 3, "--tta", 2).exit_code == 3
    assert len(batches) == 2
    assert there() == before


def test_models_of_other_classes_do_not_answer_together(models: Path, fold: FoldMaker) -> None:
    checkpoint.save(models / "2", fold(2, ("가방", "모자", "우산")))
    with pytest.raises(DataError, match=r"different classes \('신발', '우산'\)"):
        prepare(models, Wishes())


@pytest.mark.parametrize(
    "change",
    ["stage.0.size=64", "model.dropout=0.5", "augment.valid.fit=stretch", "seed=1", "decode.background=[0,0,0]"],
)
def test_a_trained_model_is_not_changed(models: Path, change: str) -> None:
    with pytest.raises(RecipeError, match="used as it was trained"):
        prepare(models, Wishes(sets=(change,)))


def test_predict_decode_and_executor_may_be_changed(models: Path) -> None:
    changes = ("predict.tta=2", "predict.batch=3", "decode.threads=1", "augment.executor=reference")
    recipe = prepare(models, Wishes(sets=changes)).models.recipe
    assert (recipe.predict.tta, recipe.predict.batch, recipe.decode.threads) == (2, 3, 1)
    assert recipe.augment.executor == "reference"
    assert prepare(models, Wishes(views=4, sets=changes)).models.recipe.predict.tta == 4  # the option is nearer at hand


def test_images_must_be_named_somewhere(tmp_path: Path, fold: FoldMaker) -> None:
    checkpoint.save(tmp_path / "0", fold(0))
    result = infer("--folds", tmp_path)
    assert result.exit_code == 2
    assert "--data" in result.output


def test_without_a_model_the_folder_is_named(tmp_path: Path) -> None:
    result = infer("--folds", tmp_path / "none")
    assert result.exit_code == 1
    assert str(tmp_path / "none") in result.output


def test_answers_for_turned_photos_are_those_of_the_upright_ones(
    models: Path, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    upright = Image.fromarray(picture(5, 64, 48))
    for folder, image, orientation in (("a", upright, 1), ("b", upright.transpose(Image.Transpose.ROTATE_90), 6)):
        (tmp_path / folder).mkdir()
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / folder / "0.jpg", quality=100, subsampling=0, exif=exif)
    straight, turned = (answered(models, data=str(tmp_path / folder)).answers for folder in ("a", "b"))
    assert isinstance(straight, Predictions)
    np.testing.assert_allclose(turned.probabilities_NC, straight.probabilities_NC, atol=0.02)
