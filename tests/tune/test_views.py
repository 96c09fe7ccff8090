"""Which views help is found on what each fold held out, judged by images that did not choose, and taken where it is
better."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from engine.augment.views import VIEWS
from engine.cli.main import main
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.vote import RULES, Rule, blend, vote_of_fold
from engine.errors import CheckpointError, DataError, EngineError, Interrupted, RecipeError
from engine.events import Event, HeldOutAnswered, Watcher
from engine.metrics import log_loss
from engine.predictions import LabelledPredictions, Predictions, joined
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import RunFolder
from engine.training.prepare import prepare
from engine.training.run import train
from engine.tune.views import Measured, candidates, forward, measure, open_run, select, with_views

CLASSES = ("a", "b", "c")


def answers(logits_NC: np.ndarray, seed: int = 0) -> LabelledPredictions:
    """Of 300 samples in five folds, whose classes are 0, 1, 2, 0, ..."""
    count = len(logits_NC)
    p_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
    ids = tuple(f"{i}" for i in range(count))
    labels = [CLASSES[i % 3] for i in range(count)]
    return Predictions(ids, CLASSES, p_NC).labelled(labels, [i // 3 % 5 for i in range(count)])


def views_of_a_kind(noise: dict[str, float], shared: float = 1.0) -> dict[str, LabelledPredictions]:
    """Views that know the class, but for noise of their own and some that all share."""
    random = np.random.default_rng(5)
    true_NC = 2.0 * np.eye(3)[np.arange(300) % 3] + shared * random.normal(size=(300, 3))
    return {name: answers(true_NC + level * random.normal(size=(300, 3))) for name, level in noise.items()}


def measured(noise: dict[str, float], costs: dict[str, float] | None = None, rule: Rule = "soft") -> Measured:
    return Measured(views_of_a_kind(noise), dict.fromkeys(noise, 1.0) | (costs or {}), rule, 0.001)


def test_a_view_that_helps_is_taken_and_one_that_harms_is_not() -> None:
    one = measured({"plain": 1.5, "plain_flip": 1.5, "turn_90": 6.0})
    found = select(one, ["plain"])
    assert set(found.chosen) == {"plain", "plain_flip"}
    assert found.nested.verdict == "better" and found.is_taken
    by_name = {row.names: row.difference.verdict for row in (*found.alone, *found.added)}
    assert by_name["turn_90",] == by_name["plain", "turn_90"] == "worse" and by_name["plain", "plain_flip"] == "better"
    assert not select(one, ["plain_flip", "plain"]).is_taken  # which is what there is


def test_a_view_that_adds_nothing_of_its_own_does_not_pay() -> None:
    same = views_of_a_kind({"plain": 1.0})["plain"]
    one = Measured({"plain": same, "zoom_in": same}, {"plain": 1.0, "zoom_in": 1.0}, "soft", 0.001)
    found = select(one, ["plain"])
    assert found.chosen == ("plain",) and not found.is_taken
    assert found.nested.difference == 0 and found.nested.verdict == "not told apart"


def test_what_a_view_costs_is_weighed_against_what_it_gains() -> None:
    noise = {"plain": 1.5, "plain_flip": 1.5}
    cheap, dear = (measured(noise, {"plain_flip": cost}) for cost in (1.0, 500.0))
    assert len(select(cheap, ["plain"]).chosen) == 2 and len(select(dear, ["plain"]).chosen) == 1
    assert len(select(dear, ["plain"], worth=0).chosen) == 2
    assert select(dear, ["plain"]).added[0].cost == 501


def test_no_more_views_are_kept_than_asked_for_and_only_candidates() -> None:
    names = ["plain", "plain_flip", "zoom_in", "zoom_out", "closer"]
    one = measured(dict.fromkeys(names, 2.0))
    assert len(select(one, ["plain"], keep=3).chosen) == 3
    assert set(select(one, ["plain"], ["flip", "closer"]).chosen) == {"plain_flip", "closer"}


@pytest.mark.parametrize("rule", RULES)
def test_each_step_takes_the_view_with_which_the_loss_is_least(rule: Rule) -> None:
    """By trying them all, whatever the rule."""
    candidates = [*views_of_a_kind({"a": 1.0, "b": 1.2, "c": 2.0, "d": 1.1}).values()]
    found = forward(candidates, [1.0] * 4, rule, 4, 0.0)
    labels_N = candidates[0].labels_N

    def loss(places: list[int]) -> float:
        return log_loss(blend(np.stack([candidates[place].probabilities_NC for place in places]), rule), labels_N)

    for count in range(1, len(found)):
        others = [[*found[:count], place] for place in range(4) if place not in found[:count]]
        assert loss(found[: count + 1]) == pytest.approx(min(map(loss, others)), rel=1e-9)
        assert loss(found[: count + 1]) < loss(found[:count])


def test_the_score_of_a_selection_is_not_flattered_by_what_chose_it() -> None:
    """Twenty views of noise alone: the best of them looks better than the plain one, and is not called so."""
    random = np.random.default_rng(0)
    noise = {name: answers(random.normal(size=(300, 3))) for name in ("plain", *(f"view_{i}" for i in range(20)))}
    found = select(Measured(noise, dict.fromkeys(noise, 1.0), "soft", 0.001), ["plain"], keep=1)
    chosen = found.steps[-1].log_loss
    assert chosen < found.nested.second - 0.03 and not found.is_taken


# --- on a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, recipe_in: Callable[..., Recipe], ranks: Ranks
) -> tuple[Path, Recipe]:
    """Two folds, two kept epochs each. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = recipe_in(folder, "train.keep_last=2", "predict.tta=2", "predict.batch=4")
    train(prepare(recipe), ranks, Watcher(), lambda: False)
    return folder / "models", recipe


