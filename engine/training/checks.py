"""What of a recipe cannot be trained, on its data or on this machine; and what of it would change nothing.

Refused is what would fail, or ruin what is trained without a word (a metric that is 1 in every epoch chooses the first
one). What merely changes nothing is told. Everything here is settled before the first step of training, and by
`--dry-run` already; what only the network knows is asked of one without memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from engine.augment.views import views_of
from engine.decode.choose import decoder_for
from engine.errors import DataError, RecipeError
from engine.inference.ask import check_views
from engine.kernels import cpu_pass, network
from engine.model.build import (
    Classifier,
    build_shapes,
    check_drop_path,
    check_kernels,
    check_sizes,
    check_weights,
    set_checkpointing,
)
from engine.model.fused import slower_without_gpu
from engine.model.runtime import check_compiler, check_speed
from engine.ranks import Ranks
from engine.recipe.sections import Recipe, StageSection
from engine.recipe.sections.augment import MixSection
from engine.text import count, nearest
from engine.training.feed import FoldData
from engine.training.freeze import Freezer, thawed_layers, to_training
from engine.training.lowered import check_lowered
from engine.training.optim import build_optimizer, check_optimizer

_TOP = {"top3_accuracy": 3, "top5_accuracy": 5}  # metrics that are 1 whatever is answered, up to so many classes


def check_recipe(recipe: Recipe, classes: Sequence[str], known: Sequence[str] = ()) -> None:
    """Raise RecipeError for stages and settings that cannot be trained, to tell `classes` apart; `known` are the
    others that may be named."""
    check_sizes(recipe.model, [stage.size for stage in recipe.stage])
    for size in dict.fromkeys(stage.size for stage in recipe.stage):
        check_views(views_of(recipe.predict), recipe.model, recipe.stage[0].size, size)
    check_kernels(recipe.model, recipe.stage[0].size)
    check_drop_path(recipe.model, recipe.stage[0].size, [stage.drop_path for stage in recipe.stage])
    check_optimizer(recipe.train)
    _check_layers(recipe, len(classes))
    _check_ways(recipe, len(classes))
    _check_boosts(recipe, [*known, *classes])
    _check_metrics(recipe, len(classes))
    _check_held_out(recipe)


def check_folds(recipe: Recipe, folds: Mapping[int, FoldData], world: int) -> None:
    """Raise RecipeError or DataError for folds that cannot be trained or scored by `world` processes."""
    for fold, data in folds.items():
        images = len(data.train_rows_N)
        counts_C = np.array(data.class_counts)
        if not counts_C.all():
            name = data.classes[int(counts_C.argmin())]
            raise DataError(
                f"none of the {images} images that fold {fold} is trained on is of class {name!r}. Divide the folds "
                "otherwise (data.folds, data.fold_column, data.copies), or leave the class out"
            )
        if recipe.data.folds.count > 1 and not len(data.held_rows_N):
            raise DataError(
                f"fold {fold} holds no image out to be scored by: lower data.folds.count ({recipe.data.folds.count}), "
                "or leave the fold out of data.folds.run"
            )
        for number, stage in enumerate(recipe.stage):
            _check_step(number, stage, fold, len(data.learnt_rows_N), world)


def idle(recipe: Recipe) -> list[str]:
    """What the recipe asks for and what will change nothing, or less than it seems to, in words."""
    of_stages = [line for number, stage in enumerate(recipe.stage) for line in _idle_of(recipe, number, stage)]
    return [*_idle_of_run(recipe), *of_stages]


def check_start(recipe: Recipe, classes: int, ranks: Ranks) -> list[str]:
    """Raise RecipeError for what cannot be had on this machine: a decoder, an executor, a compiler, weights. What is
    to be said about the weights that training begins with, and about a compiler that is missed, in words."""
    decoder_for(recipe.decode, ranks.device)
    _check_executor(recipe, ranks.device)
    slower = [check_compiler(recipe.train, ranks.device), slower_without_gpu(recipe.model.fused, ranks.device)]
    accumulates = any(stage.accumulate > 1 for stage in recipe.stage)
    slower += check_speed(recipe.train, ranks.device, ranks.world, accumulates)
    return [*filter(None, [*slower, check_weights(recipe.model, classes, recipe.stage[0].size)])]


# --- stages and settings --------------------------------------------------------------------------------------------


def _check_layers(recipe: Recipe, classes: int) -> None:
    """Batch norms, and layers that are frozen or learn at rates of their own."""
    stages = recipe.stage
    in_layers = recipe.train.layer_decay < 1 or any(stage.head_only or stage.thaw_blocks for stage in stages)
    if not in_layers and all(stage.batch > 1 for stage in stages):
        return
    network = build_shapes(recipe.model, classes, stages[0].size)
    if in_layers:
        build_optimizer(network, recipe.train)
    for number, stage in enumerate(stages):
        if stage.batch == 1 and (norms := _learning_norms(network, stage)):
            raise RecipeError(
                f"stage.{number}.batch = 1: {recipe.model.backbone} has {count(norms, 'batch norm')}, which need two "
                "images or more on each process to learn from (accumulate does not help them). Set it to 2 or more, "
                "or choose a backbone without batch norms, such as convnext_tiny"
            )


def _check_ways(recipe: Recipe, classes: int) -> None:
    """Ways of taking a step that not every backbone has."""
    if recipe.train.precision == "bf16_weights":
        check_lowered(recipe.model, classes, recipe.stage[0].size)
    if any(stage.checkpoint_activations for stage in recipe.stage):
        set_checkpointing(build_shapes(recipe.model, classes, recipe.stage[0].size), True)


def _learning_norms(network: Classifier, stage: StageSection) -> int:
    """How many batch norms learn in the stage's last epoch, when the most of the network does."""
    Freezer(network).thaw(thawed_layers(stage, stage.epochs - 1))
    to_training(network)
    return sum(isinstance(module, _BatchNorm) and module.training for module in network.modules())


