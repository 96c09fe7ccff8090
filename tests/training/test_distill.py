"""A run that learns from a teacher: whose answers, joined how, mixed how, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from engine.augment.mix import MixedLabels, Taught, TaughtLabels, taught_labels, with_mix
from engine.augment.policy import Policy
from engine.errors import DataError, Interrupted, RecipeError
from engine.model.losses import CrossEntropy, Loss, build_loss
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
from engine.recipe.load import parse_recipe
from engine.recipe.sections import ModelSection, Recipe, TrainSection
from engine.recipe.sections.augment import MixSection
from engine.store.run_folder import RunFolder
from engine.training.feed import Feed
from engine.training.prepare import prepare

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
ALONE = Ranks(0, 1, torch.device("cpu"))


def answers_about(recipe: Recipe, seed: int = 0) -> LabelledPredictions:
    """Random out-of-fold answers about the images of a recipe, in another order of images and classes."""
    prepared = prepare(recipe)
    random = np.random.default_rng(seed)
    rows = random.permutation(len(prepared.ids))
    ids, classes = [prepared.ids[row] for row in rows], prepared.classes[::-1]
    p_NC = random.dirichlet(np.ones(len(classes)), len(ids))
    labels = [prepared.classes[prepared.samples.labels_N[row]] for row in rows]
    return Predictions(tuple(ids), tuple(classes), p_NC).labelled(labels, [0] * len(ids))


@pytest.fixture
def taught(recipe: MakeRecipe, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe with a teacher of random answers, in `tmp_path / "teacher"`."""
    teacher = RunFolder(tmp_path / "teacher")
    teacher.path.mkdir()
    answers_about(recipe()).write(teacher.out_of_fold)

    def make(**changes: Any) -> Recipe:
        return recipe(**(changes | {"distill": {"teacher": str(teacher.path)} | changes.get("distill", {})}))

    return make


def photos(folder: Path, shapes: Path, classes: tuple[str, ...] = ("세모", "고리", "네모")) -> Path:
    """The teacher's answers about four photos without labels: a new one, one that is a training image's file, one that
    could not be seen, another new one."""
    from PIL import Image

    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (40, 50), (60 * number, 90, 30)).save(path)
    shutil.copy(next(iter(sorted(shapes.rglob("*.jpg")))), paths[1])
    p_NC = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [1 / 3, 1 / 3, 1 / 3], [0.8, 0.1, 0.1]])
    extra = {"path": pa.array(list(map(str, paths))), "status": pa.array(["ok", "ok", "undecodable: text", "ok"])}
    out = folder / "predictions.parquet"
    Predictions(tuple("0123"), classes, p_NC).write(out, extra)
    return out


# --- the loss --------------------------------------------------------------------------------------------------------


def test_what_is_learnt_is_cross_entropy_against_the_mix_of_labels_and_answers() -> None:
    """Through MixUp and CutMix: targets that are part label and part answer are mixed as the images are."""
    random = torch.Generator().manual_seed(1)
    answers_BC = torch.rand(8, 5, generator=random).softmax(1)
    own_B = torch.arange(8) % 5
    plan = Policy(parse_recipe({"stage": [STAGE]}).augment, (0.5,) * 3, (0.5,) * 3).draw(
        torch.arange(8), torch.full((8, 2), 40), 32, 32, 0, 0
    )
    plan = with_mix(plan, MixSection(mixup=0.5, cutmix=1.0, p=0.9), torch.arange(8), 0, 0)
    weight_B = torch.tensor([0.7, 0.7, 0.0, 1.0, 0.7, 0.7, 1.0, 0.0])
    logits_BC = torch.randn(8, 5, generator=random)
    labels = taught_labels(plan, own_B, Taught(answers_BC, weight_B, 1.0))
    one_hot_BC = functional.one_hot(own_B, 5).float()
    target_BC = weight_B[:, None] * answers_BC + (1 - weight_B[:, None]) * one_hot_BC
    share_B1 = plan.own_share_B()[:, None]
    assert plan.partner_B is not None and (share_B1 < 1).any()
    mixed_BC = share_B1 * target_BC + (1 - share_B1) * target_BC[plan.partner_B]
    expected = functional.cross_entropy(logits_BC, mixed_BC)
    torch.testing.assert_close(Loss(CrossEntropy())(logits_BC, labels), expected)


