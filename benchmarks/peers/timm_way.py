"""timm's side of a training comparison: what its documentation and training script put together, from its public API.

Folder dataset, PIL decoding and torchvision/PIL transforms in DataLoader workers, MixUp and CutMix in the collate
function, normalisation and random erasing in the PrefetchLoader, AdamW without decay on vectors, cosine schedule set
at every update, ModelEmaV3, soft-target cross-entropy, CheckpointSaver. What `bench_timm.py` does not set keeps timm's
default. Where the defaults would leave it behind at so few steps, timm gets the option it has for that: the schedule
moves by updates and not by epochs, the average has a warm-up, and only the average is validated, where its script
validates both.
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data import FastCollateMixup, create_dataset, create_loader, resolve_data_config
from timm.data.loader import PrefetchLoader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import load_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, dispatch_clip_grad, random_seed
from torch import Tensor, nn

from engine.metrics import score
from engine.predictions import Predictions
from peers.task import EpochResult, Outcome, Report, Task, Waits, mark, processor_seconds

WARMUP_LR = 1e-5  # timm's default rate at the first step
MOST = 9  # of RandAugment with noise: at 10 its posterize asks for 0 bits, which Pillow 13 refuses with an error
JITTER = 0.4  # timm's default of brightness, contrast and saturation


def build(task: Task) -> nn.Module:
    """The model with the task's weights and a fresh classifier."""
    model = timm.create_model(task.backbone, pretrained=False, num_classes=task.classes)
    load_checkpoint(model, task.weights, strict=False)
    return model


def loaders(task: Task, model: nn.Module) -> tuple[PrefetchLoader, PrefetchLoader]:
    """Training and validation batches."""
    config = resolve_data_config({"input_size": (3, task.size, task.size)}, model=model)
    common = {
        "input_size": config["input_size"],
        "batch_size": task.batch,
        "mean": config["mean"],
        "std": config["std"],
        "num_workers": task.workers,
        "device": torch.device("cpu"),
    }
    mix = None
    if _mixes(task):
        mix = FastCollateMixup(
            mixup_alpha=task.mixup,
            cutmix_alpha=task.cutmix,
            prob=task.mix_p,
            label_smoothing=task.smoothing,
            num_classes=task.classes,
        )
    train = create_loader(
        create_dataset("", root=task.split, split="train", is_training=True, batch_size=task.batch),
        is_training=True,
        scale=task.scale,
        auto_augment=f"rand-m{task.magnitude}-mstd0.5-mmax{MOST}-inc1" if task.magnitude else None,
        color_jitter=JITTER,  # timm leaves it out beside RandAugment
        re_prob=task.erase_p,
        re_mode="pixel",
        interpolation="random",
        collate_fn=mix,
        **common,
    )
    valid = create_loader(
        create_dataset("", root=task.split, split="validation", is_training=False, batch_size=task.batch),
        is_training=False,
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        **common,
    )
    return train, valid


def run(task: Task, report: Report) -> Outcome:
    """Train and score."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    torch.set_num_threads(task.threads)
    Path(task.output).mkdir(parents=True, exist_ok=True)
    began_s, worked_s = time.perf_counter(), processor_seconds()
    random_seed(task.seed)
    model = build(task)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=task.lr, weight_decay=task.weight_decay)
    average = ModelEmaV3(model, decay=task.ema, use_warmup=True) if task.ema else None
    train, valid = loaders(task, model)
    steps = len(train)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=task.epochs,
        min_lr=task.lr * task.min_lr_ratio,
        warmup_lr=WARMUP_LR,
        warmup_epochs=task.warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    loss = SoftTargetCrossEntropy() if _mixes(task) else LabelSmoothingCrossEntropy(task.smoothing)
    arguments = argparse.Namespace(model=task.backbone)
    saver = CheckpointSaver(
        model,
        optimizer,
        arguments,
        model_ema=average,
        checkpoint_dir=task.output,
        recovery_dir=task.output,
        decreasing=True,  # selects by log loss
        max_history=1,
    )
    waits = Waits()
    results: list[EpochResult] = []
    scheduler.step_update(num_updates=0)
    for epoch in range(epochs):
        epoch_s = time.perf_counter()
        train_loss, images = _train_epoch(model, waits, train, loss, optimizer, scheduler, average, task, epoch * steps)
        train_s = time.perf_counter() - epoch_s
        metrics = score(*_answers(average.module if average is not None else model, valid))
        saver.save_checkpoint(epoch, metric=metrics["log_loss"])
        results.append(
            EpochResult(
                images=images,
                train_s=train_s,
                waited_s=waits.take(),
                valid_s=time.perf_counter() - epoch_s - train_s,
                train_loss=train_loss,
                log_loss=metrics["log_loss"],
                accuracy=metrics["accuracy"],
            )
        )
        report(results[-1])
    total_s = time.perf_counter() - began_s
    if task.test:
        write_answers(task)
    marks = (mark(loader.dataset.filenames(absolute=True)) for loader in (train, valid))
    train_mark, valid_mark = marks
    del train, valid  # ends the workers, whose processor time is known only then
    gc.collect()
    return Outcome(tuple(results), total_s, processor_seconds() - worked_s, train_mark, valid_mark)


def write_answers(task: Task) -> None:
    """Answer the test photos with the epoch that was kept."""
    split, classes = Path(task.test), sorted(path.name for path in Path(task.split, "train").iterdir())
    model = timm.create_model(task.backbone, pretrained=False, num_classes=task.classes)
    load_checkpoint(model, f"{task.output}/model_best.pth.tar", use_ema=bool(task.ema))
    config = resolve_data_config({"input_size": (3, task.size, task.size)}, model=model)
    dataset = create_dataset("", root=split, split="", is_training=False)
    loader = create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=task.batch,
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        mean=config["mean"],
        std=config["std"],
        num_workers=0,
        device=torch.device("cpu"),
    )
    probabilities_NC, _ = _answers(model, loader)
    ids = tuple(Path(name).name for name in dataset.filenames())
    Predictions(ids, tuple(classes), probabilities_NC).write_csv(Path(task.output, "answers.csv"))


def _train_epoch(
    model: nn.Module,
    waits: Waits,
    loader: PrefetchLoader,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    average: ModelEmaV3 | None,
    task: Task,
    updates: int,
) -> tuple[float, int]:
    """The mean loss and how many images it is of."""
    losses = AverageMeter()
    model.train()
    for images_BCHW, targets in waits.of(loader):
        loss = loss_of(model(images_BCHW), targets)
        optimizer.zero_grad()
        loss.backward()
        if task.clip:
            dispatch_clip_grad(model.parameters(), task.clip)
        optimizer.step()
        updates += 1
        if average is not None:
            average.update(model, step=updates)
        losses.update(loss.item(), len(images_BCHW))
        scheduler.step_update(num_updates=updates)
    return losses.avg, losses.count


@torch.inference_mode()
def _answers(model: nn.Module, loader: PrefetchLoader) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Probabilities (N, C) and class indices (N,)."""
    model.eval()
    pairs = [(model(images_BCHW).softmax(dim=1), labels_B) for images_BCHW, labels_B in loader]
    probabilities, labels = zip(*pairs, strict=True)
    return torch.cat(probabilities).numpy(), torch.cat(labels).numpy()


def _mixes(task: Task) -> bool:
    return task.mix_p > 0 and (task.mixup > 0 or task.cutmix > 0)
