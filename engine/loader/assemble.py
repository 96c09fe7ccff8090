"""Decoded images and what was drawn for them, put together: extras, the labels as the mix leaves them, the pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.augment.extras import Extras
from engine.augment.mix import Labels, MixedLabels, Taught, TaughtLabels, mixed_labels, taught_labels
from engine.kernels import Plan, Ragged
from engine.loader.neighbourhood import apply_extras
from engine.loader.passes import BufferedPass


class Assembler:
    """Makes batches of samples of classes `labels_N` (int64, -1: unknown), of which a teacher says `taught`."""

    def __init__(self, labels_N: np.ndarray, taught: Taught | None, run: BufferedPass) -> None:
        self._labels_N, self._taught, self._run = labels_N, taught, run

    def __call__(
        self, images: Ragged, rows_B: np.ndarray, plan: Plan, extras: Extras | None = None
    ) -> tuple[Tensor, Labels]:
        """The images of samples `rows_B` (int64) as `plan` and `extras` say: (B, 3, height, width) on the pass's
        device, channels-last, valid until the next call; and their labels, there too."""
        if extras is not None:
            images, plan = apply_extras(extras, self._run.place(images), plan, self._run.executor)
        own_B = torch.from_numpy(self._labels_N[rows_B])
        labels: Labels
        if self._taught is None:
            plan, moved = plan.along(mixed_labels(plan, own_B), self._run.device)
            labels = MixedLabels(*moved)
        else:
            taught = taught_labels(plan, own_B, self._taught.take(rows_B))
            plan, moved = plan.along(taught[:-1], self._run.device)
            labels = TaughtLabels(moved[0], moved[1], moved[2], moved[3], moved[4], taught.temperature)
        return self._run(images, plan), labels
