"""What cannot be trained is refused before training, by the key to change; what changes nothing is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.errors import DataError, EngineError, RecipeError
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.training.checks import check_start, idle
from engine.training.prepare import prepare

MakeRecipe = Callable[..., Recipe]
HERE = Ranks(0, 1, torch.device("cpu"))
BATCH_NORM = {"backbone": "test_resnet"}


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache for all tests of this file: the photos are looked at once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def recipe(recipe: MakeRecipe, looked_at: str) -> MakeRecipe:
    def make(**changes: Any) -> Recipe:
        return recipe(**{**changes, "data": {"cache": looked_at, **changes.get("data", {})}})

    return make


def a_stage(**changes: Any) -> dict[str, Any]:
    return {"size": 32, "batch": 8, "epochs": 2, "lr": 3e-3} | changes


def staged(*stages: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {"stage": [a_stage(**one) for one in stages], **sections}


# What a user changes of a recipe that can be trained (24 images a fold, three classes) -> what the error says, the key
# first, then what to do.
REFUSED: list[tuple[dict[str, Any], str]] = [
    # batch norms
    (staged({"batch": 1}, model=BATCH_NORM), r"stage\.0\.batch = 1: test_resnet has \d+ batch norms.*Set it to 2"),
    (staged({}, {"batch": 1, "accumulate": 8}, model=BATCH_NORM), r"stage\.1\.batch = 1.*accumulate does not help"),
    (staged({"batch": 1, "head_only": 1}, model=BATCH_NORM), r"stage\.0\.batch = 1"),
    # sizes
    (staged({"size": 16}, model=BATCH_NORM), r"stage\.0\.size = \[16, 16\].*stride of test_resnet, 32.*32 or more"),
    (staged({}, {"size": [64, 24]}, model=BATCH_NORM), r"stage\.1\.size = \[64, 24\].*32 or more"),
    (staged({"size": 16}), r"stage\.0\.size = \[16, 16\]: test_convnext.*works"),
    (staged({}, {"size": 64}, model={"backbone": "mixer_s32_224"}), r"stage\.1\.size = \[64, 64\].*built for stage\.0"),
    # batches
    (
        staged({"batch": 25}),
        r"stage\.0\.batch = 25 is more than the 24 images that fold 0 is trained on.*to 24 at most",
    ),
    (
        staged({}, {"batch": 8, "accumulate": 4}),
        r"stage\.1\.batch = 8 x accumulate = 4, together 32.*batch to 6 at most",
    ),
    (staged({"batch": 1, "accumulate": 99}), r"accumulate = 99, together 99.*stage\.0\.accumulate to 24 at most"),
    # the model
    ({"model": {"backbone": "convnext_tinny"}}, r'model\.backbone = "convnext_tinny".*nearest: .*convnext_tiny'),
    (staged({"drop_path": 0.2}, model={"backbone": "vgg11"}), r"stage drop_path = 0\.2.*set it to 0"),
    (staged({"margin": 0.2}), r'stage\.0\.margin.*model\.head = "arcface"'),
    # the optimiser and the schedule
    ({"train": {"optimizer": "adamww"}}, r'train\.optimizer = "adamww".*nearest: .*adamw'),
    (staged({"lr": 0.0}), r"stage\.0\.lr"),
    ({"train": {"schedule": {"kind": "step"}}}, r"train\.schedule\.milestones"),
    # metrics
    (
        {"train": {"select": "top3_accuracy"}},
        r'train\.select = "top3_accuracy": with 3 classes it is 1 whatever.*log_loss',
    ),
    (staged({"early_stop": {"patience": 2, "metric": "top5_accuracy"}}), r"stage\.0\.early_stop\.metric"),
    # sampling
    ({"train": {"sampling": {"boost_classes": ("네모남",)}}}, r"train\.sampling\.boost_classes.*nearest: 네모"),
    # folds
    ({"data": {"folds": {"count": 17}}}, r"data\.folds\.count"),
    ({"data": {"folds": {"count": 2, "run": [2]}}}, r"data\.folds\.run = \[2\]: fold 2 does not exist"),
    (
        {"data": {"folds": {"count": 1, "run": []}}, "train": {"keep_best": 1}},
        r"data\.folds\.count = 1.*train\.keep_best",
    ),
    # specialists, whose batches come from fewer images
    (
        {"specialist": [{"name": "two", "classes": ["고리", "네모"]}], **staged({"batch": 20})},
        r"specialist two: .*batch = 20",
    ),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_refused_by_its_key_and_with_a_remedy(recipe: MakeRecipe, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        prepare(recipe(**changes))


def test_a_batch_is_one_of_all_processes_together(recipe: MakeRecipe) -> None:
    made = recipe(stage=[a_stage(batch=8)])
    prepare(made, world=3)
    with pytest.raises(RecipeError, match=r"stage\.0\.batch = 8 x 4 processes, together 32.*stage\.0\.batch to 6"):
        prepare(made, world=4)
    with pytest.raises(RecipeError, match="fewer processes"):
        prepare(recipe(stage=[a_stage(batch=1)]), world=25)


def test_frozen_batch_norms_need_no_second_image(recipe: MakeRecipe) -> None:
    prepare(recipe(model=BATCH_NORM, stage=[a_stage(batch=1, epochs=2, head_only=2)]))


def test_a_class_of_which_nothing_can_be_read_is_refused_by_name(
    recipe: MakeRecipe, shapes: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(shapes, photos)
    for name in ("bad", "worse"):
        (photos / name).mkdir()
        for i in range(3):
            (photos / name / f"{name}{i}.jpg").write_bytes(b"\xff\xd8\xff no image")
    whole = (shapes / "네모" / "네모_00.jpg").read_bytes()
    (photos / "worse" / "worse9.jpg").write_bytes(whole[: len(whole) // 3])  # its header is sound
    made = recipe(data={"train": str(photos)})
    with pytest.raises(
        DataError, match=r"2 classes.*'bad' \(3 images, such as .*\); 'worse' \(4 images.*data\.exclude"
    ):
        prepare(made)
    for keys in ({"drop_classes": ["bad", "w*"]}, {"rare_classes": "drop"}):
        prepared = prepare(recipe(data={"train": str(photos), **keys}))
        assert prepared.classes == ["고리", "네모", "세모"]
    assert "left out, 2 classes of which no image can be read (data.rare_classes): 'bad'" in "".join(prepared.notices)
    names = [path.name for name in ("bad", "worse") for path in (photos / name).iterdir()]
    assert prepare(recipe(data={"train": str(photos), "exclude": names})).classes == ["고리", "네모", "세모"]
    Image.open(shapes / "고리" / "고리_00.jpg").rotate(90).save(photos / "bad" / "good.jpg")
    assert (
        "bad"
        in prepare(recipe(data={"train": str(photos), "folds": {"count": 1, "run": []}, "exclude": names[3:]})).classes
    )


IDLE: list[tuple[dict[str, Any], str]] = [
    ({"train": {"keep_best": 3}}, "train.keep_best = 3 keeps every epoch: there are 2"),
    ({"train": {"swa_epochs": 5}}, "train.swa_epochs = 5 averages every epoch from the first on: there are 2"),
    ({"train": {"early_stop": {"patience": 2}}}, "train.early_stop.patience = 2 never ends stage.0, of 2 epochs"),
    (
        {"train": {"schedule": {"warmup_epochs": 2.0}}},
        "train.schedule.warmup_epochs = 2 is all of stage.0, of 2 epochs",
    ),
    (
        {"train": {"schedule": {"kind": "step", "milestones": [9]}}},
        "train.schedule.milestones: none of them comes in stage.0, of 2 epochs",
    ),
    (
        staged({"batch": 1, "mix": {"mixup": 0.2}}),
        "stage.0.batch = 1: stage.0.mix mixes an image with itself",
    ),
    (staged({"epochs": 1}, train={"sampling": {"hard_pairs": 3}}), "train.sampling.hard_pairs changes nothing"),
    ({"decode": {"cache_mb": 9}}, "decode.cache_mb = 9 changes nothing"),
    ({"decode": {"cache_dir": "kept"}}, "decode.cache_dir = kept changes nothing"),
    (staged({"epochs": 1}, decode={"cache": "host"}), 'decode.cache = "host" changes nothing: there is one epoch'),
    (staged({"head_only": 2}), "stage.0.head_only = 2: only pooling and head learn in its 2 epochs"),
]


@pytest.mark.parametrize(("changes", "words"), IDLE, ids=lambda value: value if isinstance(value, str) else "")
def test_what_changes_nothing_is_told(recipe: MakeRecipe, changes: dict[str, Any], words: str) -> None:
    (line,) = idle(recipe(**changes))
    assert words in line


def test_a_plain_recipe_has_nothing_idle(recipe: MakeRecipe) -> None:
    assert idle(recipe()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decode": {"device": "gpu"}}, r'decode\.device = "gpu".*use "auto"'),
        ({"augment": {"executor": "triton"}}, r'augment\.executor = "triton".*"auto"'),
        ({"model": {"weights": "long/gone.pth"}}, r'model\.weights = "long/gone\.pth": no such file'),
        ({"model": {"backbone": "test_convnext.none", "pretrained": True}}, r"model\.backbone"),
        ({"model": {"backbone": "efficientnet_b9", "pretrained": True}}, r"model\."),
    ],
    ids=str,
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_what_this_machine_lacks_is_refused_before_training(
    recipe: MakeRecipe, changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RecipeError, match=words):
        check_start(recipe(**changes), 3, HERE)


def test_compiling_needs_a_compiler(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    check_start(recipe(), 3, HERE)
    with pytest.raises(RecipeError, match=r'train\.compile = "on" needs a C\+\+ compiler.*"off"'):
        check_start(recipe(train={"compile": "on"}), 3, HERE)


def test_whether_pretrained_weights_are_at_hand_is_told(
    recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = recipe(model={"backbone": "test_convnext", "pretrained": True})
    held: list[object] = [None]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: held[0])
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    assert "fetched when training begins" in check_start(made, 3, HERE)[0]
    held[0] = str(tmp_path / "model.safetensors")
    assert "are in the cache" in check_start(made, 3, HERE)[0]
    held[0] = None
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with pytest.raises(RecipeError, match=r"model\.pretrained: .*HF_HUB_OFFLINE.*model\.weights"):
        check_start(made, 3, HERE)
    assert check_start(recipe(), 3, HERE) == []
