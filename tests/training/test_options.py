"""What the options of a recipe do to a run, seen from its weights, its log and its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from engine.errors import EngineError, Interrupted, RecipeError
from engine.events import EpochEnded, EpochRecord, Event, Watcher
from engine.inference.members import Members
from engine.loader.batches import Loader
from engine.metrics import METRICS
from engine.model.losses import BinaryCrossEntropy, CrossEntropy, Focal, build_loss
from engine.predict.job import prepare as prepare_answer
from engine.predict.models import Wishes
from engine.predict.run import answer
from engine.predictions import Predictions
from engine.ranks import Ranks
from engine.recipe.sections import Metric, ModelSection, Recipe, TrainSection
from engine.store import checkpoint
from engine.store.run_folder import FoldFolder, RunFolder
from engine.training import trainer as fold_module
from engine.training.prepare import prepare
from engine.training.trainer import FoldTrainer

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]
Weights = dict[str, torch.Tensor]
ALONE = Ranks(0, 1, torch.device("cpu"))


class Story(Watcher):
    """A fold's training, with the weights before and after each epoch."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.trainer = FoldTrainer(recipe, 0, prepare(recipe).fold_data(0), FoldFolder(folder), ALONE)
        self.records: list[EpochRecord] = []
        self.before: list[Weights] = []
        self.after: list[Weights] = []
        self.scored: list[Weights] = []
        train_epoch = self.trainer._train_epoch

        def watched(*args: Any) -> Any:
            self.before.append(copied(self.trainer.learner.model))
            return train_epoch(*args)

        self.trainer._train_epoch = watched  # type: ignore[method-assign]

    def hear(self, event: Event) -> None:
        if not isinstance(event, EpochEnded):
            return
        self.records.append(event.record)
        self.after.append(copied(self.trainer.learner.model))
        self.scored.append(copied(self.trainer.learner.scored))


def told(recipe: Recipe, folder: Path) -> Story:
    story = Story(recipe, folder)
    story.trainer.train(story, lambda: False)
    return story


def copied(model: torch.nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: Weights, b: Weights, part: str = "") -> bool:
    return all(torch.equal(a[name], b[name]) for name in a if name.startswith(part))