STAGE = {"size": 32, "batch": 8, "epochs": 1, "lr": 1e-3}


def test_a_teacher_that_weighs_nothing_changes_nothing_of_the_loss() -> None:
    random = torch.Generator().manual_seed(2)
    logits_BC, answers_BC = torch.randn(6, 3, generator=random), torch.rand(6, 3, generator=random).softmax(1)
    own_B, share_B = torch.arange(6) % 3, torch.rand(6, generator=random)
    weights_C = torch.tensor([2.0, 1.0, 0.5])
    plain = MixedLabels(own_B, own_B.flip(0), share_B)
    taught = TaughtLabels(own_B, own_B.flip(0), share_B, 1 - share_B, 0 * answers_BC, 1.0)
    loss = Loss(CrossEntropy(0.1), None, weights_C)
    assert torch.equal(loss(logits_BC, plain), loss(logits_BC, taught))


def test_at_a_higher_temperature_slopes_stay_as_large() -> None:
    """Hinton et al. 2015: the loss at temperature T is multiplied by T squared."""
    logits_BC = torch.tensor([[0.3, -0.1, 0.2]], requires_grad=True)
    target_BC = torch.tensor([[0.5, 0.2, 0.3]])

    def slope(temperature: float) -> torch.Tensor:
        softened_BC = target_BC ** (1 / temperature)
        softened_BC = softened_BC / softened_BC.sum()
        none_B, zero_B = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
        labels = TaughtLabels(zero_B, zero_B, none_B, none_B, softened_BC, temperature)
        (found,) = torch.autograd.grad(Loss(CrossEntropy())(logits_BC, labels), logits_BC)
        return found

    assert 0.5 < slope(20.0).norm() / slope(5.0).norm() < 2
    own_BC = target_BC.log().requires_grad_()  # at the teacher's own answer nothing is left to learn
    softened_BC = (target_BC ** (1 / 3)) / (target_BC ** (1 / 3)).sum()
    none_B, zero_B = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    (left,) = torch.autograd.grad(
        Loss(CrossEntropy())(own_BC, TaughtLabels(zero_B, zero_B, none_B, none_B, softened_BC, 3.0)), own_BC
    )
    assert left.abs().max() < 1e-6


def test_neither_margin_nor_class_weights_touch_answers() -> None:
    """An answer is no single class."""
    logits_BC = 10 * torch.tensor([[0.5, 0.1, -0.2], [0.2, 0.4, 0.3]])
    answers_BC = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    none_B, zero_B = torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    labels = TaughtLabels(zero_B, zero_B, none_B, none_B, answers_BC, 1.0)
    model = ModelSection(backbone="test_convnext", head="arcface")
    loss = build_loss(model, TrainSection(class_weights=1.0), torch.tensor([1, 5, 9]))
    loss.set_margin(0.3)
    torch.testing.assert_close(loss(logits_BC, labels), functional.cross_entropy(logits_BC, answers_BC))


# --- whose answers ---------------------------------------------------------------------------------------------------


def test_answers_are_joined_by_id_and_class_name(taught: MakeRecipe, recipe: MakeRecipe) -> None:
    prepared, answers = prepare(taught()), answers_about(recipe())
    assert prepared.samples.taught is not None
    expected_NC = answers.in_order(prepared.ids, prepared.classes).probabilities_NC
    np.testing.assert_allclose(prepared.samples.taught.answers_BC, expected_NC, atol=1e-6)
    assert (prepared.samples.taught.weight_B == np.float32(0.7)).all()


