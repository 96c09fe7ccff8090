"""The memory estimate: it grows with what takes memory, takes none itself, and holds against a measured peak."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.decode.choose import uses_turbo
from engine.errors import EngineError
from engine.kernels import jpeg
from engine.model.build import build_model
from engine.ranks import Ranks
from engine.recipe.sections import DecodeSection, ModelSection, Recipe, StageSection, TrainSection
from engine.training.memory import (
    OVERHEAD,
    Memory,
    Photos,
    StepMemory,
    answering_memory,
    kept_decoded,
    smaller_stage,
    step_memory,
    training_memory,
)
from engine.training.optim import kept_share
from engine.training.plan import plan_run
from engine.training.prepare import prepare

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench_memory

MODEL = ModelSection(backbone="test_convnext", pretrained=True)  # no weights are fetched for it
UNTRAINED = ModelSection(backbone="test_convnext", pretrained=False)
HERE = Ranks(0, 1, torch.device("cpu"))

MakeRecipe = Callable[..., Recipe]
Stage = Callable[..., dict[str, Any]]


@functools.cache
def estimate(
    size: tuple[int, int] = (64, 64), batch: int = 8, bf16: bool = False, parts: int = 1, world: int = 1, **train: Any
) -> StepMemory:
    stage = StageSection(size=size, batch=batch, accumulate=parts, epochs=1, lr=1e-3)
    return step_memory(MODEL, TrainSection(**train), 10, stage, bf16, world)


def test_it_grows_with_batch_and_size_as_activations_do() -> None:
    assert estimate(batch=32).activations == pytest.approx(4 * estimate(batch=8).activations, rel=0.02)
    assert estimate((128, 64)).activations == pytest.approx(2 * estimate().activations, rel=0.1)
    assert estimate(bf16=True).activations < 0.8 * estimate().activations
    assert estimate(batch=32).fixed == estimate(batch=8).fixed


def test_batch_norms_on_a_map_of_one_pixel_are_estimated_for_one_image_too(recipe: MakeRecipe) -> None:
    stage = {"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}
    made = recipe(model={"backbone": "test_resnet", "pretrained": False}, stage=[stage])
    assert answering_memory(made, 3, photos(), HERE).host > 0
    assert training_memory(made, made.stage[0].model_copy(update={"batch": 1}), 3, photos(), photos(), HERE).host > 0


@pytest.mark.parametrize(
    ("name", "share"), [("adamw", 2), ("sgd", 1), ("lion", 1), ("adan", 4), ("adafactor", 0), ("lookahead_adamw", 3)]
)
def test_an_optimiser_counts_by_what_it_keeps(name: str, share: float) -> None:
    assert kept_share(TrainSection(optimizer=name)) == pytest.approx(share, abs=0.15)


def test_without_momentum_sgd_keeps_nothing() -> None:
    assert kept_share(TrainSection(optimizer="momentum", momentum=0.0)) == 0


def test_asking_the_optimiser_draws_no_random_number() -> None:
    kept_share.cache_clear()
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    kept_share(TrainSection())
    assert torch.equal(torch.rand(2), expected)


def test_weights_count_with_what_the_optimiser_and_the_averages_keep() -> None:
    weights = 4 * sum(p.numel() for p in build_model(UNTRAINED, 10, (64, 64)).parameters())
    plain = estimate()
    assert plain.weights == weights
    assert plain.fixed == pytest.approx(3 * weights, rel=0.01)
    assert estimate(ema=0.9, swa_epochs=2).fixed - plain.fixed == pytest.approx(2 * weights, rel=0.01)


def test_gradients_count_beside_activations_where_they_stay() -> None:
    assert estimate(parts=2).peak - estimate().peak == estimate().weights
    assert estimate(world=2).peak == estimate(parts=2).peak


def test_what_does_not_fit_here_is_estimated_all_the_same() -> None:
    assert estimate((4096, 4096), batch=4096).peak > 2**41  # terabytes


def test_activations_are_those_that_a_real_step_keeps() -> None:
    model = build_model(UNTRAINED, 10, (64, 64)).train()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = model(torch.zeros(32, 3, 64, 64))
    real = sum(size for address, size in kept.items() if address not in own)
    assert answer.shape == (32, 10)
    assert estimate(batch=32).activations == pytest.approx(real, rel=0.1)


# --- photos ----------------------------------------------------------------------------------------------------------


def photos(count: int = 32, height: int = 2000, width: int = 3000, suffix: str = ".jpg") -> Photos:
    sizes_N2 = np.tile(np.array([[height, width]]), (count, 1))
    return Photos.of(sizes_N2, np.full(count, 10**6), np.arange(count), [f"{i}{suffix}" for i in range(count)])


def training(made: Recipe, seen: Photos, held: Photos | None = None) -> int:
    return training_memory(made, made.stage[0], 3, seen, seen if held is None else held, HERE).host


def test_decoded_photos_count_with_all_that_is_made_ahead(recipe: MakeRecipe) -> None:
    decoded = 8 * 2000 * 3000 * 3
    for decoder, suffix in (("dali", ".jpg"), ("auto", ".png")):
        few, many = (
            training(recipe(decode={"decoder": decoder, "prefetch": count}), photos(96, suffix=suffix))
            for count in (2, 6)
        )
        # Four more batches of those that are trained on, and of those that are scored.
        assert many - few == pytest.approx(2 * 4 * decoded * OVERHEAD, rel=0.01)


def test_photos_whose_parts_are_decoded_count_less(recipe: MakeRecipe) -> None:
    turbo = recipe(augment={"crop": {"kind": "random_resized"}})
    dali = recipe(decode={"decoder": "dali"}, augment={"crop": {"kind": "random_resized"}})
    nobody = photos(0)
    parts, wholes = training(turbo, photos(), nobody), training(dali, photos(), nobody)
    assert parts < wholes / 2 or parts == wholes  # equal where libjpeg-turbo is not built in


def test_extras_and_answers_count(recipe: MakeRecipe) -> None:
    small = photos(height=60, width=60)
    assert training(recipe(augment={"extras": {"blur": 0.5}}), small) > training(recipe(), small)
    plain, one = recipe(predict={"batch": 32}), recipe(predict={"batch": 1})
    held = photos()
    assert (
        answering_memory(plain, 3, held, HERE).host > 20 * 2000 * 3000 * 3 > answering_memory(one, 3, held, HERE).host
    )


def test_a_view_of_another_size_counts_by_its_pixels(recipe: MakeRecipe) -> None:
    made = {
        name: recipe(stage=[{"size": 64, "batch": 4, "epochs": 1, "lr": 1e-3}], predict={"views": ["plain", name]})
        for name in ("flip", "turn_90", "scale_1.5")
    }
    memory = {name: answering_memory(one, 3, photos(), HERE).certain_host for name, one in made.items()}
    weights = step_memory(UNTRAINED, TrainSection(), 3, made["flip"].stage[0], bf16=False).weights
    assert memory["turn_90"] == memory["flip"]
    assert memory["scale_1.5"] - weights == pytest.approx(2.25 * (memory["flip"] - weights), rel=1e-3)


def test_a_model_answers_about_as_many_images_at_a_time_as_threads_take_in_parts(
    recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 images of 256 px two a thread, and of one as many as a part has."""

    def needed(threads: int, batch: int) -> int:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        stage = {"size": 256, "batch": 4, "epochs": 1, "lr": 1e-3}
        made = recipe(stage=[stage], predict={"batch": batch})
        return answering_memory(made, 3, photos(64, 60, 60), HERE).host

    assert needed(1, 64) < needed(4, 64) < needed(32, 64) == needed(99, 64)
    assert needed(1, 1) == needed(9, 1)