def close(a: Weights, b: Weights) -> bool:
    return all(torch.allclose(a[name].float(), b[name].float(), atol=1e-5, rtol=1e-4) for name in a)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make validations score as told, log loss by log loss."""

    def script(*log_losses: float) -> None:
        scores: Iterator[dict[str, float]] = iter([{"log_loss": value, "accuracy": 1 - value} for value in log_losses])
        monkeypatch.setattr(fold_module, "score", lambda *_: next(scores))

    return script


# --- steps -----------------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_large_batch(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path) -> None:
    def weights(name: str, **stage: int) -> Story:
        made = recipe(stage=[make_stage(**stage)], train={"optimizer": "sgd", "clip": 0.5, "ema": 0.5})
        return told(made, tmp_path / name)

    large, small = weights("large", batch=12), weights("small", batch=4, accumulate=3)
    assert close(large.after[-1], small.after[-1]) and not same(large.after[-1], large.before[0])
    assert close(large.scored[-1], small.scored[-1])
    assert [r.images for r in small.records] == [r.images for r in large.records] == [24, 24]
    for one, other in zip(large.records, small.records, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("section", "rule"),
    [
        ({}, CrossEntropy),
        ({"label_smoothing": 0.1}, CrossEntropy),
        ({"loss": "focal", "focal_gamma": 1.5}, Focal),
        ({"loss": "bce", "label_smoothing": 0.1}, BinaryCrossEntropy),
    ],
)
def test_the_loss_is_the_one_that_is_named(section: dict[str, Any], rule: type) -> None:
    loss = build_loss(ModelSection(), TrainSection(**section), torch.tensor([4, 2, 2]))
    assert isinstance(loss.rule, rule) and loss.weights_C is None
    assert getattr(loss.rule, "gamma", 1.5) == 1.5
    assert getattr(loss.rule, "label_smoothing", 0.0) == section.get("label_smoothing", 0.0)
    weighted = build_loss(ModelSection(), TrainSection(class_weights=1.0, **section), torch.tensor([4, 2, 2]))
    assert weighted.weights_C is not None
    assert weighted.weights_C.tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3])


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"loss": "focal", "class_weights": 1.0}},
        {"train": {"loss": "bce"}, "augment": {"mix": ({"mixup": 0.4},)}},
        {"model": {"head": "mlp", "dropout": 0.1}},
        {"train": {"optimizer": "lion", "layer_decay": 0.8}},
    ],
    ids=str,
)
def test_every_loss_head_and_optimiser_learns(
    recipe: MakeRecipe, run: Run, make_stage: Stage, changes: dict[str, Any]
) -> None:
    lr = 5e-4 if "optimizer" in changes.get("train", {}) else 4e-3
    _, diary = run(recipe(stage=[make_stage(epochs=6, lr=lr)], **changes))
    losses = [record.metrics["log_loss"] for record in diary.records]
    assert min(losses) < losses[0] and min(losses) < 0.95 * np.log(3)


def test_class_weights_come_from_the_images_trained_on(recipe: MakeRecipe, tmp_path: Path) -> None:
    made = recipe(train={"class_weights": 1.0, "sampling": {"power": 1.0}})
    story = Story(made, tmp_path)
    weights_C = story.trainer.learner.loss.weights_C
    assert weights_C is not None
    assert weights_C.tolist() == pytest.approx([1, 1, 1])  # eight of each class


# --- the learning rate -----------------------------------------------------------------------------------------------


def rates(story: Story) -> list[float]:
    return [record.lr for record in story.records]


def test_the_schedule_begins_again_with_a_stage_or_goes_over_the_run(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path
) -> None:
    def lrs(**schedule: Any) -> list[float]:
        stages = [make_stage(lr=1.0e-3), make_stage(lr=2.0e-3, batch=12)]
        base = {"kind": "exponential", "decay": 0.5, "warmup_epochs": 0.0, "min_lr_ratio": 0.0}
        train = {"schedule": base | schedule, "optimizer": "sgd"}
        name = "-".join(map(str, schedule.values())) or "stage"
        return rates(told(recipe(stage=stages, train=train), tmp_path / name))

    # An epoch has three steps in the first stage and two in the second; the rate is that of its last step.
    halves = [0.5 ** (2 / 3), 0.5 ** (5 / 3), 2 * 0.5 ** (1 / 2), 2 * 0.5 ** (3 / 2)]
    assert lrs() == pytest.approx([1e-3 * half for half in halves])
    run = [0.5 ** (2 / 3), 0.5 ** (5 / 3), 2 * 0.5**2.5, 2 * 0.5**3.5]
    assert lrs(over="run") == pytest.approx([1e-3 * half for half in run])
    steps = [0.5 ** (2 / 4), 0.5 ** (5 / 4), 2 * 0.5 ** (7 / 4), 2 * 0.5 ** (9 / 4)]
    assert lrs(over="run", decay_steps=4) == pytest.approx([1e-3 * half for half in steps])


def test_a_plateau_lowers_the_rate(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, script: Any) -> None:
    script(0.9, 0.9, 0.8, 0.8, 0.8, 0.7)
    schedule = {"kind": "plateau", "decay": 0.1, "patience": 1, "warmup_epochs": 0.0, "min_lr_ratio": 0.0}
    stages = [make_stage(epochs=6, lr=1e-3)]
    assert rates(told(recipe(stage=stages, train={"schedule": schedule}), tmp_path)) == pytest.approx(
        [1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-4]
    )


def test_a_stage_may_have_a_schedule_of_its_own(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path) -> None:
    stages = [make_stage(), make_stage(schedule={"kind": "constant", "warmup_epochs": 0.0})]
    found = rates(told(recipe(stage=stages), tmp_path))
    assert found[0] != found[1] and found[2:] == [3e-3, 3e-3]


# --- what learns, and from where -------------------------------------------------------------------------------------


def test_the_head_learns_alone_and_then_the_backbone_from_the_top(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path
) -> None:
    story = told(recipe(stage=[make_stage(epochs=3, head_only=1, thaw_blocks=2)], train={"ema": 0.5}), tmp_path)

    def changed(epoch: int, part: str) -> bool:
        return not same(story.before[epoch], story.after[epoch], part)

    assert [changed(e, "head.") for e in range(3)] == [True] * 3
    assert [changed(e, "backbone.") for e in range(3)] == [False, True, True]
    assert [changed(e, "backbone.stages.3.blocks.1.") for e in range(3)] == [False, True, True]
    assert [changed(e, "backbone.stages.3.blocks.0.") for e in range(3)] == [False, False, True]
    assert not any(changed(e, "backbone.stem") for e in range(3))


@pytest.mark.parametrize(("start_from", "from_epoch"), [("best", 1), ("last", 2), ("average", 2)])
def test_a_stage_starts_from_the_weights_it_names(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, script: Any, start_from: str, from_epoch: int
) -> None:
    script(0.8, 0.5, 0.6, 0.4)
    stages = [make_stage(epochs=3), make_stage(epochs=1, size=40, start_from=start_from)]
    story = told(recipe(stage=stages, train={"ema": 0.6}), tmp_path)
    source = story.after if start_from == "last" else story.scored
    assert same(story.before[3], source[from_epoch])
    assert not same(story.before[3], (story.scored if start_from == "last" else story.after)[from_epoch])


def test_the_best_epoch_is_that_of_the_stage_before_and_not_of_the_run(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, script: Any
) -> None:
    script(0.1, 0.7, 0.8, 0.9)  # the run's best epoch is in the first stage
    stages = [make_stage(epochs=1), make_stage(epochs=2), make_stage(epochs=1, start_from="best")]
    story = told(recipe(stage=stages), tmp_path)
    assert same(story.before[3], story.scored[1])
    assert same(dict(checkpoint.load(tmp_path).weights), story.scored[0])


def test_a_start_that_is_not_there_is_refused(recipe: MakeRecipe, make_stage: Stage) -> None:
    with pytest.raises(RecipeError, match="no stage before the first"):
        recipe(stage=[make_stage(start_from="best")])
    with pytest.raises(RecipeError, match=r"set train\.ema"):
        recipe(stage=[make_stage(), make_stage(start_from="average")])


# --- stopping, averaging, keeping ------------------------------------------------------------------------------------


def test_a_stage_that_no_longer_gains_ends_and_the_next_begins(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, script: Any
) -> None:
    script(0.9, 0.5, 0.6, 0.7, 0.8, 0.75, 0.9, 0.9)
    stages = [make_stage(epochs=20), make_stage(epochs=20, size=40, start_from="best")]
    story = told(recipe(stage=stages, train={"early_stop": {"patience": 2}}), tmp_path)
    assert [(r.stage, r.epoch) for r in story.records] == [*((0, e) for e in range(4)), *((1, e) for e in range(4, 8))]
    assert {r.size for r in story.records if r.stage == 1} == {(40, 40)}
    assert same(story.before[4], story.scored[1])
    assert same(dict(checkpoint.load(tmp_path).weights), story.scored[1])  # the best of all stays


def test_a_stage_may_have_its_own_patience(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, script: Any) -> None:
    script(0.5, 0.6, 0.7, 0.8, 0.75, 0.9, 0.9)
    stages = [make_stage(epochs=20), make_stage(epochs=20, early_stop={"patience": 3})]
    story = told(recipe(stage=stages, train={"early_stop": {"patience": 1}}), tmp_path)
    assert [r.stage for r in story.records] == [0, 0, 1, 1, 1, 1]


def test_early_stopping_may_watch_another_metric(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, script: Any
) -> None:
    script(0.9, 0.8, 0.7, 0.6, 0.5)
    early = {"patience": 3, "metric": "train_loss", "min_delta": 100.0}
    story = told(recipe(stage=[make_stage(epochs=9)], train={"early_stop": early}), tmp_path)
    assert len(story.records) == 4  # the first is a gain over nothing, then three without


def test_the_last_epochs_weights_are_averaged(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path) -> None:
    story = told(recipe(stage=[make_stage(epochs=1), make_stage(epochs=3)], train={"swa_epochs": 2}), tmp_path)
    assert same(story.scored[1], story.after[1])  # not yet
    assert close(story.scored[2], story.after[2])
    mean = {name: (story.after[2][name] + story.after[3][name]) / 2 for name in story.after[2]}
    assert close(story.scored[3], mean) and not close(story.scored[3], story.after[3])
    assert all(same(a, b) for a, b in zip(story.before[1:], story.after, strict=False))  # training goes on as it was


def test_batch_norms_of_the_average_are_estimated_anew(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path) -> None:
    model = {"backbone": "test_resnet", "pretrained": False}
    story = told(recipe(model=model, stage=[make_stage(epochs=2)], train={"swa_epochs": 2}), tmp_path)
    norms = [name for name in story.scored[1] if name.endswith("running_mean")]
    assert norms
    mean = {name: (story.after[0][name] + story.after[1][name]) / 2 for name in norms}
    assert not any(torch.allclose(story.scored[1][name], mean[name], rtol=1e-3) for name in norms)
    # As the mean weights see the epoch's training images: the first norm of the network can be looked up.
    trainer = story.trainer
    seen = torch.cat([batch.images_BCHW.clone() for batch in trainer.feed.epoch(trainer.recipe.stage[0], 1)])
    first = trainer.learner.scored.backbone.conv1[0]  # type: ignore[index, union-attr]
    expected = first(seen).mean((0, 2, 3))
    torch.testing.assert_close(story.scored[1]["backbone.conv1.1.running_mean"], expected, atol=1e-4, rtol=1e-3)


def test_the_last_and_the_best_epochs_are_kept_and_answer_together(
    recipe: MakeRecipe, make_stage: Stage, run: Run, tmp_path: Path, script: Any
) -> None:
    script(0.9, 0.2, 0.6, 0.4, 0.5)
    made = recipe(stage=[make_stage(epochs=5)], train={"keep_last": 2, "keep_best": 1})
    story = told(made, tmp_path / "0")
    members = RunFolder(tmp_path).members()
    assert members == [RunFolder(tmp_path).fold(0).epoch(number) for number in (1, 3, 4)]
    for member, epoch in zip(members, (1, 3, 4), strict=True):
        saved = checkpoint.load(member.path)
        assert same(dict(saved.weights), story.scored[epoch])
        assert saved.metrics["log_loss"] == story.records[epoch].metrics["log_loss"]
    assert same(dict(checkpoint.load(tmp_path / "0").weights), story.scored[1])


def test_the_out_of_fold_predictions_are_those_of_all_who_answer(
    recipe: MakeRecipe, make_stage: Stage, run: Run, shapes: Path
) -> None:
    result, _ = run(recipe(stage=[make_stage(epochs=3)], train={"keep_last": 2}))
    parts = [Predictions.read(RunFolder(result.folder).fold(0).epoch(e).out_of_fold) for e in (1, 2)]
    together = Predictions.read(result.folder / "oof.parquet")
    assert together.ids == parts[0].ids == parts[1].ids
    mean_NC = (parts[0].probabilities_NC + parts[1].probabilities_NC) / 2
    np.testing.assert_allclose(together.probabilities_NC, mean_NC, rtol=1e-6)
    job = prepare_answer(result.folder, Wishes(data=str(shapes)))
    outcome = answer(job, torch.device("cpu"))
    assert outcome.scores is not None and set(outcome.scores.alone) == {"0/epoch_001", "0/epoch_002"}
    own = result.folder / "0" / "epoch_002" / "notes.txt"
    own.write_text("mine")
    run(recipe(stage=[make_stage(epochs=1)]), overwrite=True)
    assert [p.name for p in (result.folder / "0").glob("epoch_*")] == ["epoch_002"] and own.read_text() == "mine"
    assert RunFolder(result.folder).members() == [RunFolder(result.folder).fold(0)]


def test_any_metric_can_choose_the_best_epoch() -> None:
    assert set(get_args(Metric)) == set(METRICS)


def test_trained_on_everything_the_last_epoch_is_kept(recipe: MakeRecipe, make_stage: Stage, run: Run) -> None:
    folds = {"count": 1, "run": ()}
    made = recipe(data={"folds": folds}, stage=[make_stage(epochs=2)], train={"ema": 0.5, "keep_last": 2})
    result, diary = run(made)
    assert result.metrics == {} and result.baseline_log_loss is None
    assert [record.images for record in diary.records] == [48, 48] and not any(r.metrics for r in diary.records)
    assert not list(result.folder.rglob("oof.parquet"))
    assert json.loads((result.folder / "scores.json").read_text("utf-8"))["out_of_fold"] == {}
    assert [m.name for m in RunFolder(result.folder).members()] == ["0/epoch_000", "0/epoch_001"]
    last, kept = checkpoint.load(result.folder / "0"), checkpoint.load(result.folder / "0" / "epoch_001")
    assert same(dict(last.weights), dict(kept.weights)) and sum(last.class_counts) == 48
    again, _ = run(made)
    assert again.already_finished


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"keep_best": 2}}, "keep_best"),
        ({"train": {"early_stop": {"patience": 2}}}, "early_stop"),
        ({"train": {"schedule": {"kind": "plateau"}}}, "plateau"),
        ({"train": {"sampling": {"hard_pairs": 5}}}, "hard_pairs"),
    ],
    ids=str,
)
def test_what_needs_held_out_images_is_refused_without_them(
    recipe: MakeRecipe, run: Run, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=rf"holds nothing out.*{words}"):
        run(recipe(data={"folds": {"count": 1, "run": ()}}, **changes))


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The rows of the batches of each epoch that was trained on."""
    epochs: list[list[list[int]]] = []
    begin = Loader.train

    def watched(self: Loader, batches: Any, *args: Any) -> Any:
        epochs.append([self.samples.rows(draws).tolist() for draws in batches])
        return begin(self, batches, *args)

    monkeypatch.setattr(Loader, "train", watched)
    return epochs


