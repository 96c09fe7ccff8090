"""A run as its user sees it: it learns, remembers what it was trained with, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from engine.data.ingest import ingest
from engine.errors import DataError, EngineError, RecipeError
from engine.events import EpochEnded, Event, Watcher
from engine.metrics import log_loss
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store.epochs import EpochAnswers
from engine.store.run_folder import RunFolder
from engine.training.prepare import prepare
from engine.training.run import refuse_second, train

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_a_run_learns(recipe: MakeRecipe, run: Run, make_stage: Stage) -> None:
    result, diary = run(recipe(stage=[make_stage(epochs=14, lr=4e-3)]))
    assert result.metrics["log_loss"] < 0.5 * result.baseline_log_loss
    losses = [record.train_loss for record in diary.records]
    assert losses[-1] < 0.5 * losses[0]


def test_out_of_fold_predictions_cover_every_sample_once(recipe: MakeRecipe, run: Run, shapes: Path) -> None:
    made = recipe(data={"folds": {"count": 3, "run": []}}, stage=[{"size": 32, "batch": 8, "epochs": 1, "lr": 1e-3}])
    result, _ = run(made)
    table = pq.read_table(result.folder / "oof.parquet").to_pydict()
    manifest = ingest(str(shapes), made.data)
    assert Counter(table["id"]) == Counter(manifest.ids)
    assert dict(zip(table["id"], table["label"], strict=True)) == dict(zip(manifest.ids, manifest.labels, strict=True))
    assert Counter(table["fold"]) == {0: 16, 1: 16, 2: 16}
    classes = sorted(set(manifest.labels))
    probabilities_NC = np.stack([table[f"p:{name}"] for name in classes], axis=1)
    labels_N = np.array([classes.index(label) for label in table["label"]])
    assert result.metrics["log_loss"] == log_loss(probabilities_NC, labels_N)
    for fold in range(3):
        alone = pq.read_table(result.folder / str(fold) / "oof.parquet").to_pydict()
        assert set(alone["fold"]) == {fold}
        assert alone["id"] == [i for i, f in zip(table["id"], table["fold"], strict=True) if f == fold]


def test_only_the_folds_that_were_trained_are_scored(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe(data={"folds": {"count": 4, "run": [2]}}))
    assert set(pq.read_table(result.folder / "oof.parquet")["fold"].to_pylist()) == {2}
    assert [member.name for member in RunFolder(result.folder).members()] == ["2"]


def test_the_log_and_the_watcher_say_the_same(recipe: MakeRecipe, run: Run, make_stage: Stage) -> None:
    made = recipe(stage=[make_stage(), make_stage(size=(40, 32), epochs=1)])
    result, diary = run(made)
    lines = log_lines(result.folder)
    assert [(line["stage"], line["epoch"], line["size"]) for line in lines] == [
        (0, 0, [32, 32]),
        (0, 1, [32, 32]),
        (1, 2, [40, 32]),
    ]
    assert [line["metrics"] for line in lines] == [record.metrics for record in diary.records]
    assert {line["images"] for line in lines} == {24}
    (begun,) = diary.begun
    assert begun == (0, diary.images, 0, 0)  # what was announced is what was counted
    scores = json.loads((result.folder / "scores.json").read_text("utf-8"))
    assert scores["out_of_fold"] == result.metrics
    kept = EpochAnswers.read(RunFolder(result.folder).fold(0).epoch_answers)  # what each epoch's scores were made of
    table = pq.read_table(result.folder / "oof.parquet").to_pydict()
    labels = dict(zip(table["id"], table["label"], strict=True))
    right_E = (kept.best_NE == np.array([[kept.classes.index(labels[id_])] for id_ in kept.ids])).mean(0)
    assert kept.epochs == (0, 1, 2)
    assert right_E.tolist() == [record.metrics["accuracy"] for record in diary.records]
    losses = [record.metrics["log_loss"] for record in diary.records]
    np.testing.assert_allclose(-np.log(kept.own_NE).mean(0), losses, rtol=1e-5)


def test_a_finished_run_says_so_and_changes_nothing_it_learnt(recipe: MakeRecipe, run: Run) -> None:
    first, _ = run(recipe())
    before = files(first.folder)
    again, diary = run(recipe())
    assert not first.already_finished and again.already_finished
    assert again.metrics == first.metrics
    assert not diary.records
    assert files(first.folder) == before


def test_keys_that_do_not_touch_learning_may_change(recipe: MakeRecipe, run: Run) -> None:
    first, _ = run(recipe())
    again, diary = run(recipe(name="another", predict={"tta": 5}, decode={"prefetch": 3}))
    assert again.already_finished and not diary.records
    more, diary = run(recipe(data={"folds": {"run": [0, 1]}}))
    assert {record.fold for record in diary.records} == {1}
    assert more.folder == first.folder and len(pq.read_table(more.folder / "oof.parquet")) == 48


def test_another_recipe_in_the_same_folder_is_refused_by_its_keys(
    recipe: MakeRecipe, run: Run, make_stage: Stage
) -> None:
    result, _ = run(recipe())
    before = files(result.folder)
    with pytest.raises(RecipeError) as error:
        run(recipe(train={"ema": 0.9}, stage=[make_stage(lr=1e-3)]))
    for words in ("train.ema: 0.0 -> 0.9", "stage.0.lr: 0.003 -> 0.001", "--set output=", "--overwrite"):
        assert words in str(error.value)
    assert "seed" not in str(error.value)
    assert files(result.folder) == before


def test_other_data_in_the_same_folder_are_refused_and_what_changed_is_said(
    recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path
) -> None:
    run(recipe())
    other = tmp_path / "other"
    shutil.copytree(shapes, other)
    rings, squares, triangles = (sorted(path.iterdir()) for path in sorted(other.iterdir()))
    rings[0].unlink()
    squares[0].rename(triangles[0].with_name("new.jpg"))
    Image.new("RGB", (40, 40), (1, 2, 3)).save(triangles[3])
    with pytest.raises(RecipeError) as caught:
        run(recipe(data={"train": str(other)}))
    said = str(caught.value)
    assert "the training data (files, labels or contents): 1 more (" in said and "new.jpg)" in said
    assert "2 less (" in said and f"1 with other contents ({triangles[3].parent.name}/{triangles[3].name})" in said


def test_labels_and_folds_that_changed_are_said(recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path) -> None:
    names = sorted(str(path.relative_to(shapes)) for path in shapes.rglob("*.jpg"))
    table = tmp_path / "train.csv"

    def write(relabelled: int = -1, moved: int = -1) -> None:
        rows = ["path,label,part\n"]
        for i, name in enumerate(names):
            label = "other" if i == relabelled else name.partition("/")[0]
            rows.append(f"{name},{label},{(i + (i == moved)) % 2}\n")
        table.write_text("".join(rows), "utf-8")

    made = recipe(data={"train": str(table), "images": str(shapes), "fold_column": "part"})
    write()
    run(made)
    write(moved=5)
    with pytest.raises(RecipeError, match=rf"the division of the images into folds: 1 in another fold \({names[5]}\)"):
        run(made)
    write(relabelled=1)
    with pytest.raises(RecipeError, match=rf"1 with another label \({names[1]}\)"):
        run(made)


def test_data_and_weights_that_were_moved_or_are_spelt_otherwise_are_the_same(
    recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, weights = tmp_path / "here", tmp_path / "there", tmp_path / "start.safetensors"
    shutil.copytree(shapes, here)
    start, _ = run(recipe(output=str(tmp_path / "start"), data={"train": str(here)}))
    shutil.copy(start.folder / "0" / "weights.safetensors", weights)
    noise = tmp_path / "noise.txt"
    noise.write_text("# none\n")
    data = {"train": str(here), "exclude_file": str(noise)}
    run(recipe(data=data, model={"weights": str(weights)}))
    here.rename(there)
    noise.rename(tmp_path / "moved.txt")
    weights.rename(tmp_path / "moved.safetensors")
    monkeypatch.chdir(tmp_path)
    data = {"train": "there/", "exclude_file": "moved.txt", "folds": {"run": [0, 1]}}
    more, diary = run(recipe(output="models/", data=data, model={"weights": "moved.safetensors"}))
    assert {record.fold for record in diary.records} == {1} and more.folds == (0, 1)
    (said,) = [notice for notice in diary.notices if notice.startswith("going on with")]
    assert f'data.train: "{here}" -> "there/"' in said and "model.weights: " in said and "output" not in said
    weights.with_name("moved.safetensors").write_bytes(b"other weights")
    with pytest.raises(RecipeError, match=r"the contents of model\.weights"):
        run(recipe(output="models", data=data, model={"weights": "moved.safetensors"}))
    weights.with_name("moved.safetensors").unlink()  # whose folds are finished needs them no more
    again, _ = run(recipe(output="models", data=data, model={"weights": "moved.safetensors"}))
    assert again.already_finished


def test_a_second_run_in_the_folder_is_refused_and_touches_nothing(recipe: MakeRecipe, run: Run) -> None:
    folder = Path(recipe().output)

    epochs = []

    class Second(Watcher):
        def hear(self, event: Event) -> None:
            if isinstance(event, EpochEnded):
                before = files(folder)
                for options in ({}, {"overwrite": True}):
                    with pytest.raises(
                        EngineError, match=rf"models: a run is going on there, process {os.getpid()} on "
                    ):
                        run(recipe(), **options)
                with pytest.raises(EngineError, match="a run is going on there"):
                    refuse_second(recipe())
                assert files(folder) == before
                epochs.append(event.record.epoch)

    train(prepare(recipe()), Ranks(0, 1, torch.device("cpu")), Second(), lambda: False)
    assert epochs == [0, 1]
    assert not (folder / "running.json").exists()


def test_a_fold_that_was_copied_without_its_state_is_finished_and_others_are_trained(
    recipe: MakeRecipe, run: Run
) -> None:
    first, _ = run(recipe(train={"keep_last": 1}))
    fold = RunFolder(first.folder).fold(0)
    weights = fold.weights.read_bytes()
    for path in (fold.resume, RunFolder(first.folder).claim, RunFolder(first.folder).log, fold.epoch(1).out_of_fold):
        path.unlink()
    both, diary = run(recipe(train={"keep_last": 1}, data={"folds": {"run": [0, 1]}}))
    assert {record.fold for record in diary.records} == {1}
    assert fold.weights.read_bytes() == weights
    assert [fold for fold, *_ in diary.answered][:1] == [0]  # its out-of-fold answers are made again
    assert both.folds == (0, 1)


def test_models_that_nobody_knows_the_end_of_are_never_trained_over(recipe: MakeRecipe, run: Run) -> None:
    done, _ = run(recipe(data={"folds": {"run": [1]}}))
    fold = RunFolder(done.folder).fold(1)
    fold.resume.unlink()
    content = json.loads(fold.checkpoint.read_text("utf-8"))
    assert content.pop("finished") is True
    fold.checkpoint.write_text(json.dumps(content), "utf-8")  # as an older engine wrote it, or not the last epoch
    before = files(done.folder)
    with pytest.raises(EngineError, match=r"1 holds a part of a trained fold: resume\.pt is missing.*--overwrite"):
        run(recipe(data={"folds": {"run": [0, 1]}}))
    assert files(done.folder) == before  # fold 0 was not begun either
    _, diary = run(recipe(data={"folds": {"run": [1]}}), overwrite=True)
    assert len(diary.records) == 2


def test_a_fold_of_another_run_is_refused_by_what_its_model_says(recipe: MakeRecipe, run: Run) -> None:
    done, _ = run(recipe())
    RunFolder(done.folder).claim.unlink()
    fold = RunFolder(done.folder).fold(0)
    content = json.loads(fold.checkpoint.read_text("utf-8"))
    content["recipe"]["seed"] = 4
    fold.checkpoint.write_text(json.dumps(content), "utf-8")
    with pytest.raises(RecipeError, match=r"0 holds a model that differs in seed: 4 -> 3\. Move .* away"):
        run(recipe())


def test_overwrite_removes_the_run_and_nothing_else(recipe: MakeRecipe, run: Run) -> None:
    result, _ = run(recipe(data={"folds": {"run": [0, 1]}}))
    own = {"notes.txt": "mine", "1/notes.txt": "mine too", "predictions/predictions.parquet": "kept"}
    for name, text in own.items():
        (result.folder / name).parent.mkdir(exist_ok=True)
        (result.folder / name).write_text(text)
    again, diary = run(recipe(train={"weight_decay": 0.1}), overwrite=True)
    assert not again.already_finished and len(diary.records) == 2
    assert {name: (result.folder / name).read_text() for name in own} == own
    assert len(log_lines(result.folder)) == 2
    assert [member.name for member in RunFolder(result.folder).members()] == ["0"]


def test_a_bad_image_is_set_aside_and_the_run_goes_on(
    recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(shapes, damaged)
    made = recipe(data={"train": str(damaged), "check": "header", "folds": {"run": [0, 1]}})
    manifest = ingest(str(damaged), made.data)
    # After indexing, so that only decoding can find it: the size and the header stay what they were.
    bad = Path(manifest.paths[5])
    content = bad.read_bytes()
    stat = bad.stat()
    bad.write_bytes(content[:200] + b"\0" * (len(content) - 200))
    os.utime(bad, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result, diary = run(made)
    about = [entry for entry in diary.bad_files if str(bad) in entry]
    assert len(about) == 2  # each fold meets it
    answered = pq.read_table(result.folder / "oof.parquet")["id"].to_pylist()
    assert set(answered) == set(manifest.ids) - {manifest.ids[5]}
    assert {record.images for record in diary.records} == {24}


def test_a_file_that_was_unreadable_at_indexing_is_named(
    recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(shapes, damaged)
    (damaged / "고리" / "empty.jpg").write_bytes(b"")
    _, diary = run(recipe(data={"train": str(damaged)}))
    (notice,) = [n for n in diary.notices if "empty.jpg" in n]
    assert notice.startswith("left out: ")


def test_a_fold_without_a_readable_image_is_an_error_that_names_them(
    recipe: MakeRecipe, run: Run, shapes: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(shapes, gone)
    prepared = prepare(recipe(data={"train": str(gone)}))
    shutil.rmtree(gone)
    with pytest.raises(EngineError, match=r"no training image could be read.*cannot be read"):
        train(prepared, Ranks(0, 1, torch.device("cpu")), Watcher(), lambda: False)


def test_no_training_data_is_an_error_about_the_key(recipe: MakeRecipe, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.train is not set"):
        run(recipe(data={"train": ""}))
    with pytest.raises((DataError, RecipeError), match="nowhere"):
        run(recipe(data={"train": str(tmp_path / "nowhere")}))


def test_impossible_recipes_are_refused_before_anything_is_written(
    recipe: MakeRecipe, run: Run, make_stage: Stage, tmp_path: Path
) -> None:
    for changes, words in (
        ({"data": {"folds": {"count": 17}}}, "17 folds"),
        ({"model": {"backbone": "convnext_tinny"}}, "nearest"),
        ({"stage": [make_stage(margin=0.1)]}, "arcface"),
        ({"model": {"backbone": "vgg11"}, "stage": [make_stage(drop_path=0.1)]}, "stochastic depth"),
    ):
        with pytest.raises(RecipeError, match=words):
            run(recipe(**changes))
    assert not (tmp_path / "models").exists()