def test_an_epoch_hands_on_what_the_teacher_says_of_its_images(taught: MakeRecipe) -> None:
    made = taught(augment={"mix": []})
    prepared = prepare(made)
    feed = Feed(made, prepared.fold_data(0), ALONE, torch.float32)
    for batch in feed.epoch(made.stage[0], 0):
        assert isinstance(batch.labels, TaughtLabels) and prepared.samples.taught is not None
        torch.testing.assert_close(
            batch.labels.answer_BC, 0.7 * prepared.samples.taught.answers_BC[torch.from_numpy(batch.rows_B)]
        )
        torch.testing.assert_close(batch.labels.own_share_B, torch.full((8,), 0.3))


def test_photos_without_labels_are_learnt_from_and_never_held_out(
    taught: MakeRecipe, shapes: Path, tmp_path: Path, run: Run
) -> None:
    made = taught(distill={"unlabelled": str(photos(tmp_path / "photos", shapes))}, ensemble={"neighbours": "auto"})
    prepared = prepare(made)
    assert prepared.lesson is not None and prepared.lesson.unlabelled == 2
    assert prepared.samples.ids[-2:] == ["unlabelled:0", "unlabelled:3"]
    assert prepared.samples.taught is not None
    np.testing.assert_allclose(prepared.samples.taught.answers_BC[-2:], [[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]], atol=1e-6)
    assert prepared.samples.taught.weight_B[-2:].tolist() == [1, 1]
    told = " ".join(prepared.notices)
    assert "2 photos without labels" in told and "1 photo" in told and "the same files as training images" in told
    data = prepared.fold_data(0)
    learnt = set(data.learnt_rows_N.tolist())
    assert learnt == {*data.train_rows_N.tolist(), len(prepared.ids), len(prepared.ids) + 1}
    assert sum(data.class_counts) == len(data.train_rows_N)
    result, diary = run(made)
    assert diary.records[0].images == len(data.learnt_rows_N) // 8 * 8
    answered = Predictions.read(RunFolder(result.folder).out_of_fold)
    assert not any(id_.startswith("unlabelled") for id_ in answered.ids)