def test_on_a_gpu_photos_and_model_are_counted_where_they_lie(
    recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (70 * 2**30, 80 * 2**30))
    gpu = Ranks(0, 1, torch.device("cuda", 0))
    made = recipe(decode={"device": "cpu", "decoder": "dali"}, train={"precision": "fp32"})
    memory = training_memory(made, made.stage[0], 3, photos(), photos(), gpu)
    pixels = 8 * 2000 * 3000 * 3
    assert memory.host > 2 * pixels  # in pinned memory
    assert memory.device > 2 * pixels  # and where they are copied to


def on_gpu(made: Recipe, seen: Photos) -> Memory:
    return training_memory(made, made.stage[0], 3, seen, photos(0), Ranks(0, 1, torch.device("cuda", 0)))


def test_on_a_gpu_what_waits_for_the_model_are_finished_images(
    recipe: MakeRecipe, make_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (70 * 2**30, 80 * 2**30))
    few, many = (
        on_gpu(
            recipe(decode={"device": "cpu", "prefetch": count}, train={"precision": "fp32"}, stage=[make_stage()]),
            photos(96),
        )
        for count in (2, 6)
    )
    assert many.device - few.device == pytest.approx(4 * 8 * 32 * 32 * 3 * 4 * OVERHEAD, rel=0.01)
    assert many.host == few.host