@pytest.fixture
def models(trained: tuple[Path, Recipe], tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(trained[0], tmp_path / "copied"))


def as_the_models_answered(models: Path) -> LabelledPredictions:
    """Out of fold, before anything is fitted: each fold's kept epochs together."""
    folds = [RunFolder(models).fold(fold) for fold in (0, 1)]
    read = [[Predictions.read(member.out_of_fold) for member in fold.members()] for fold in folds]
    return joined([vote_of_fold([one for one in own if isinstance(one, LabelledPredictions)]) for own in read])


def test_each_views_answers_are_those_that_the_run_has_of_it(models: Path, ranks: Ranks) -> None:
    """Blended, those of the run's own views are what its models answered out of fold."""
    prepared = open_run(models)
    found = measure(prepared, ["turn_90", "scale_1.25"], ranks, Watcher(), lambda: False)
    assert set(found.answers) == {"plain", "plain_flip", "turn_90", "scale_1.25"} and not found.left_out
    assert found.costs["scale_1.25"] == (40 / 32) ** 2 and found.seconds_each > 0
    saved = as_the_models_answered(models)
    now = found.of(prepared.recipe.predict.names).in_order(saved.ids, saved.classes)
    np.testing.assert_allclose(now.probabilities_NC, saved.probabilities_NC, atol=1e-6)
    assert found.answers["plain"].groups == () and set(found.answers["plain"].fold_N) == {0, 1}


def test_views_that_show_the_same_are_asked_once_and_those_that_cannot_be_shown_are_named(
    fold: Callable[..., Checkpoint],
) -> None:
    saved = fold(0, size=32)
    views, left_out = candidates([], ["plain"], [saved])
    same = f"fit_{saved.contract['fit']}"
    assert saved.contract["crop"] == 1 and left_out[same] == "shows these models what plain shows them"
    assert "stride is 32" in left_out["scale_0.75"]
    names = [view.name for view in views]
    assert not {same, "scale_0.75"} & {*names} and len(names) + len(left_out) == len(VIEWS)
    with pytest.raises(RecipeError, match=r"view scale_0\.75"):
        candidates(["scale_0.75"], ["plain"], [saved])
    closer = dataclasses.replace(saved, contract=saved.contract | {"fit": "center", "crop": 0.5})
    both, _ = candidates([same], ["plain"], [saved, closer])
    assert [view.name for view in both] == ["plain", same]  # it shows the second one something else


