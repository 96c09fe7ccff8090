"""Checkpoints answer: logits of every fold model for every view of a batch of images.

All folds answer together, because what stands before the network costs the same for one model as for ten: a batch is
decoded once, and models with the same contract see the same pixels, so each view is one pass for all of them. The
price is that all fold models lie in memory; weights are small beside activations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.views import PLAIN, View, view_plan
from engine.inference.member import restore
from engine.kernels import Ragged
from engine.loader.passes import BufferedPass, Name
from engine.store.checkpoint import Checkpoint


class Predictor:
    """Models that answer for the same images, each as its own checkpoint says: size, fit, normalisation, precision.

    `views` are the test-time views (`views_of` a recipe's predict section), `executor` is what runs the pass. Nothing
    is downloaded: all weights come from the checkpoints.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        device: torch.device,
        views: Sequence[View] = (PLAIN,),
        executor: Name = "auto",
    ) -> None:
        self.views = tuple(views)
        self.members = [restore(checkpoint, device) for checkpoint in checkpoints]
        self._passes = {
            dtype: BufferedPass(executor, device, dtype) for dtype in {m.runtime.dtype for m in self.members}
        }

    @torch.inference_mode()
    def logits(self, images: Ragged) -> list[Tensor]:
        """For each model, in the checkpoints' order, the logits (V, B, C) of all views: float32, on the device."""
        answers: list[list[Tensor]] = [[] for _ in self.members]
        for (contract, dtype), indices in self._sharing().items():
            one_pass = self._passes[dtype]
            placed = one_pass.place(images)
            for view in self.views:
                # The plan is made on the host: a few kilobytes to copy instead of a dozen kernels to launch.
                pixels_BCHW = one_pass(placed, view_plan(view, contract, images.sizes_B2, torch.device("cpu")))
                for index in indices:
                    member = self.members[index]
                    with member.runtime.autocast():
                        answers[index].append(member.model(pixels_BCHW).float())
        return [torch.stack(logits_V) for logits_V in answers]

    def _sharing(self) -> dict[tuple[Contract, torch.dtype], list[int]]:
        """Which models see the same pixels."""
        groups: dict[tuple[Contract, torch.dtype], list[int]] = {}
        for index, member in enumerate(self.members):
            groups.setdefault((member.contract, member.runtime.dtype), []).append(index)
        return groups
