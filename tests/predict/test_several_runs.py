"""Runs with other folds, sizes and views answer together, by weights that are given or fitted on what they answered out
of fold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from engine.cli.main import main
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.runs import fit_runs
from engine.ensemble.vote import vote
from engine.errors import DataError, RecipeError
from engine.predict.job import prepare
from engine.predict.models import Wishes, load_models
from engine.predict.predictor import Predictor
from engine.predict.run import answer
from engine.predictions import Predictions
from engine.recipe.load import parse_saved
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import RunFolder

CPU = torch.device("cpu")
CLASSES = ("가방", "모자", "신발")
FoldMaker = Callable[..., Checkpoint]
COUNT = 300
LABELS_N = np.random.default_rng(0).integers(0, 3, COUNT)


def out_of_fold(folder: Path, knows: float, classes: tuple[str, ...] = CLASSES, seed: int = 1) -> None:
    """Answers about samples of five folds, in any order, that know the truth so well."""
    random = np.random.default_rng(seed)
    p_NC = random.dirichlet([1.0] * 3, COUNT) * (1 - knows) + knows * np.eye(3)[LABELS_N]
    labels = [CLASSES[label] for label in LABELS_N]
    ids = tuple(f"photo_{i}" for i in range(COUNT))
    found = Predictions(ids, CLASSES, p_NC).labelled(labels, np.arange(COUNT) % 5)
    order = random.permutation(COUNT)
    found.take(order).in_order([ids[i] for i in order], classes).write(RunFolder(folder).out_of_fold)


@pytest.fixture
def runs(models: Path, photos: Path, fold: FoldMaker, tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that were never trained: one of two folds, and one of one fold that asks for two views."""
    other = tmp_path / "other"
    checkpoint.save(other / "0", fold(7, ("신발", "모자", "가방"), size=40, data=str(photos)))
    for run, tta in ((models, 1), (other, 2)):
        recipe = checkpoint.load(run / "0").recipe
        recipe["predict"]["tta"] = tta
        RunFolder(run).claim.write_text(json.dumps({"recipe": recipe}), "utf-8")
        Ensemble.of(parse_saved(recipe), ()).save(RunFolder(run).ensemble)
    out_of_fold(models, 0.2)
    out_of_fold(other, 0.6, ("신발", "가방", "모자"), seed=2)
    return models, other


def answers(folders: Path | list[Path], **wishes: object) -> Predictions:
    return answer(prepare(folders, Wishes(**wishes)), CPU).answers  # type: ignore[arg-type]


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_each_run_answers_by_its_own_steps_and_has_one_vote_or_as_many_as_are_given(runs: tuple[Path, Path]) -> None:
    one, other = runs
    alone = [answers(one), answers(other)]
    assert load_models([one, other], Wishes()).runs[1].recipe.predict.tta == 2
    for weights, folders in (((), [one, other]), ((1.0, 3.0), [one, other])):
        together = answers(folders, weights=weights)
        expected = vote(alone, "soft", weights or None)
        np.testing.assert_allclose(together.probabilities_NC, expected.probabilities_NC, atol=1e-6)
    with pytest.raises(RecipeError, match=r"--weights 1.0: expected 2 numbers"):
        load_models([one, other], Wishes(weights=(1.0,)))