def test_a_list_that_is_taken_is_what_the_run_answers_with(models: Path, ranks: Ranks) -> None:
    names = ("turn_90", "plain")
    prepared = open_run(models)
    train(with_views(prepared, names), ranks, Watcher(), lambda: False)
    for path in (models / "oof.parquet", models / "0" / "epoch_001" / "oof.parquet"):
        assert Predictions.read_about(path)["views"] == ["turn_90", "plain"]
    ensemble = Ensemble.load(models / "ensemble.json")
    assert ensemble is not None and 'predict.views=["turn_90", "plain"]' in ensemble.sets
    assert open_run(models).recipe.predict.names == names
    found = measure(open_run(models), names, ranks, Watcher(), lambda: False)
    assert len(found.answers) == 2
    saved = as_the_models_answered(models)
    now = found.of(names).in_order(saved.ids, saved.classes)
    np.testing.assert_allclose(now.probabilities_NC, saved.probabilities_NC, atol=1e-6)


def test_ctrl_c_changes_nothing(models: Path, ranks: Ranks) -> None:
    before = {path: path.read_bytes() for path in models.rglob("*.json")}
    heard: list[Event] = []

    class Diary(Watcher):
        def hear(self, event: Event) -> None:
            heard.append(event)

    with pytest.raises(Interrupted, match="nothing was changed"):
        measure(open_run(models), ["plain"], ranks, Diary(), lambda: True)
    assert heard == [HeldOutAnswered(0, 4, 8)]
    assert {path: path.read_bytes() for path in models.rglob("*.json")} == before


def test_what_cannot_be_measured_is_refused_with_the_remedy(models: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match=r"none/run\.json is missing: .*Name its folder"):
        open_run(tmp_path / "none")
    with pytest.raises(DataError, match=r"copied: .*have to be where they were .*--set data\.train=.*gone"):
        open_run(models, ["data.train=gone"])
    path = models / "1" / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"finished": False}), encoding="utf-8")
    (models / "1" / "resume.pt").unlink(missing_ok=True)
    with pytest.raises(EngineError, match="1"):
        open_run(models)


def test_the_command_shows_its_tables_and_with_dry_run_changes_nothing(models: Path) -> None:
    before = {path: path.read_bytes() for path in models.rglob("*.json")}
    result = CliRunner().invoke(main, ["tta", str(models), "--dry-run", "--views", "plain,vflip", "--keep", "2"])
    assert result.exit_code == 0, result.output
    for words in (
        "each view alone, on 16 images",
        "plain and another one",
        "turn_180_flip",
        "what the run answers with",
    ):
        assert words in result.output
    assert {path: path.read_bytes() for path in models.rglob("*.json")} == before
    result = CliRunner().invoke(main, ["tta", str(models), "--views", "plain,upside_down"])
    assert result.exit_code == 2 and "there is no view 'upside_down'; nearest: " in result.output


def test_images_that_all_belong_together_cannot_judge_views() -> None:
    random = np.random.default_rng(0)
    answers = {
        name: Predictions(("1", "2", "3"), ("a", "b"), random.dirichlet([1, 1], 3)).labelled(
            ["a", "b", "a"], [0, 0, 0], ["one sender"] * 3
        )
        for name in ("plain", "plain_flip")
    }
    measured = Measured(answers, dict.fromkeys(answers, 1.0), "soft", 1.0)
    with pytest.raises(DataError, match=r"not chosen on: .*data\.folds\.run"):
        select(measured, ["plain"])
