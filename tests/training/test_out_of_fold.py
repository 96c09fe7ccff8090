"""Out-of-fold predictions are what `engine infer` would have answered about the images that a fold never saw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.ensemble.ensemble import Ensemble
from engine.ensemble.specialist import Specialist
from engine.ensemble.vote import vote_of_fold
from engine.errors import EngineError, Interrupted
from engine.events import Watcher
from engine.metrics import evaluate
from engine.predict.job import prepare as prepare_answer
from engine.predict.models import Wishes
from engine.predict.run import answer
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.run_folder import RunFolder
from engine.training import out_of_fold
from engine.training.prepare import prepare
from engine.training.run import train
from engine.training.trainer import FoldTrainer

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")
RING, SQUARE, TRIANGLE = CLASSES = ("고리", "네모", "세모")
PAIR = {"name": "edges", "classes": [SQUARE, TRIANGLE]}


def held_out(folder: Path) -> LabelledPredictions:
    read = Predictions.read(folder / "oof.parquet")
    assert isinstance(read, LabelledPredictions)
    return read


def table_of(held: LabelledPredictions, shapes: Path, folder: Path) -> str:
    """A table of the images that these are about, in their order and under their ids."""
    path = folder / "held.csv"
    path.write_text("ID,img_path\n" + "".join(f"{i},{shapes / i}\n" for i in held.ids), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("vote", "train"), [("soft", {}), ("logit", {"keep_last": 2})], ids=["best epoch", "kept epochs, by logits"]
)
def test_they_are_to_the_last_bit_what_infer_answers_for_that_fold_with_the_recipes_views(
    recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path, vote: str, train: dict[str, Any]
) -> None:
    made = recipe(predict={"tta": 3, "batch": 8}, ensemble={"vote": vote}, train=train)
    result, _ = run(made)
    held = held_out(result.folder)
    data = table_of(held, shapes, tmp_path)
    alone = answer(prepare_answer(result.folder / "0", Wishes(data=data)), CPU).answers
    assert alone.ids == held.ids and alone.classes == held.classes
    np.testing.assert_array_equal(alone.probabilities_NC.astype(np.float32), held.probabilities_NC)
    assert result.metrics == evaluate(held).metrics

    plain = answer(prepare_answer(result.folder / "0", Wishes(data=data, views=1)), CPU).answers
    assert np.abs(plain.probabilities_NC - held.probabilities_NC).max() > 1e-4  # else this would show nothing
    about = Predictions.read_about(result.folder / "oof.parquet")
    assert about == {"views": ["plain", "plain_flip", "zoom_in"], "vote": vote}


def test_with_specialists_they_are_what_infer_answers_too(
    recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path
) -> None:
    result, _ = run(recipe(predict={"tta": 2, "batch": 8}, specialist=[PAIR, {"name": "is_ring", "classes": [RING]}]))
    held = held_out(result.folder)
    alone = answer(prepare_answer(result.folder / "0", Wishes(data=table_of(held, shapes, tmp_path))), CPU)
    assert sum(alone.asked.values()) > 0
    np.testing.assert_allclose(alone.answers.probabilities_NC, held.probabilities_NC, atol=1e-5)
    own = held_out(result.folder / "specialists" / "edges")
    assert own.ids == held.ids and own.classes == (SQUARE, TRIANGLE)


def test_the_best_epoch_is_still_found_by_one_plain_view(recipe: MakeRecipe, run: Run, tmp_path: Path) -> None:
    logs = []
    for name, views in (("one", 1), ("three", 3)):
        _, diary = run(recipe(output=str(tmp_path / name), predict={"tta": views}))
        logs.append([(record.metrics, record.best) for record in diary.records])
    assert logs[0] == logs[1]
    assert held_out(tmp_path / "one").ids == held_out(tmp_path / "three").ids


def test_they_are_made_again_when_the_recipe_predicts_otherwise_and_only_then(
    recipe: MakeRecipe, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = out_of_fold.ask

    def counted(*args: Any) -> Any:
        asked.append(args)
        return ask(*args)

    monkeypatch.setattr(out_of_fold, "ask", counted)
    first, _ = run(recipe())
    plain = held_out(first.folder)
    again, _ = run(recipe())
    assert again.already_finished and len(asked) == 1
    for changes in ({"predict": {"tta": 2}}, {"predict": {"tta": 2}, "ensemble": {"vote": "logit"}}):
        asked.clear()
        more, diary = run(recipe(**changes))
        assert more.already_finished and not diary.records and len(asked) == 1
        assert more.metrics != first.metrics
        assert Ensemble.load(first.folder / "ensemble.json") == Ensemble.of(recipe(**changes), ())
    (first.folder / "0" / "oof.parquet").write_text("broken")
    back, _ = run(recipe())
    assert back.metrics == first.metrics
    np.testing.assert_array_equal(held_out(first.folder).probabilities_NC, plain.probabilities_NC)


def test_a_run_that_was_killed_between_training_and_answering_goes_on_with_it(
    recipe: MakeRecipe, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def made(name: str) -> Recipe:
        return recipe(output=str(tmp_path / name), data={"folds": {"run": [0, 1]}}, train={"keep_last": 2})

    whole, _ = run(made("whole"))

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(out_of_fold, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            run(made("killed"))
    assert not list((tmp_path / "killed").rglob("oof.parquet"))
    _, diary = run(made("killed"))
    assert {record.fold for record in diary.records} == {1}  # fold 0 was trained
    paths = [path.relative_to(whole.folder) for path in whole.folder.rglob("oof.parquet")]
    assert len(paths) == 1 + 2 * 2
    for path in paths:
        assert (tmp_path / "killed" / path).read_bytes() == (whole.folder / path).read_bytes()


def test_a_stop_is_heard_after_a_fold_has_answered(recipe: MakeRecipe, run: Run) -> None:
    asked = recipe()
    answers = Path(asked.output) / "0" / "oof.parquet"
    with pytest.raises(Interrupted, match=r"stopped after fold 0 answered for what it held out; the same command"):
        run(asked, stop=answers.exists)
    _, diary = run(asked)
    assert not diary.records and not diary.answered


def test_a_stop_is_heard_while_a_fold_answers_and_it_trains_nothing_again(recipe: MakeRecipe, run: Run) -> None:
    asked = recipe(predict={"batch": 4})
    whole, diary = run(asked.model_copy(update={"output": asked.output + "_whole"}))
    calls = iter(range(100))
    with pytest.raises(Interrupted, match=r"stopped while fold 0 answered for what it held out; the same command"):
        run(asked, stop=lambda: next(calls) == 2 * 3 + 2)  # after each step, and each epoch
    own = RunFolder(Path(asked.output)).fold(0).members()[0]
    assert own.weights.is_file() and not own.out_of_fold.exists()
    stopped, again = run(asked)
    assert not again.records and again.answered == diary.answered and len(diary.answered) > 1
    assert diary.answered[-1] == (0, len(held_out(whole.folder)), len(held_out(whole.folder)))
    assert RunFolder(stopped.folder).out_of_fold.read_bytes() == RunFolder(whole.folder).out_of_fold.read_bytes()


def test_a_fold_that_is_trained_anew_answers_anew(recipe: MakeRecipe, run: Run) -> None:
    result, diary = run(recipe())
    shutil.rmtree(RunFolder(result.folder).fold(0).path)
    _, again = run(recipe())
    assert again.records and again.answered == diary.answered


def test_members_have_a_file_each_and_the_joined_file_is_their_vote(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe(data={"folds": {"run": [0, 1]}}, train={"keep_last": 2}))
    together = held_out(result.folder)
    at = 0
    for fold in (0, 1):
        members = RunFolder(result.folder).fold(fold).members()
        assert [member.name for member in members] == [f"{fold}/epoch_000", f"{fold}/epoch_001"]
        voted = vote_of_fold([held_out(member.path) for member in members])
        part = together.take(range(at, at + len(voted)))
        assert part.ids == voted.ids and set(part.fold_N) == {fold}
        np.testing.assert_array_equal(part.probabilities_NC, voted.probabilities_NC)
        at += len(voted)
    assert at == len(together)


def test_held_out_images_of_which_none_can_be_read_are_an_error_that_names_one(
    recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path
) -> None:
    prepared = prepare(recipe())
    train_fold = FoldTrainer.train

    def then_lost(self: FoldTrainer, *args: Any) -> None:
        train_fold(self, *args)
        lost = [str(tmp_path / "lost.jpg")] * len(prepared.ids)
        object.__setattr__(self.data.samples.source, "paths", lost)

    monkeypatch.setattr(FoldTrainer, "train", then_lost)
    with pytest.raises(EngineError, match=r"fold 0: none of its 24 held-out images could be read: .*lost\.jpg"):
        train(prepared, Ranks(0, 1, CPU), Watcher(), lambda: False)


def test_infer_answers_as_the_run_was_scored_without_being_told(recipe: MakeRecipe, run: Run, shapes: Path) -> None:
    run(recipe())
    result, _ = run(recipe(predict={"tta": 5, "views": "crops"}, ensemble={"vote": "logit"}))  # the checkpoint says 1
    saved = checkpoint.load(result.folder / "0").recipe
    assert saved["predict"]["tta"] == 1 and saved["ensemble"]["vote"] == "soft"
    for folder in (result.folder, result.folder / "0"):
        told = prepare_answer(folder, Wishes(data=str(shapes))).models.recipe
        assert (told.predict.tta, told.predict.views, told.ensemble.vote) == (5, "crops", "logit")
    asked = prepare_answer(
        result.folder, Wishes(data=str(shapes), vote="soft", sets=("predict.views=zooms", "predict.tta=2"))
    ).models.recipe
    assert (asked.predict.tta, asked.predict.views, asked.ensemble.vote) == (2, "zooms", "soft")
    names = ("turn_90", "plain_flip")
    named = prepare_answer(result.folder, Wishes(data=str(shapes), named=names)).models.recipe.predict
    assert (named.tta, named.names) == (2, names)
    (result.folder / "ensemble.json").unlink()
    assert prepare_answer(result.folder, Wishes(data=str(shapes))).models.recipe.predict.tta == 1
    run(recipe(predict={"specialists": False}, specialist=[PAIR]))
    ensemble = Ensemble.load(result.folder / "ensemble.json")
    assert ensemble is not None and ensemble.specialists == (Specialist("edges", (SQUARE, TRIANGLE)),)
    assert prepare_answer(result.folder, Wishes(data=str(shapes))).models.specialists == ()
    own = prepare_answer(result.folder, Wishes(data=str(shapes), sets=("predict.specialists=true",)))
    assert [one.specialist.name for one in own.models.specialists] == ["edges"]
    assert json.loads((result.folder / "ensemble.json").read_text("utf-8"))["format"] == 2