def _check_boosts(recipe: Recipe, classes: Sequence[str]) -> None:
    for name in recipe.train.sampling.boost_classes:
        if name not in classes:
            near = ", ".join(nearest(name, classes))
            raise RecipeError(f"train.sampling.boost_classes: there is no class {name!r}; nearest: {near}")


def _check_metrics(recipe: Recipe, classes: int) -> None:
    """Refuse metrics by which all epochs are alike: the first one would be kept as the best."""
    train = recipe.train
    stops = {f"stage.{n}.early_stop": stage.early_stop for n, stage in enumerate(recipe.stage) if stage.early_stop}
    used: dict[str, str] = {"train.select": train.select}
    used |= {f"{k}.metric": s.metric for k, s in {"train.early_stop": train.early_stop, **stops}.items() if s.patience}
    for key, metric in used.items():
        if classes <= _TOP.get(metric, 0):
            raise RecipeError(
                f'{key} = "{metric}": with {classes} classes it is 1 whatever is answered. Use "log_loss" or "accuracy"'
            )


def _check_held_out(recipe: Recipe) -> None:
    """Refuse what follows from the scores of held-out images when there are none."""
    if recipe.data.folds.count > 1:
        return
    train = recipe.train
    ends = [train.early_stop, *(stage.early_stop for stage in recipe.stage if stage.early_stop is not None)]
    schedules = [train.schedule, *(stage.schedule for stage in recipe.stage if stage.schedule is not None)]
    needing = {
        "train.keep_best": train.keep_best > 0,
        "train.sampling.hard_pairs": train.sampling.hard_pairs > 0,
        'early_stop (metric = "train_loss" needs none)': any(e.patience and e.metric != "train_loss" for e in ends),
        'schedule kind = "plateau"': any(schedule.kind == "plateau" for schedule in schedules),
        'stage start_from = "best"': any(stage.start_from == "best" for stage in recipe.stage),
    }
    if keys := [key for key, needed in needing.items() if needed]:
        raise RecipeError(f"data.folds.count = 1 holds nothing out, which {' and '.join(keys)} would be scored by")


# --- folds ----------------------------------------------------------------------------------------------------------


