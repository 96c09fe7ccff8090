"""Models answer: logits, and features where they are asked for, of every view of a batch of images.

All models answer together, because what stands before the network costs the same for one model as for ten: a batch is
decoded once, and models with the same contract see the same pixels, so each view is one pass for all of them. The
price is that all of them lie in memory; weights are small beside activations.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, overload

import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.views import PLAIN, View, view_plan
from engine.inference.member import Member
from engine.inference.microbatches import MicroBatches
from engine.kernels import Ragged
from engine.loader.passes import BufferedPass, Name
from engine.store.checkpoint import Checkpoint


class Output(NamedTuple):
    """What one model makes of V views of B images: float32, on the device. Features where they were asked for."""

    logits_VBC: Tensor
    features_VBE: Tensor | None


class Members(Sequence[Member]):
    """Models that answer for the same images, each as it was scored: size, fit, normalisation, precision.

    `views` are the test-time views (`views_of` a recipe's predict section), `executor` is what runs the pass. The
    models are put into their evaluation mode.
    """

    def __init__(self, members: Sequence[Member], views: Sequence[View] = (PLAIN,), executor: Name = "auto") -> None:
        self.views = tuple(views)
        self.executor = executor
        self._members = tuple(members)
        for member in members:
            member.model.eval()
        self._networks = [_micro_batches(member) for member in members]
        self._passes = {
            member.runtime.dtype: BufferedPass(executor, member.runtime.device, member.runtime.dtype)
            for member in members
        }

    @overload
    def __getitem__(self, index: int) -> Member: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Member, ...]: ...

    def __getitem__(self, index: int | slice) -> Member | tuple[Member, ...]:
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    @classmethod
    def restored(
        cls,
        checkpoints: Sequence[Checkpoint],
        device: torch.device,
        views: Sequence[View] = (PLAIN,),
        executor: Name = "auto",
    ) -> Self:
        """The models of these checkpoints, on `device`."""
        return cls([Member.restored(checkpoint, device) for checkpoint in checkpoints], views, executor)

    @property
    def contract(self) -> Contract | None:
        """The one that all models share; None where they differ, also in the type of their pixels."""
        shared = self._sharing()
        return next(iter(shared))[0] if len(shared) == 1 else None

    def logits(self, images: Ragged) -> list[Tensor]:
        """For each model, in order, the logits (V, B, C) of all views of whole photos: float32, on the device."""
        return [output.logits_VBC for output in self.outputs(images)]

    @torch.no_grad()  # not inference_mode: what a model in training remembers of its shapes, it goes on to train with
    def outputs(self, images: Ragged, features: bool = False) -> list[Output]:
        """What each model, in order, makes of all views of whole photos."""
        found: list[list[Output]] = [[] for _ in self]
        for (contract, dtype), indices in self._sharing().items():
            one_pass = self._passes[dtype]
            placed = one_pass.place(images)
            for view in self.views:
                # The plan is made on the host: a few kilobytes to copy instead of a dozen kernels to launch.
                pixels_BCHW = one_pass(placed, view_plan(view, contract, images.sizes_B2, torch.device("cpu")))
                for index in indices:
                    found[index].append(self._output(index, pixels_BCHW, features))
        return [_stacked(views) for views in found]

    @torch.no_grad()
    def outputs_of_pixels(self, pixels_BCHW: Tensor, features: bool = False) -> list[Output]:
        """What each model makes of images that are prepared as all of them want it, as one view."""
        return [_stacked([self._output(index, pixels_BCHW, features)]) for index in range(len(self))]

    @contextlib.contextmanager
    def weights_cast_once(self) -> Iterator[None]:
        """Within it weights are cast to a lower precision at the first batch and kept, not cast anew at each; they must
        not change meanwhile.

        Autocast keeps what it casts until its outermost context ends, of tensors that require gradients.
        """
        frozen = [p for member in self for p in member.model.parameters() if not p.requires_grad]
        types = dict.fromkeys(member.runtime.device.type for member in self if member.runtime.bf16)
        with contextlib.ExitStack() as stack:
            for device in types:
                stack.enter_context(torch.autocast(device, enabled=False))
                for parameter in frozen:
                    parameter.requires_grad_(True)
            try:
                yield
            finally:
                for parameter in frozen:
                    parameter.requires_grad_(False)

    def _output(self, index: int, pixels_BCHW: Tensor, features: bool) -> Output:
        """Of one view: logits (B, C) and features (B, E)."""
        logits_BC, features_BE = self._networks[index](pixels_BCHW)
        return Output(logits_BC, features_BE if features else None)

    def _sharing(self) -> dict[tuple[Contract, torch.dtype], list[int]]:
        """Which models see the same pixels."""
        groups: dict[tuple[Contract, torch.dtype], list[int]] = {}
        for index, member in enumerate(self):
            groups.setdefault((member.contract, member.runtime.dtype), []).append(index)
        return groups


_TRIED: weakref.WeakKeyDictionary[torch.nn.Module, dict[tuple[int, ...], int]] = weakref.WeakKeyDictionary()
"""How many images make a part, by model: one that is validated after every epoch is tried once."""


def _micro_batches(member: Member) -> MicroBatches:
    """The member's network: images to logits (B, C) and features (B, E), in float32."""

    def network(images_BCHW: Tensor) -> tuple[Tensor, ...]:
        features_BE = member.model.features(images_BCHW)
        return member.model.head(features_BE).float(), features_BE.float()

    return MicroBatches(network, member.runtime, _TRIED.setdefault(member.model, {}))


def _stacked(views: Sequence[Output]) -> Output:
    features = [view.features_VBE for view in views if view.features_VBE is not None]
    return Output(torch.stack([view.logits_VBC for view in views]), torch.stack(features) if features else None)
