"""Specialists in prediction: found beside the models, heard fold by fold, left out when asked to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from engine.augment.views import tta_views
from engine.cli.main import main
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.specialist import Specialist
from engine.ensemble.vote import blend, vote
from engine.errors import CheckpointError, DataError
from engine.inference.members import Members, Output
from engine.loader.source import Files
from engine.loader.stream import ImageStream
from engine.predict.job import Job, prepare
from engine.predict.models import Wishes
from engine.predict.outcome import Outcome
from engine.predict.run import answer
from engine.predictions import Predictions
from engine.recipe.load import parse_saved
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import RunFolder

CPU = torch.device("cpu")
BAG, HAT, SHOE = CLASSES = ("가방", "모자", "신발")
PAIR = Specialist("pair", (BAG, HAT))
YES_NO = Specialist("is_shoe", (SHOE,), 0.7)
FoldMaker = Callable[..., Checkpoint]


def add(models: Path, fold: FoldMaker, *specialists: Specialist, folds: tuple[str, ...] = ("0", "1")) -> None:
    for number, one in enumerate(specialists):
        for name in folds:
            saved = fold(10 + 2 * number + int(name), one.answers, size=48, counts=(1, 1))
            checkpoint.save(RunFolder(models).specialist(one.name).path / name, saved)
    listed(models, *specialists)


def listed(models: Path, *specialists: Specialist) -> None:
    recipe = parse_saved(checkpoint.load(models / "0").recipe)
    Ensemble.of(recipe, specialists).save(RunFolder(models).ensemble)


def alone(folder: Path, job: Job, rule: str = "soft", views: int = 1) -> Predictions:
    """What one checkpoint answers to the job's images, by the predictor alone."""
    saved = checkpoint.load(folder)
    (decoded,) = ImageStream(Files(job.roll.column("path")), [np.arange(len(job.roll))], job.models.recipe.decode, CPU)
    (logits_VNC,) = Members.restored([saved], CPU, tta_views(views)).logits(decoded.images)
    p_NC = blend(logits_VNC.double().softmax(2).numpy(), rule)  # type: ignore[arg-type]
    return Predictions(tuple(job.roll.ids), saved.classes, p_NC)


def answered(models: Path, rule: str = "soft", **wishes: object) -> Outcome:
    return answer(prepare(models, Wishes(vote=rule, **wishes)), CPU)  # type: ignore[arg-type]