def test_an_ensemble_of_runs_is_fitted_and_followed_without_being_told(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = runs
    both = tmp_path / "both"
    result = invoke("ensemble", one, other, "--out", both)
    assert result.exit_code == 0, result.output
    assert f"weights: {one}" in result.output and f"infer --folds {both}" in result.output
    ensemble = Ensemble.load(both / "ensemble.json")
    assert ensemble is not None and ensemble.runs == ("../models", "../other")
    join, calibration = ensemble.parts.join, ensemble.parts.calibration
    assert join is not None and join.weights[1] > 0.9
    scores = json.loads((both / "scores.json").read_text("utf-8"))
    assert scores["out_of_fold"]["log_loss"] < min(run["log_loss"] for run in scores["runs"].values())

    expected = join.apply([answers(one), answers(other)])
    expected = expected if calibration is None else calibration.apply(expected)
    together = answers(both)
    np.testing.assert_allclose(together.probabilities_NC, expected.probabilities_NC, atol=1e-6)
    photo = prepare(both, Wishes()).roll.rows(0, 1)["path"].to_pylist()
    np.testing.assert_allclose(Predictor(both)(photo).probabilities_NC, together.probabilities_NC[:1], atol=1e-6)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (one, other, both):
        path.rename(moved / path.name)
    monkeypatch.chdir(moved / "both")
    assert invoke("infer", "--folds", ".").exit_code == 0
    assert Path("predictions/predictions.parquet").is_file()


def test_sets_are_fitted_on_what_the_runs_say_together(runs: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both"
    with pytest.raises(RecipeError, match=r"make an ensemble of them \(engine ensemble RUN RUN"):
        load_models([*runs], Wishes(sets=("predict.risk=0.1",)))
    fit_runs(runs, both, ("predict.risk=0.1", "ensemble.calibrate=off", "ensemble.stack=logistic"))
    assert load_models(both, Wishes()).hedges.risk is not None
    result = invoke("infer", "--folds", both, "--set", "predict.abstain_accuracy=0.9")
    assert result.exit_code == 0, result.output
    import pyarrow.parquet as pq

    table = pq.read_table(both / "predictions" / "predictions.parquet")
    assert {"set", "abstain"} <= set(table.column_names)


def test_runs_that_do_not_match_are_refused_by_what_does_not(
    runs: tuple[Path, Path], tmp_path: Path, photos: Path, fold: FoldMaker
) -> None:
    one, other = runs
    found = Predictions.read(RunFolder(other).out_of_fold)
    found.take(range(COUNT - 1)).write(RunFolder(other).out_of_fold)
    with pytest.raises(DataError, match=rf"{other} and {one} do not answer the same question: .*sample ids.*photo_"):
        fit_runs(runs, tmp_path / "both")
    RunFolder(other).out_of_fold.unlink()
    with pytest.raises(DataError, match=r"oof.parquet: no such file; finish `engine train`"):
        fit_runs(runs, tmp_path / "both")
    checkpoint.save(other / "0", fold(2, ("가방", "모자", "우산"), data=str(photos)))
    with pytest.raises(DataError, match=r"different classes \('신발', '우산'\)"):
        load_models([one, other], Wishes())
    out_of_fold(other, 0.5)
    with pytest.raises(RecipeError, match=r"train.ema=0.5: nothing is trained anew"):
        fit_runs(runs, tmp_path / "both", ("train.ema=0.5",))
    wrong = invoke("infer", "--folds", one, "--folds", other)
    assert wrong.exit_code == 2 and "several --folds need --out" in wrong.output


def test_expected_class_shares_move_answers(models: Path) -> None:
    plain = answers(models)
    given = answers(models, sets=('predict.prior={"가방"=1, "모자"=1, "신발"=8}',))
    assert (given.probabilities_NC[:, 2] > plain.in_order(plain.ids, given.classes).probabilities_NC[:, 2]).all()
    estimated = answers(models, sets=("predict.prior=estimate",))
    assert np.abs(estimated.probabilities_NC - plain.probabilities_NC).max() > 1e-3
    np.testing.assert_allclose(estimated.probabilities_NC.sum(1), 1)
    with pytest.raises(RecipeError, match=r"predict.prior: there is no share for '신발'"):
        load_models(models, Wishes(sets=('predict.prior={"가방"=1, "모자"=1}',)))
    with pytest.raises(RecipeError, match=r"predict.prior: '우산': no class of the models"):
        load_models(models, Wishes(sets=('predict.prior={"가방"=1, "모자"=1, "신발"=1, "우산"=1}',)))
    with pytest.raises(RecipeError, match=r"photos are answered as they come"):
        Predictor(models, sets=("predict.prior=estimate",))
