"""A model that learns: the network with its loss, its optimiser and the averages of its weights.

What takes a step of training takes it here: the trainer, the search for a learning rate, the benchmarks. So all of them
measure and try what training does, and none has to know what belongs to it. A learner knows no files, folds or epochs.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from typing import Any

from torch import Tensor

from engine.loader.batches import Batch
from engine.model.build import Classifier, build_model, set_checkpointing, set_drop_path
from engine.model.losses import build_loss
from engine.model.runtime import Runtime
from engine.recipe.sections import ModelSection, StageSection, TrainSection
from engine.training.averaging import EpochMean, build_average
from engine.training.freeze import Freezer, thawed_layers, to_training
from engine.training.optim import build_optimizer, load_optimizer, set_rate
from engine.training.step import TrainStep


class Learner:
    """A classifier over `classes` classes, built for images of `size` (height, width) and placed as `runtime` says.

    Fresh weights are drawn from torch's generator. `counts_C` are the training images of each class, which
    `train.class_weights` weighs by. Raises RecipeError as `build_model` and `build_optimizer` do.
    """

    def __init__(
        self,
        model: ModelSection,
        train: TrainSection,
        classes: int,
        size: tuple[int, int],
        runtime: Runtime,
        counts_C: Tensor | None = None,
    ) -> None:
        self.section, self.runtime = train, runtime
        self.model: Classifier = runtime.place(build_model(model, classes, size))
        self.loss = build_loss(model, train, counts_C).to(runtime.device)
        self.optimizer = build_optimizer(self.model, train, runtime.cuda_graphs)
        self.average = build_average(self.model, train.ema)
        self.mean = EpochMean(self.model) if train.swa_epochs else None
        self._freezer = Freezer(self.model)
        self._step: TrainStep | None = None  # which parameters learn is settled when it is made

    @property
    def scored(self) -> Classifier:
        """The model whose weights are scored and saved: the mean over epochs, the moving average, or the model."""
        if self.mean is not None and self.mean.epochs:
            return self.mean.model
        return self.average.model if self.average is not None else self.model

    def begin_stage(self, stage: StageSection) -> None:
        """Take over a stage's settings; weights stay as they are."""
        set_drop_path(self.model, stage.drop_path)
        set_checkpointing(self.model, stage.checkpoint_activations)
        self._forget()
        self.loss.set_margin(stage.margin)

    def _forget(self) -> None:
        """A step that holds the model as it was, as a recording or a copy, is made anew before the next one."""
        if self.runtime.cuda_graphs or self.runtime.bf16_weights:
            self._step = None

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from other weights, with a new optimiser: moments of other weights mislead."""
        self.model.load_state_dict(weights)
        self.optimizer = build_optimizer(self.model, self.section, self.runtime.cuda_graphs)
        self._step = None

    def restart_average(self) -> None:
        """Begin the moving average, if there is one, again from the current weights."""
        if self.average is not None:
            self.average.restart()

    def begin_epoch(self, stage: StageSection, epoch: int) -> None:
        """Training mode, and what learns in an epoch of the stage let learn."""
        changed = self._freezer.thaw(thawed_layers(stage, epoch))
        to_training(self.model)
        if self._step is None or changed:
            self._step = TrainStep(self.model, self.loss, self.optimizer, self.section.clip, self.runtime)

    def set_rate(self, lr: float) -> None:
        """Set the learning rate; the head's and the layers' are multiples of it."""
        set_rate(self.optimizer, lr)

    def take_step(self, batch: Batch, part: int = 0, parts: int = 1) -> Tensor:
        """Learn from a batch, or from one of the `parts` batches that make up a step: the weights, and their moving
        average, change with the last. The answer is the loss, on the device, not waited for.

        `begin_epoch` comes first.
        """
        assert self._step is not None, "begin_epoch comes first"
        last = part == parts - 1
        loss = self._step(batch.images_BCHW, batch.labels, parts, last)
        if last and self.average is not None:
            self.average.update()
        return loss

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of a batch with all that its gradients need; nothing is learnt. `begin_epoch` comes first."""
        assert self._step is not None, "begin_epoch comes first"
        return self._step.forward(batch.images_BCHW, batch.labels)

    def take_into_mean(self) -> bool:
        """Take the weights into the mean over epochs; whether batch norms are to be estimated anew for it."""
        assert self.mean is not None  # the recipe says so
        self.mean.update(self.model)
        return bool(self.mean.norms)

    def renew_norms(self, batches: Generator[Batch, None, None]) -> list[Tensor]:
        """Estimate the batch norms of the mean from training batches; the statistics, for all ranks to share."""
        assert self.mean is not None
        with self.runtime.autocast(), closing(batches):
            self.mean.renew_norms((batch.images_BCHW for batch in batches), self.runtime.device)
        return self.mean.norms

    def state_dict(self) -> dict[str, Any]:
        """All that going on with learning needs: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "mean": self.mean.state_dict() if self.mean is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"], self.runtime.cuda_graphs)
        self._forget()
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