def _check_step(number: int, stage: StageSection, fold: int, images: int, world: int) -> None:
    """Refuse a step of more images than there are: they would come twice in it."""
    in_step = stage.batch * stage.accumulate * world
    if in_step <= images:
        return
    factors = [f"stage.{number}.batch = {stage.batch}"]
    factors += [f"accumulate = {stage.accumulate}"] if stage.accumulate > 1 else []
    factors += [count(world, "process", "processes")] if world > 1 else []
    total = f", together {in_step:,} images a step," if len(factors) > 1 else ""
    if images >= stage.accumulate * world:
        remedy = f"Set stage.{number}.batch to {images // (stage.accumulate * world)} at most"
    else:
        remedy = (
            f"Set stage.{number}.batch and accumulate to 1, start fewer processes"
            if world > 1
            else (f"Set stage.{number}.accumulate to {max(1, images // stage.batch)} at most")
        )
    raise RecipeError(
        f"{' x '.join(factors)}{total} is more than the {count(images, 'image')} that fold {fold} is trained on, so "
        f"there is not one whole step. {remedy}, or add images"
    )


# --- what changes nothing -------------------------------------------------------------------------------------------


def _idle_of_run(recipe: Recipe) -> Iterator[str]:
    train, epochs = recipe.train, sum(stage.epochs for stage in recipe.stage)
    for key, value in (("keep_last", train.keep_last), ("keep_best", train.keep_best)):
        if value > epochs:
            yield f"train.{key} = {value} keeps every epoch: there are {epochs}"
    if train.swa_epochs > epochs:
        yield f"train.swa_epochs = {train.swa_epochs} averages every epoch from the first on: there are {epochs}"
    if train.sampling.hard_pairs and epochs == 1:
        yield "train.sampling.hard_pairs changes nothing: it takes a validation before the last epoch, and there is one"
    if recipe.data.folds.count == 1 and train.select != "log_loss":
        yield f'train.select = "{train.select}" changes nothing: data.folds.count = 1 holds nothing out'
    if recipe.decode.cache == "off":
        for key in ("cache_mb", "cache_dir"):
            if value := getattr(recipe.decode, key):
                yield f'decode.{key} = {value} changes nothing: decode.cache = "off" keeps no photo decoded'
    elif epochs * len(recipe.data.folds.run or range(recipe.data.folds.count)) == 1:
        yield f'decode.cache = "{recipe.decode.cache}" changes nothing: there is one epoch, and no later one that gains'


def _idle_of(recipe: Recipe, number: int, stage: StageSection) -> Iterator[str]:
    own = f"stage.{number}"
    early, key = (stage.early_stop, f"{own}.early_stop") if stage.early_stop else (recipe.train.early_stop, "")
    if early.patience >= stage.epochs:
        yield f"{key or 'train.early_stop'}.patience = {early.patience} never ends {own}, of {_epochs(stage)}"
    schedule, key = (stage.schedule, f"{own}.schedule") if stage.schedule else (recipe.train.schedule, "train.schedule")
    if schedule.over == "stage":
        if schedule.warmup_epochs >= stage.epochs:
            yield f"{key}.warmup_epochs = {schedule.warmup_epochs:g} is all of {own}, of {_epochs(stage)}"
        if schedule.kind == "step" and all(milestone >= stage.epochs for milestone in schedule.milestones):
            yield f"{key}.milestones: none of them comes in {own}, of {_epochs(stage)}"
    if stage.batch == 1 and any(map(_mixes, [stage.mix] if stage.mix else recipe.augment.mix)):
        yield f"{own}.batch = 1: {own + '.mix' if stage.mix else 'augment.mix'} mixes an image with itself"
    if 0 < stage.epochs <= stage.head_only:
        yield f"{own}.head_only = {stage.head_only}: only pooling and head learn in its {_epochs(stage)}"


def _mixes(section: MixSection) -> bool:
    return section.p > 0 and (section.mixup > 0 or section.cutmix > 0)


def _epochs(stage: StageSection) -> str:
    return count(stage.epochs, "epoch")


# --- this machine ---------------------------------------------------------------------------------------------------


def _check_executor(recipe: Recipe, device: torch.device) -> None:
    name, key = recipe.augment.executor, f'augment.executor = "{recipe.augment.executor}"'
    if name == "triton" and not network.runs_on(device):
        raise RecipeError(f'{key}: it runs on a CUDA device, and none is visible; use "auto"')
    if name == "cpu" and device.type != "cpu":
        raise RecipeError(f'{key}: it works in main memory, and the model is on {device}; use "auto"')
    if name == "cpu" and not cpu_pass.available():
        raise RecipeError(f'{key}: {cpu_pass.why_not()}; use "auto"')
