"""One optimiser step: what a stage of a run repeats."""

from __future__ import annotations

import contextlib

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine.augment.mix import Labels
from engine.model.build import Classifier
from engine.model.losses import Loss
from engine.model.runtime import Runtime
from engine.training.lowered import Lowered
from engine.training.recording import Recording

# Beyond torch's 8 versions of one function it goes on uncompiled, without an error; ten stages are not too many.
_MOST_STAGES = 128


class TrainStep:
    """Forward, backward, clip, update. Call it with a batch; the answer is the loss, on the device, not waited for.

    The forward is compiled once per shape (`dynamic=False`): a stage has one shape, and static shapes are faster. Later
    folds find what the first one compiled.
    Which parameters learn is settled when it is made, and what is in training mode where the runtime says that steps go
    through a copy of the weights.
    """

    def __init__(
        self, model: Classifier, loss: Loss, optimizer: torch.optim.Optimizer, clip: float, runtime: Runtime
    ) -> None:
        self.optimizer = optimizer
        self.clip = clip
        self.runtime = runtime
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._lowered = Lowered(model) if runtime.bf16_weights else None
        self._model: nn.Module = model if self._lowered is None else self._lowered.model
        if dist.is_initialized():
            self._model = DistributedDataParallel(self._model)
        self._loss = loss
        self._forward = _loss_of
        if runtime.compile:
            dynamo = torch._dynamo.config
            dynamo.recompile_limit = max(dynamo.recompile_limit, _MOST_STAGES)
            # Both directions at once: who compiles ahead of time runs nothing (see ahead.py).
            torch._functorch.config.force_non_lazy_backward_lowering = True
            mode = None if runtime.compile_mode == "default" else runtime.compile_mode
            self._forward = torch.compile(_loss_of, dynamic=False, mode=mode)
        self._recording = Recording() if runtime.cuda_graphs else None

    def __call__(self, images_BCHW: Tensor, labels: Labels, parts: int = 1, last: bool = True) -> Tensor:
        """One of the `parts` batches that make up a step; the weights change with the `last`."""
        if self._recording is not None:
            assert parts == 1  # the recipe says so
            return self._recording(self._take, images_BCHW, labels)
        return self._take(images_BCHW, labels, parts, last)

    def _take(self, images_BCHW: Tensor, labels: Labels, parts: int = 1, last: bool = True) -> Tensor:
        with self._alone() if not last else contextlib.nullcontext():
            if self.runtime.recorded_compiling:
                torch.compiler.cudagraph_mark_step_begin()
            with self.runtime.autocast():
                loss = self._forward(self._model, self._loss, images_BCHW, labels)
            (loss / parts).backward()
        if self._lowered is not None:
            self._lowered.hand_over()
        if last:
            if self.clip:
                # foreach: else it looks for it, each gradient in turn, twice a step.
                nn.utils.clip_grad_norm_(self._parameters, self.clip, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self._lowered is not None:
                self._lowered.take_over()
        loss = loss.detach()
        return loss.clone() if self.runtime.recorded_compiling else loss  # the next step's is written there

    def forward(self, images_BCHW: Tensor, labels: Labels) -> Tensor:
        """The loss with all that its gradients need, as a step makes it; nothing is learnt."""
        with self.runtime.autocast():
            return self._forward(self._model, self._loss, images_BCHW, labels)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Gradients stay on this rank: they are put together with the last part."""
        model = self._model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


# No method: one that a step held, bound to itself, would keep the model in memory after the last who uses it has gone.
def _loss_of(model: nn.Module, loss: Loss, images_BCHW: Tensor, labels: Labels) -> Tensor:
    found: Tensor = loss(model(images_BCHW), labels)
    return found
