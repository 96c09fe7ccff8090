"""Decoded images and what was drawn for them, put together: extras, the labels as the mix leaves them, the pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.augment.extras import Extras
from engine.augment.mix import Labels, MixedLabels, Taught, TaughtLabels, mixed_labels, taught_labels
from engine.kernels import Plan, Ragged
from engine.kernels.dispatch import check_plan
from engine.loader.neighbourhood import apply_extras, by_kernels, prepared
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
        if by_kernels(self._run.executor, self._run.device):
            return self._by_kernels(images, rows_B, plan.to("cpu"), None if extras is None else extras.to("cpu"))
        if extras is not None:
            images, plan = apply_extras(extras, self._run.place(images), plan, self._run.executor)
        parts, labels_of = self._labels(plan, rows_B)
        plan, moved = plan.along(parts, self._run.device)
        return self._run(images, plan), labels_of(moved)

    def _by_kernels(
        self, images: Ragged, rows_B: np.ndarray, plan: Plan, extras: Extras | None
    ) -> tuple[Tensor, Labels]:
        """On a GPU: all that its kernels read travels in one copy, which nobody waits for."""
        from engine.kernels import triton_pass  # Triton is imported only where it runs

        device = self._run.device
        images = self._run.place(images)
        check_plan(plan, images)
        table_B3 = triton_pass.table_of(images)
        before = prepared(extras, table_B3, plan, device)
        own: list[Tensor] = []
        if before is not None:
            plan, table_B3, own = before.plan, before.table_B3, before.tensors
        parts, labels_of = self._labels(plan, rows_B)
        plan, moved = plan.along([table_B3, *own, *parts], device)
        if before is not None:
            before.run(moved[1 : 1 + len(own)])
        out = self._run.out(plan)
        triton_pass.launch(moved[0], plan, out)
        return out, labels_of(moved[1 + len(own) :])

    def _labels(self, plan: Plan, rows_B: np.ndarray) -> tuple[Sequence[Tensor], Callable[[Sequence[Tensor]], Labels]]:
        """The tensors of the batch's labels on the host, and what makes labels of the same on a device."""
        own_B = torch.from_numpy(self._labels_N[rows_B])
        if self._taught is None:
            return mixed_labels(plan, own_B), lambda moved: MixedLabels(*moved)
        taught = taught_labels(plan, own_B, self._taught.take(rows_B))
        return taught[:-1], lambda moved: TaughtLabels(
            moved[0], moved[1], moved[2], moved[3], moved[4], taught.temperature
        )