def test_boosted_classes_are_fed_more_often(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, fed: list[Any]
) -> None:
    sampling = {"boost_classes": ("네모",), "boost": 4.0}
    story = told(recipe(stage=[make_stage(epochs=1)], train={"sampling": sampling}), tmp_path)
    labels = story.trainer.data.samples.labels_N[np.concatenate(fed[0])]
    assert np.bincount(labels).tolist() == [4, 16, 4]


def test_a_class_that_is_not_there_cannot_be_boosted(recipe: MakeRecipe, run: Run) -> None:
    with pytest.raises(RecipeError, match="boost_classes: there is no class '네모남'; nearest: 네모"):
        run(recipe(train={"sampling": {"boost_classes": ("네모남",)}}))


def test_confused_pairs_are_fed_together_in_the_next_epoch(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, fed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    confusion_CC = np.array([[5, 0, 3], [0, 8, 0], [1, 0, 7]])
    monkeypatch.setattr(fold_module, "confusion", lambda *_: confusion_CC)
    sampling = {"hard_pairs": 4, "hard_share": 0.34}
    story = told(recipe(stage=[make_stage(epochs=2)], train={"sampling": sampling}), tmp_path)
    assert story.trainer.position.pairs == [(0, 2, 4)]
    labels = [[story.trainer.data.samples.labels_N[rows].tolist() for rows in epoch] for epoch in fed]
    hard = [rows for rows in labels[1] if rows[::2] == [0] * 4 and rows[1::2] == [2] * 4]
    assert len(labels[1]) == 3 and len(hard) == 1
    assert not [rows for rows in labels[0] if set(rows) == {0, 2}]


# --- all at once -----------------------------------------------------------------------------------------------------


def test_with_every_option_a_run_in_pieces_is_the_same_run(
    recipe: MakeRecipe, run: Run, make_stage: Stage, tmp_path: Path
) -> None:
    def made(name: str) -> Recipe:
        train = {
            "ema": 0.7,
            "swa_epochs": 2,
            "keep_last": 1,
            "keep_best": 1,
            "select": "accuracy",
            "optimizer": "nadamw",
            "layer_decay": 0.8,
            "class_weights": 0.5,
            "early_stop": {"patience": 1, "min_delta": 0.5},
            "schedule": {"kind": "plateau", "patience": 0, "over": "run"},
            "sampling": {"power": 0.5, "hard_pairs": 2, "hard_share": 0.5},
        }
        stages = [
            make_stage(epochs=3, batch=4, accumulate=2, head_only=1, thaw_blocks=3),
            make_stage(epochs=2, size=(40, 32), batch=12, start_from="best", drop_path=0.1),
        ]
        model = {"backbone": "test_resnet", "pretrained": False, "head": "mlp", "dropout": 0.1}
        return recipe(output=str(tmp_path / name), train=train, stage=stages, model=model)

    whole, diary = run(made("whole"))
    assert [record.stage for record in diary.records] == [0, 0, 1, 1]  # the first stage ended early
    for _ in range(100):
        try:
            run(made("pieces"), stop=lambda: True)
        except Interrupted:
            continue
        break
    logs = [(tmp_path / name / "log.jsonl").read_text("utf-8").splitlines() for name in ("whole", "pieces")]
    for one, other in zip(*logs, strict=True):
        a, b = json.loads(one), json.loads(other)
        assert {k: a[k] for k in ("stage", "epoch", "lr", "train_loss", "metrics", "best")} == {
            k: b[k] for k in ("stage", "epoch", "lr", "train_loss", "metrics", "best")
        }
    written = [p.relative_to(whole.folder) for p in whole.folder.rglob("*") if p.suffix in (".safetensors", ".parquet")]
    assert len(written) >= 4
    for path in written:
        assert (tmp_path / "pieces" / path).read_bytes() == (whole.folder / path).read_bytes(), path


def test_an_answer_that_is_not_finite_ends_the_run(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = Members.outputs_of_pixels

    def broken(*args: Any) -> Any:
        return [output._replace(logits_VBC=output.logits_VBC * np.nan) for output in outputs(*args)]

    monkeypatch.setattr(Members, "outputs_of_pixels", broken)
    with pytest.raises(EngineError, match=r"the loss is nan.*stage\.0\.lr"):
        told(recipe(stage=[make_stage()]), tmp_path)