def test_copies_and_images_that_were_never_held_out_are_learnt_by_their_labels(
    taught: MakeRecipe, recipe: MakeRecipe, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    made = taught()
    teacher = RunFolder(Path(made.distill.teacher))
    answers = Predictions.read(teacher.out_of_fold)
    answers.take(range(1, len(answers))).write(teacher.out_of_fold)
    with pytest.raises(DataError, match=r"no answer about 1 of 48 images \('.*'; its own are like .*none of its own"):
        prepare(made)
    first = answers.ids[0]
    pq.write_table(pa.table({"id": [first], "fold": [1]}), teacher.samples)
    with pytest.raises(DataError, match="in folds that did not answer: train all its folds"):
        prepare(made)
    pq.write_table(pa.table({"id": [first], "fold": [-1]}), teacher.samples)
    prepared = prepare(made)
    assert prepared.samples.taught is not None
    weights = dict(zip(prepared.ids, prepared.samples.taught.weight_B.tolist(), strict=True))
    assert [id_ for id_, weight in weights.items() if weight == 0] == [first]
    assert any("1 image without an out-of-fold answer" in notice for notice in prepared.notices)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_teacher_of_other_classes_is_refused(taught: MakeRecipe) -> None:
    made = taught()
    path = RunFolder(Path(made.distill.teacher)).out_of_fold
    answers = Predictions.read(path)
    assert isinstance(answers, LabelledPredictions)
    dataclasses.replace(answers, classes=("세모", "네모", "cross")).write(path)
    with pytest.raises(DataError, match=r"other classes: '고리' is none of its own; .* none of its 'cross'"):
        prepare(made)


def test_what_is_missing_is_named(taught: MakeRecipe, recipe: MakeRecipe, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"distill.teacher: .*oof.parquet: no such file. Give the folder"):
        prepare(recipe(distill={"teacher": str(tmp_path)}))
    with pytest.raises(DataError, match=r"distill.unlabelled: .*gone.parquet: no such file"):
        prepare(taught(distill={"unlabelled": str(tmp_path / "gone.parquet")}))
    answers = photos(tmp_path / "photos", shapes)
    (tmp_path / "photos" / "0.jpg").unlink()
    with pytest.raises(DataError, match=r"1 photo of 4 is gone \('.*0.jpg'\); put them back"):
        prepare(taught(distill={"unlabelled": str(answers)}))
    with pytest.raises(DataError, match="does not say where the photos lie"):
        prepare(taught(distill={"unlabelled": str(RunFolder(tmp_path / "teacher").out_of_fold)}))


def test_recipes_that_cannot_be_taught_are_refused(recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match="without a teacher nothing can be learnt"):
        prepare(recipe(distill={"unlabelled": "photos"}))
    with pytest.raises(RecipeError, match="specialists answer among other classes"):
        prepare(recipe(distill={"teacher": "models"}, specialist=[{"name": "two", "classes": ["고리", "네모"]}]))


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_learns_what_its_teacher_says(taught: MakeRecipe, run: Run, recipe: MakeRecipe) -> None:
    """From a teacher that is wrong in a way of its own: it takes every class for the next one."""
    made = taught(
        stage=[{"size": 32, "batch": 8, "epochs": 12, "lr": 1e-2}], distill={"weight": 1.0}, train={"select": "entropy"}
    )
    path = RunFolder(Path(made.distill.teacher)).out_of_fold
    answers = Predictions.read(path)
    assert isinstance(answers, LabelledPredictions)
    p_NC = 0.05 + 0.85 * np.eye(3)[(answers.labels_N + 1) % 3]
    dataclasses.replace(answers, probabilities_NC=p_NC).write(path)
    result, _ = run(made)
    found = Predictions.read(RunFolder(result.folder).out_of_fold)
    assert isinstance(found, LabelledPredictions)
    expected = [answers.classes[(answers.labels_N[answers.ids.index(id_)] + 1) % 3] for id_ in found.ids]
    assert np.mean([a == b for a, b in zip(found.answers, expected, strict=True)]) > 0.7


def test_a_run_goes_on_with_the_same_bits_and_never_with_another_teacher(
    taught: MakeRecipe, shapes: Path, run: Run, tmp_path: Path
) -> None:
    unlabelled = str(photos(tmp_path / "photos", shapes))

    def made(name: str) -> Recipe:
        mix = {"mix": [{"mixup": 0.4, "cutmix": 1.0}]}
        return taught(output=str(tmp_path / name), distill={"unlabelled": unlabelled, "temperature": 2.0}, augment=mix)

    run(made("whole"))
    steps = iter(range(100))
    with pytest.raises(Interrupted):
        run(made("pieces"), stop=lambda: next(steps) == 3)
    teacher = RunFolder(tmp_path / "teacher").out_of_fold
    kept = teacher.read_bytes()
    answers = Predictions.read(teacher)
    dataclasses.replace(answers, probabilities_NC=answers.probabilities_NC[:, ::-1].copy()).write(teacher)
    with pytest.raises(RecipeError, match="differs in the teacher's answers"):
        run(made("pieces"))
    teacher.write_bytes(kept)
    run(made("pieces"))
    for file in ("weights.safetensors", "oof.parquet"):
        whole, pieces = ((tmp_path / name / "0" / file).read_bytes() for name in ("whole", "pieces"))
        assert whole == pieces, file


def test_a_run_without_a_teacher_does_not_go_on_with_one(taught: MakeRecipe, recipe: MakeRecipe, run: Run) -> None:
    run(recipe())
    with pytest.raises(RecipeError, match="differs in the teacher's answers"):
        run(taught())


def test_labels_are_mixed_as_ever_without_a_teacher(recipe: MakeRecipe) -> None:
    made = recipe(augment={"mix": [{"mixup": 0.4}]})
    batch = next(Feed(made, prepare(made).fold_data(0), ALONE, torch.float32).epoch(made.stage[0], 0))
    assert isinstance(batch.labels, MixedLabels)