def infer(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["infer", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.mark.parametrize(("rule", "views"), [("logit", 1), ("soft", 3)])
def test_each_folds_specialist_is_heard_before_the_folds_vote(
    models: Path, fold: FoldMaker, rule: str, views: int
) -> None:
    add(models, fold, PAIR, YES_NO)
    outcome = answered(models, rule, views=views, batch=3)
    job = prepare(models, Wishes())
    folds = []
    for name in ("0", "1"):
        now = alone(models / name, job, rule, views)
        for one in (PAIR, YES_NO):
            now = one.heard(now, alone(RunFolder(models).specialist(one.name).path / name, job, rule, views))
        folds.append(now)
    expected = vote(folds, rule)  # type: ignore[arg-type]
    np.testing.assert_allclose(outcome.answers.probabilities_NC, expected.probabilities_NC, atol=1e-5)
    plain = answered(models, rule, views=views, sets=("predict.specialists=false",))
    assert np.abs(plain.answers.probabilities_NC - expected.probabilities_NC).max() > 0.05
    assert set(outcome.asked) == {"pair", "is_shoe"} and not plain.asked
    for name in ("0", "1"):  # a fold alone is heard by its own specialist alone
        one_fold = answered(models / name, rule, views=views).answers
        np.testing.assert_allclose(one_fold.probabilities_NC, folds[int(name)].probabilities_NC, atol=1e-5)


def test_only_images_that_it_is_asked_about_go_through_a_specialist(
    models: Path, fold: FoldMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(models, Wishes())
    folds = [alone(models / name, job) for name in ("0", "1")]
    asked = {}
    for name in CLASSES:
        by_fold = [Specialist("one", (name,)).asked(now.probabilities_NC, now.classes) for now in folds]
        asked[name] = int(np.any(by_fold, axis=0).sum())
    rare = min((name for name in CLASSES if asked[name]), key=asked.__getitem__)
    assert asked[rare] < 10
    add(models, fold, Specialist("one", (rare,)))
    seen = []
    outputs = Members.outputs_of_pixels

    def counted(self: Members, pixels_BCHW: torch.Tensor, *more: object) -> list[Output]:
        if len(self[0].classes) == 2:
            seen.append(len(pixels_BCHW))
        return outputs(self, pixels_BCHW, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Members, "outputs_of_pixels", counted)
    assert answered(models, batch=4).asked == {"one": asked[rare]} == {"one": sum(seen)}


def test_kept_epochs_are_one_model_when_a_specialist_hears_them(models: Path, fold: FoldMaker, photos: Path) -> None:
    for epoch in (3, 4):
        checkpoint.save(models / "0" / f"epoch_00{epoch}", fold(20 + epoch, data=str(photos)))
        checkpoint.save(
            RunFolder(models).specialist("pair").fold(0).epoch(epoch).path,
            fold(30 + epoch, PAIR.answers, counts=(1, 1)),
        )
    before = answered(models).answers
    add(models, fold, PAIR)
    job = prepare(models, Wishes())

    def epochs(folder: Path) -> Predictions:
        return vote([alone(folder / f"epoch_00{epoch}", job) for epoch in (3, 4)])

    first = PAIR.heard(epochs(models / "0"), epochs(RunFolder(models).specialist("pair").fold(0).path))
    second = PAIR.heard(alone(models / "1", job), alone(RunFolder(models).specialist("pair").fold(1).path, job))
    # Three checkpoints voted before, and two of them are fold 0.
    expected = vote([first, second], weights=[2, 1])
    np.testing.assert_allclose(answered(models).answers.probabilities_NC, expected.probabilities_NC, atol=1e-5)
    plain = answered(models, sets=("predict.specialists=false",)).answers
    np.testing.assert_array_equal(plain.probabilities_NC, before.probabilities_NC)


def test_images_that_cannot_be_seen_keep_the_class_shares(models: Path, fold: FoldMaker, photos: Path) -> None:
    add(models, fold, PAIR)
    (photos / "TEST_00003.jpg").write_text("no picture")
    outcome = answered(models, batch=4)
    assert [row for row, status in enumerate(outcome.status) if status != "ok"] == [3]
    assert outcome.answers.classes[0] == BAG  # the most frequent class, about which the specialist would be asked
    np.testing.assert_allclose(outcome.answers.probabilities_NC[3], [0.6, 0.3, 0.1])


def test_a_copied_folder_is_all_that_is_needed_and_scores_are_with_and_without(
    models: Path, fold: FoldMaker, photos: Path, tmp_path: Path
) -> None:
    add(models, fold, PAIR)
    copied = tmp_path / "elsewhere"
    shutil.copytree(models, copied)
    shutil.rmtree(models)
    truth = tmp_path / "labels.csv"
    truth.write_text("ID,label\n" + "".join(f"TEST_{i:05d},{CLASSES[i % 3]}\n" for i in range(10)), encoding="utf-8")
    result = infer("--folds", copied, "--truth", truth)
    assert result.exit_code == 0, result.output
    assert "pair was asked about" in result.output and "without specialists" in result.output
    scores = json.loads((copied / "predictions" / "scores.json").read_text("utf-8"))
    plain = infer(
        "--folds", copied, "--truth", truth, "--set", "predict.specialists=false", "--out", tmp_path / "plain"
    )
    assert plain.exit_code == 0 and "asked" not in plain.output and "without specialists" not in plain.output
    without = json.loads((tmp_path / "plain" / "scores.json").read_text("utf-8"))
    assert scores["without_specialists"] == pytest.approx(without["together"], abs=1e-6)
    assert scores["together"]["log_loss"] != pytest.approx(without["together"]["log_loss"], abs=1e-3)
    assert without["without_specialists"] == {}
    assert scores["alone"]["1"] == pytest.approx(without["alone"]["1"])


def test_a_specialist_that_is_not_listed_is_not_asked(models: Path, fold: FoldMaker) -> None:
    add(models, fold, PAIR)
    listed(models)
    assert prepare(models, Wishes()).models.specialists == ()


def test_the_models_may_be_named_from_inside(models: Path, fold: FoldMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    add(models, fold, PAIR)
    monkeypatch.chdir(models / "1")
    (found,) = prepare(Path(), Wishes()).models.specialists
    assert len(found.folds) == 1 and found.specialist == PAIR


def test_what_is_missing_or_of_another_training_is_named(models: Path, fold: FoldMaker) -> None:
    add(models, fold, PAIR, folds=("0",))
    with pytest.raises(CheckpointError, match=r"pair cannot answer for fold 1: .*predict\.specialists=false"):
        prepare(models, Wishes())
    assert prepare(models / "0", Wishes()).models.specialists  # fold 0 has its own
    assert prepare(models, Wishes(sets=("predict.specialists=false",))).models.specialists == ()

    add(models, fold, PAIR)
    checkpoint.save(RunFolder(models).specialist("pair").fold(1).path, fold(0, (BAG, SHOE), counts=(1, 1)))
    with pytest.raises(DataError, match="specialist pair is to answer '가방', '모자': it is of another training"):
        prepare(models, Wishes())

    listed(models, Specialist("pair", (BAG, "우산")))
    with pytest.raises(DataError, match=r"knows classes that the models do not [(]'우산'[)]"):
        prepare(models, Wishes())