def test_dali_counts_where_it_decodes(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    small = photos(height=60, width=60)
    if uses_turbo(DecodeSection(), torch.device("cpu")):
        dali, turbo = recipe(decode={"decoder": "dali"}), recipe()
        assert 64 * 2**20 < training(dali, small) - training(turbo, small) < 128 * 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    one, five = (
        on_gpu(recipe(decode={"device": "gpu", "threads": threads}, train={"precision": "fp32"}), small)
        for threads in (1, 5)
    )
    assert five.device - one.device == pytest.approx(4 * 16 * 2**20 * OVERHEAD, rel=0.01)
    assert five.host > one.host


# --- what there is ---------------------------------------------------------------------------------------------------


def test_what_may_not_fit_is_told_with_the_keys(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(recipe())
    assert plan_run(prepared, HERE).warnings == ()
    monkeypatch.setattr("engine.training.plan.available_host_bytes", lambda: 2**20)
    (stage, answers) = plan_run(prepared, HERE).warnings
    assert "stage.0: main memory" in stage and "stage.0.batch = 4 and stage.0.accumulate = 2" in stage
    assert answers.startswith("predict.batch") and "lower predict.batch (64)" in answers


def test_what_cannot_fit_is_refused(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(recipe())
    monkeypatch.setattr("engine.training.plan.available_host_bytes", lambda: 2**18)
    monkeypatch.setattr("engine.training.plan.total_host_bytes", lambda: 2**20)
    with pytest.raises(EngineError, match=r"stage\.0: main memory.*more than there is. Set stage\.0\.batch = 4"):
        plan_run(prepared, HERE)


def test_the_remedy_keeps_the_images_of_a_step() -> None:
    def remedy(batch: int, accumulate: int) -> str:
        stage = StageSection(size=(64, 64), batch=batch, accumulate=accumulate, epochs=1, lr=1e-3)
        return smaller_stage(1, stage, "the device's memory")

    assert remedy(32, 2) == "Set stage.1.batch = 16 and stage.1.accumulate = 4 (the same images a step)"
    assert remedy(25, 1) == "Set stage.1.batch = 12 and stage.1.accumulate = 2 (24 images a step)"
    assert "stage.1.size" in remedy(1, 8)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's mark of the peak")
def test_a_measured_peak_is_near() -> None:
    row = bench_memory.apart(bench_memory.TINY, threads=1)
    low, high = bench_memory.BOUNDS
    assert low <= row["estimated"] / row["measured"] <= high, row


# --- photos that stay decoded ----------------------------------------------------------------------------------------


def test_photos_that_stay_decoded_are_counted_as_far_as_they_fit(recipe: MakeRecipe) -> None:
    """32 photos of 6 MB each; scored is the square in the middle of 4 of them."""
    many = Photos(np.full((32, 2), (1000, 2000)), np.zeros(32), np.arange(32), np.zeros(32, dtype=bool))
    few = Photos(np.full((4, 2), (1000, 2000)), np.zeros(4), np.arange(4), np.zeros(4, dtype=bool))
    host = {}
    for name, decode in {"off": {}, "all": {"cache_mb": 4000}, "some": {"cache_mb": 50}}.items():
        made = recipe(decode={"cache": "off" if name == "off" else "host", **decode})
        kept = kept_decoded(made, made.stage[0], many, few, HERE)
        host[name] = training_memory(made, made.stage[0], 3, many, few, HERE).host
        if kept is not None:
            assert kept.wanted == 36 * 6_000_000 and kept.limit == decode["cache_mb"] * 2**20
            assert ("all stay" in str(kept)) == (name == "all") and ("about 24% stay" in str(kept)) == (name == "some")
    assert host["all"] - host["off"] == 36 * 6_000_000
    assert host["some"] - host["off"] == 50 * 2**20


@pytest.mark.skipif(not jpeg.available(), reason=jpeg.why_not())
def test_photos_that_a_small_stage_can_use_smaller_take_less(recipe: MakeRecipe) -> None:
    photos = Photos(np.full((8, 2), (1600, 1600)), np.zeros(8), np.arange(8), np.ones(8, dtype=bool))
    none = Photos(np.empty((0, 2), dtype=np.int64), np.zeros(0), np.arange(0), np.ones(0, dtype=bool))
    stages = [{"size": size, "batch": 8, "epochs": 2, "lr": 1e-3} for size in (64, 256, 1024)]
    made = recipe(decode={"cache": "host"}, stage=stages, augment={"crop": {"kind": "center"}})
    found = [kept_decoded(made, stage, photos, none, HERE) for stage in made.stage]
    assert [one.wanted for one in found if one] == [8 * 3 * side**2 for side in (200, 400, 1600)]


def test_what_one_fold_is_scored_by_stays_for_the_others(recipe: MakeRecipe) -> None:
    few = Photos(np.full((4, 2), (1000, 2000)), np.zeros(4), np.arange(4), np.zeros(4, dtype=bool))
    one, both = (recipe(decode={"cache": "host"}, data={"folds": {"run": run}}) for run in ([0], [0, 1]))
    kept = [kept_decoded(made, made.stage[0], few, few, HERE) for made in (one, both)]
    assert [each.wanted for each in kept if each] == [8 * 6_000_000, 12 * 6_000_000]


def test_what_is_mapped_from_a_disk_takes_no_memory_that_others_could_not_have(recipe: MakeRecipe) -> None:
    whole = Photos(np.full((8, 2), (90, 90)), np.zeros(8), np.arange(8), np.zeros(8, dtype=bool))
    host = [
        training_memory(made, made.stage[0], 3, whole, whole, HERE).host
        for made in (recipe(), recipe(decode={"cache": "disk"}))
    ]
    assert host[0] == host[1]
