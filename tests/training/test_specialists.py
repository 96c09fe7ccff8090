"""Specialists: trained on the same folds, measured on all that they are asked about, resumed like the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.ensemble.ensemble import Ensemble
from engine.ensemble.specialist import Specialist
from engine.errors import DataError, EngineError, Interrupted, RecipeError
from engine.metrics import evaluate, log_loss
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.run_folder import RunFolder
from engine.training.prepare import Prepared, prepare
from engine.training.trainer import FoldTrainer

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]

RING, SQUARE, TRIANGLE = CLASSES = ("고리", "네모", "세모")
PAIR = {"name": "edges", "classes": [TRIANGLE, SQUARE]}  # not in the main model's order
YES_NO = {"name": "is_ring", "classes": [RING]}
CLOCKS = ("train_seconds", "valid_seconds", "images", "images_per_second", "waited")
BOTH = {"folds": {"run": [0, 1]}}


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for what the clock said."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".safetensors", ".parquet"):
            found[name] = path.read_bytes()
        elif path.name == "log.jsonl":
            found[name] = [{k: v for k, v in line.items() if k not in CLOCKS} for line in log_lines(path.parent)]
    return found


def listed(folder: Path) -> tuple[Specialist, ...]:
    ensemble = Ensemble.load(RunFolder(folder).ensemble)
    assert ensemble is not None
    return ensemble.specialists


def by_id(path: Path, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    values_NC = np.stack([table[f"p:{name}"].to_numpy() for name in columns], axis=1)
    return dict(zip(table["id"].to_pylist(), values_NC, strict=True))


# -- what it is trained on


def rows_of(prepared: Prepared, rows: np.ndarray, classes: tuple[str, ...]) -> list[int]:
    return [row for row in rows.tolist() if prepared.manifest.labels[row] in classes]


def test_a_specialist_of_several_classes_has_their_images_of_the_main_fold(recipe: MakeRecipe) -> None:
    prepared = prepare(recipe(data=BOTH, specialist=[PAIR]))
    (course,) = prepared.courses
    for fold in (0, 1):
        main = prepared.fold_data(fold)
        data = course.fold_data(main)
        assert data.classes == [SQUARE, TRIANGLE]
        assert data.train_rows_N.tolist() == rows_of(prepared, main.train_rows_N, (SQUARE, TRIANGLE))
        assert data.held_rows_N.tolist() == rows_of(prepared, main.held_rows_N, (SQUARE, TRIANGLE))
        assert len(data.train_rows_N) == len(data.held_rows_N) == 16
        for row in (*data.train_rows_N, *data.held_rows_N):
            assert data.classes[data.samples.labels_N[row]] == prepared.manifest.labels[row]


def test_a_specialist_of_one_class_has_all_images_and_two_answers(recipe: MakeRecipe) -> None:
    prepared = prepare(recipe(specialist=[YES_NO]))
    main = prepared.fold_data(0)
    data = prepared.courses[0].fold_data(main)
    assert data.classes == [RING, f"not {RING}"]
    assert data.train_rows_N.tolist() == main.train_rows_N.tolist()
    assert data.held_rows_N.tolist() == main.held_rows_N.tolist()
    assert [data.samples.labels_N[row] == 0 for row in range(48)] == [n == RING for n in prepared.manifest.labels]


def test_its_sections_are_its_own_where_given_and_the_recipes_elsewhere(recipe: MakeRecipe, make_stage: Stage) -> None:
    own = {"model": {"dropout": 0.3}, "train": {"ema": 0.5}, "stage": [make_stage(size=40)]}
    made = recipe(train={"weight_decay": 0.01}, specialist=[PAIR, YES_NO | own])
    plain, other = (course.recipe for course in prepare(made).courses)
    assert (plain.model, plain.train, plain.stage) == (made.model, made.train, made.stage)
    assert (other.model.dropout, other.model.backbone, other.model.pretrained) == (0.3, "test_convnext", False)
    assert (other.train.ema, other.train.weight_decay) == (0.5, 0.01)
    assert other.stage[0].size == (40, 40) and other.augment == made.augment
    assert not plain.specialist and not other.specialist


def test_classes_go_by_all_their_names(recipe: MakeRecipe) -> None:
    names = {"label_names": [["네모", "square"]], "aliases": [["ring", "고리"]]}
    made = recipe(data=names, specialist=[{"name": "a", "classes": ["네모", "고리"]}])
    assert prepare(made).courses[0].specialist.classes == ("ring", "square")
    same = recipe(data=names, specialist=[{"name": "a", "classes": ["ring", "고리"]}])
    with pytest.raises(RecipeError, match=r"specialist a: classes: ring, 고리 are names of the same class"):
        prepare(same)


# -- what comes out


def test_a_specialist_that_knows_more_makes_the_answers_better(recipe: MakeRecipe, run: Run, make_stage: Stage) -> None:
    """The main model hardly learns; a specialist of its classes does."""
    knowing = {"name": "all", "classes": list(CLASSES), "stage": [make_stage(epochs=14, lr=4e-3)]}
    made = recipe(stage=[make_stage(epochs=1, lr=1e-5)], specialist=[knowing])
    result, _ = run(made)
    (effect,) = result.effects
    assert effect.asked == effect.images == 24
    assert effect.after["log_loss"] < 0.6 * effect.before["log_loss"]
    assert effect.after["accuracy"] > effect.before["accuracy"]
    assert result.metrics["log_loss"] == pytest.approx(effect.after["log_loss"])
    assert result.main["log_loss"] == pytest.approx(effect.before["log_loss"])


@pytest.mark.parametrize("blend", [1.0, 0.4])
def test_the_scores_are_those_of_the_rule_on_all_that_it_is_asked(recipe: MakeRecipe, run: Run, blend: float) -> None:
    result, _ = run(recipe(data=BOTH, specialist=[PAIR | {"blend": blend}, YES_NO]))
    folder = result.folder
    main = by_id(folder / "0" / "oof.parquet", CLASSES) | by_id(folder / "1" / "oof.parquet", CLASSES)
    final = by_id(folder / "oof.parquet", CLASSES)
    truth = {i: CLASSES.index(i.split("/")[0]) for i in main}
    assert len(main) == 48 and set(final) == set(main)

    now, asked_of_others = main, 0
    for one, effect in zip(listed(folder), result.effects, strict=True):
        own = by_id(RunFolder(folder).specialist(one.name).out_of_fold, one.answers)
        assert set(own) == set(main)  # it may be asked about any of them
        after, asked, right_before, right_after = {}, 0, set(), set()
        for id_, p_C in now.items():
            after[id_] = p_C
            if CLASSES[p_C.argmax()] in one.classes:
                asked += 1
                asked_of_others += CLASSES[truth[id_]] not in one.classes
                after[id_] = one.joined(p_C[None], CLASSES, np.array([0]), own[id_][None])[0]
            right_before |= {id_} if p_C.argmax() == truth[id_] else set()
            right_after |= {id_} if after[id_].argmax() == truth[id_] else set()
        assert (effect.asked, effect.images) == (asked, 48)
        assert effect.wrong_to_right == len(right_after - right_before)
        assert effect.right_to_wrong == len(right_before - right_after)
        assert effect.before["accuracy"] == len(right_before) / 48
        now = after
    assert asked_of_others  # else this would show nothing
    for id_, p_C in now.items():
        np.testing.assert_array_equal(final[id_], p_C)
    expected = log_loss(np.stack(list(now.values())), np.array([truth[i] for i in now]))
    assert result.metrics["log_loss"] == pytest.approx(expected)
    scores = json.loads((folder / "scores.json").read_text("utf-8"))
    assert scores["out_of_fold"] == result.metrics and scores["main"] == result.main
    assert [s["name"] for s in scores["specialists"]] == ["edges", "is_ring"]
    assert scores["specialists"][0]["before"]["log_loss"] == pytest.approx(scores["main"]["log_loss"])


def test_its_answers_are_those_of_its_checkpoint_about_all_that_the_main_fold_holds_out(
    recipe: MakeRecipe, run: Run
) -> None:
    """About its own images what its trainer scored, whatever the epoch that was best."""
    result, _ = run(recipe(specialist=[PAIR | {"train": {"ema": 0.8}}]))
    fold = RunFolder(result.folder).specialist("edges").fold(0)
    answered = Predictions.read(fold.out_of_fold)
    assert isinstance(answered, LabelledPredictions)
    assert len(answered) == 24 and set(answered.labels) == set(CLASSES)
    saved = checkpoint.load(fold.path)
    assert answered.classes == saved.classes == (SQUARE, TRIANGLE) and saved.class_counts == (8, 8)
    assert len(answered.known) == 16
    assert evaluate(answered).metrics == pytest.approx(saved.metrics, abs=1e-5)


def test_kept_epochs_answer_together(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe(specialist=[PAIR | {"train": {"keep_last": 2}}]))
    fold = RunFolder(result.folder).specialist("edges").fold(0)
    epochs = [by_id(fold.epoch(n).out_of_fold, (SQUARE, TRIANGLE)) for n in (0, 1)]
    assert not fold.out_of_fold.exists()
    answered = by_id(RunFolder(result.folder).specialist("edges").out_of_fold, (SQUARE, TRIANGLE))
    for id_ in epochs[0]:
        np.testing.assert_allclose(answered[id_], (epochs[0][id_] + epochs[1][id_]) / 2, atol=1e-5)


def test_the_main_model_is_what_it_is_without_specialists(recipe: MakeRecipe, run: Run, tmp_path: Path) -> None:
    alone, _ = run(recipe(output=str(tmp_path / "alone")))
    beside, _ = run(recipe(output=str(tmp_path / "beside"), specialist=[PAIR]))
    assert beside.main == alone.metrics
    for name in ("0/weights.safetensors", "0/oof.parquet"):
        assert (beside.folder / name).read_bytes() == (alone.folder / name).read_bytes()
    assert "specialists" not in json.loads((alone.folder / "scores.json").read_text("utf-8"))
    assert not (alone.folder / "specialists").exists()
    assert [member.name for member in RunFolder(beside.folder).members()] == ["0"]


def test_with_prediction_to_leave_them_out_the_score_is_the_main_models(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe(specialist=[PAIR], predict={"specialists": False}))
    assert result.metrics == result.main and result.effects
    assert (result.folder / "oof.parquet").read_bytes() == (result.folder / "0" / "oof.parquet").read_bytes()


def test_nothing_is_scored_when_nothing_is_held_out(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe(data={"folds": {"count": 1, "run": []}}, specialist=[PAIR]))
    assert result.metrics == {} and result.effects == ()
    assert checkpoint.load(RunFolder(result.folder).specialist("edges").fold(0).path).class_counts == (16, 16)
    assert [one.name for one in listed(result.folder)] == ["edges"]


# -- stopping, going on, beginning again


def test_stopping_anywhere_changes_no_bit_and_no_log_is_mixed(
    recipe: MakeRecipe, run: Run, make_stage: Stage, tmp_path: Path
) -> None:
    def made(name: str) -> Recipe:
        longer = PAIR | {"stage": [make_stage()]}
        stage, output = [make_stage(epochs=1)], str(tmp_path / name)
        return recipe(output=output, train={"ema": 0.9}, stage=stage, specialist=[longer])

    whole, diary = run(made("whole"))
    pieces, finished = 0, False
    while not finished:
        pieces += 1
        try:
            run(made("pieces"), stop=lambda: True)
            finished = True
        except Interrupted:
            assert not RunFolder(tmp_path / "pieces").ensemble.exists()  # infer must not ask half a specialist
    # A stop after each step and each epoch, one after what each fold answers, and the last piece.
    assert pieces == (3 + 1) + 1 + 2 * (2 + 1) + 1 + 1
    assert outcome(tmp_path / "pieces") == outcome(whole.folder)
    assert {line["specialist"] for line in log_lines(whole.folder)} == {""}
    own = log_lines(RunFolder(whole.folder).specialist("edges").path)
    assert [(line["specialist"], line["fold"], line["epoch"]) for line in own] == [("edges", 0, 0), ("edges", 0, 1)]
    assert [record.specialist for record in diary.records] == ["", "edges", "edges"]


def test_an_interruption_names_the_specialist(recipe: MakeRecipe, run: Run) -> None:
    questions = iter(range(100))
    with pytest.raises(Interrupted, match=r"specialist edges: stopped in fold 0, epoch 1, after step 1; the same comm"):
        run(recipe(specialist=[PAIR]), stop=lambda: next(questions) == 9)  # the main fold asks nine times


def test_a_finished_run_says_so_and_a_new_specialist_is_all_that_is_trained(recipe: MakeRecipe, run: Run) -> None:
    first, _ = run(recipe(specialist=[PAIR]))
    before = outcome(first.folder)
    again, diary = run(recipe(specialist=[PAIR]))
    assert again.already_finished and not diary.records and outcome(first.folder) == before
    more, diary = run(recipe(specialist=[YES_NO, PAIR]))
    assert not more.already_finished
    assert {record.specialist for record in diary.records} == {"is_ring"}
    assert [one.name for one in listed(first.folder)] == ["is_ring", "edges"]
    none, diary = run(recipe())
    assert not diary.records and none.metrics == first.main
    assert listed(first.folder) == ()  # and infer asks none


def test_the_share_may_change_after_training(recipe: MakeRecipe, run: Run) -> None:
    first, _ = run(recipe(specialist=[PAIR]))
    none, diary = run(recipe(specialist=[PAIR | {"blend": 0.0}]))
    assert none.already_finished and not diary.records
    assert none.metrics == first.main != first.metrics
    assert listed(first.folder) == (Specialist("edges", (SQUARE, TRIANGLE), 0.0),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": [RING, SQUARE]}, "classes.0"),
        ({"train": {"ema": 0.5}}, r"train\.ema: 0\.0 -> 0\.5"),
    ],
)
def test_another_specialist_of_the_name_is_refused(
    recipe: MakeRecipe, run: Run, change: dict[str, Any], words: str
) -> None:
    result, _ = run(recipe(specialist=[PAIR]))
    before = outcome(result.folder)
    with pytest.raises(RecipeError, match=rf"specialists/edges holds a run that differs in {words}.*another name, or"):
        run(recipe(specialist=[PAIR | change]))
    assert outcome(result.folder) == before


def test_a_run_from_before_there_were_specialists_may_get_one(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe())
    path = result.folder / "run.json"
    content = json.loads(path.read_text("utf-8"))
    del content["recipe"]["specialist"], content["recipe"]["predict"]["specialists"]
    path.write_text(json.dumps(content), "utf-8")
    _, diary = run(recipe(specialist=[PAIR]))
    assert {record.specialist for record in diary.records} == {"edges"}


def test_overwrite_removes_specialists_and_nothing_else(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe(specialist=[PAIR, YES_NO]))
    note = RunFolder(result.folder).specialist("edges").path / "notes.txt"
    note.write_text("mine")
    run(recipe(seed=4), overwrite=True)
    inside = result.folder / "specialists"
    left = {str(path.relative_to(inside)) for path in inside.rglob("*")}
    assert left == {"edges", "edges/notes.txt"}


# -- what cannot be trained


@pytest.mark.parametrize(
    ("specialist", "words"),
    [
        ({"name": "x", "classes": ["고 리"]}, r"specialist x: classes: there is no class '고 리'; nearest: '고리'"),
        (PAIR | {"model": {"backbone": "test_convnexx"}}, r"specialist edges: .*test_convnext"),
        (PAIR | {"train": {"optimizer": "adamx"}}, r"specialist edges: .*adam"),
        (PAIR | {"train": {"sampling": {"boost_classes": ["네"]}}}, r"specialist edges: .*boost_classes"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    recipe: MakeRecipe, tmp_path: Path, specialist: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        prepare(recipe(specialist=[specialist]))
    assert not (tmp_path / "models").exists()


def test_a_fold_without_images_to_learn_or_score_a_class_is_named(
    recipe: MakeRecipe, shapes: Path, tmp_path: Path
) -> None:
    """A table of folds by which only rings are ever held out."""
    rows = [(f"{name}/{name}_{i:02d}.jpg", name, i % 2 if name == RING else -1) for name in CLASSES for i in range(16)]
    table = tmp_path / "table.csv"
    table.write_text("path,label,fold\n" + "".join(f"{p},{n},{f}\n" for p, n, f in rows), "utf-8")
    made = recipe(
        data={"train": str(table), "images": str(shapes), "fold_column": "fold", "folds": {"run": [0]}},
        specialist=[PAIR],
    )
    with pytest.raises(DataError, match=rf"specialist edges: fold 0 holds out no image of {SQUARE}, {TRIANGLE}"):
        prepare(made)


def test_a_specialist_that_diverges_says_who_and_what_to_remove(
    recipe: MakeRecipe, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = FoldTrainer.train

    def diverging(self: FoldTrainer, *args: Any) -> None:
        if len(self.data.classes) == 2:
            raise EngineError("the loss is nan")
        train(self, *args)

    monkeypatch.setattr(FoldTrainer, "train", diverging)
    with pytest.raises(EngineError, match=r"specialist edges: the loss is nan\. .*remove .*specialists/edges$"):
        run(recipe(specialist=[PAIR]))
