"""The pass as numba and torch.compile would have it: what the choice of C++ for the CPU was measured against.

Both are cut down in ways that favour them: bilinear without antialiasing, black borders, all sources of one size, and
contrast about the mean luma of the whole output. Each writes into the same batch again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.kernels import Color, Plan


class Arguments(NamedTuple):
    """A plan and its photos, all of one size, in plain tensors."""

    images_BHW3: Tensor
    matrix_B33: Tensor
    op_BK: Tensor
    arg_BK: Tensor
    rect_B4: Tensor
    scale_3: Tensor  # of normalising: value * scale + shift
    shift_3: Tensor
    size: int


def arguments(tensors: list[Tensor], plan: Plan) -> Arguments:
    assert plan.color_op_BK is not None and plan.color_arg_BK is not None and plan.rect_BR4 is not None
    std_3 = torch.tensor(plan.std)
    return Arguments(
        torch.stack(tensors),
        plan.matrix_B33,
        plan.color_op_BK,
        plan.color_arg_BK,
        plan.rect_BR4[:, 0],
        1 / std_3,
        -torch.tensor(plan.mean) / std_3,
        plan.width,
    )


def numba_pass(a: Arguments) -> Callable[[], object]:
    """One thread a sample, one pixel at a time, as numba's loops go."""
    import numba

    @numba.njit(fastmath=True, inline="always")
    def clamp(x: Any) -> Any:
        return min(max(x, np.float32(0)), np.float32(1))

    @numba.njit(fastmath=True, inline="always")
    def step(op: Any, arg: Any, mean: Any, r: Any, g: Any, b: Any) -> Any:
        if op == 4:
            high, low = max(r, g, b), min(r, g, b)
            c = high - low
            h = g - b if r == high else (2 * c + b - r if g == high else 4 * c + r - g)
            h += 6 * (arg - np.floor(arg)) * c
            h += 6 * c if h < 0 else np.float32(0)
            h -= 6 * c if h >= 6 * c else np.float32(0)
            zero = np.float32(0)
            return (
                low + min(max(abs(h - 3 * c) - c, zero), c),
                low + min(max(2 * c - abs(h - 2 * c), zero), c),
                low + min(max(2 * c - abs(h - 4 * c), zero), c),
            )
        shift = np.float32(0)
        if op == 2:
            shift = mean * (1 - arg)
        elif op == 3:
            shift = (np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b) * (1 - arg)
        return clamp(r * arg + shift), clamp(g * arg + shift), clamp(b * arg + shift)

    @numba.njit(parallel=True, fastmath=True)
    def run(images: Any, matrix: Any, ops: Any, args: Any, rects: Any, scale: Any, shift: Any, out: Any) -> None:
        batch, height, width, _ = images.shape
        size = out.shape[1]
        for i in numba.prange(batch):
            m = matrix[i]
            image, made = images[i], out[i]
            for y in range(size):
                for x in range(size):
                    u = m[0, 0] * (x + np.float32(0.5)) + m[0, 1] * (y + np.float32(0.5)) + m[0, 2] - np.float32(0.5)
                    v = m[1, 0] * (x + np.float32(0.5)) + m[1, 1] * (y + np.float32(0.5)) + m[1, 2] - np.float32(0.5)
                    p, q = int(np.floor(u)), int(np.floor(v))
                    ax, ay = np.float32(u - p), np.float32(v - q)
                    for c in range(3):
                        value = np.float32(0)
                        if 0 <= q < height:
                            top = (1 - ay) * np.float32(1 / 255)
                            if 0 <= p < width:
                                value += top * (1 - ax) * image[q, p, c]
                            if 0 <= p + 1 < width:
                                value += top * ax * image[q, p + 1, c]
                        if 0 <= q + 1 < height:
                            bottom = ay * np.float32(1 / 255)
                            if 0 <= p < width:
                                value += bottom * (1 - ax) * image[q + 1, p, c]
                            if 0 <= p + 1 < width:
                                value += bottom * ax * image[q + 1, p + 1, c]
                        made[y, x, c] = value
            for k in range(ops.shape[1]):
                op, arg = ops[i, k], args[i, k]
                mean = np.float32(0)
                if op == 2:
                    for y in range(size):
                        for x in range(size):
                            mean += (
                                np.float32(0.299) * made[y, x, 0]
                                + np.float32(0.587) * made[y, x, 1]
                                + np.float32(0.114) * made[y, x, 2]
                            )
                    mean /= np.float32(size * size)
                for y in range(size):
                    for x in range(size):
                        r, g, b = step(op, arg, mean, made[y, x, 0], made[y, x, 1], made[y, x, 2])
                        made[y, x, 0], made[y, x, 1], made[y, x, 2] = r, g, b
            x0, y0, x1, y1 = rects[i]
            for y in range(y0, y1):
                for x in range(x0, x1):
                    for c in range(3):
                        made[y, x, c] = 0
            for y in range(size):
                for x in range(size):
                    for c in range(3):
                        made[y, x, c] = made[y, x, c] * scale[c] + shift[c]

    out = np.empty((len(a.images_BHW3), a.size, a.size, 3), np.float32)
    arrays = [tensor.numpy() for tensor in a[:-1]]
    return lambda: run(*arrays, out)


def compiled_pass(a: Arguments) -> Callable[[], object]:
    """Plain torch, compiled. Channels are planes of their own, or nothing vectorises; samples differ in their steps, so
    each step is computed all ways. In batches of 16, where it does best: its intermediates take fresh memory."""
    batch = min(16, len(a.images_BHW3))
    _, height, width, _ = a.images_BHW3.shape
    Planes = tuple[Tensor, Tensor, Tensor]

    def read(bytes_N: Tensor, matrix_B33: Tensor) -> Planes:
        at = torch.arange(a.size, dtype=torch.float32) + 0.5
        m = matrix_B33.view(batch, 9, 1, 1).unbind(1)
        u = m[0] * at + m[1] * at[:, None] + m[2] - 0.5
        v = m[3] * at + m[4] * at[:, None] + m[5] - 0.5
        p, q = u.floor(), v.floor()
        first = torch.arange(batch).view(batch, 1, 1) * (height * width * 3)
        r = g = b = torch.zeros(batch, a.size, a.size)
        for dx in (0, 1):
            for dy in (0, 1):
                column, row = p + dx, q + dy
                weight = (1 - (u - column).abs()) * (1 - (v - row).abs()) / 255
                weight = weight * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
                pixel = row.clamp(0, height - 1).int() * width + column.clamp(0, width - 1).int()
                index = first + 3 * pixel
                r = r + bytes_N[index] * weight
                g = g + bytes_N[index + 1] * weight
                b = b + bytes_N[index + 2] * weight
        return r, g, b

    def hue(r: Tensor, g: Tensor, b: Tensor, turns: Tensor) -> Planes:
        high = torch.maximum(torch.maximum(r, g), b)
        low = torch.minimum(torch.minimum(r, g), b)
        c = high - low
        h = torch.where(r == high, g - b, torch.where(g == high, 2 * c + b - r, 4 * c + r - g))
        h = h + 6 * (turns - turns.floor()) * c
        h = h + torch.where(h < 0, 6 * c, 0)
        h = h - torch.where(h >= 6 * c, 6 * c, 0)

        def part(x: Tensor) -> Tensor:
            return low + torch.minimum(x.clamp(min=0), c)

        return part((h - 3 * c).abs() - c), part(2 * c - (h - 2 * c).abs()), part(2 * c - (h - 4 * c).abs())

    def step(planes: Planes, op: Tensor, arg: Tensor) -> Planes:
        r, g, b = planes
        luma = 0.299 * r + 0.587 * g + 0.114 * b
        mean = luma.mean(dim=(1, 2), keepdim=True)
        about = torch.where(op == int(Color.CONTRAST), mean, torch.where(op == int(Color.SATURATION), luma, 0))
        turned = hue(r, g, b, arg)
        changed = [
            torch.where(op == int(Color.HUE), t, (about + (x - about) * arg).clamp(0, 1))
            for t, x in zip(turned, planes, strict=True)
        ]
        return changed[0], changed[1], changed[2]

    def whole(bytes_N: Tensor, matrix_B33: Tensor, op_BK: Tensor, arg_BK: Tensor, rect_B4: Tensor, out: Tensor) -> None:
        planes = read(bytes_N, matrix_B33)
        for k in range(op_BK.shape[1]):
            planes = step(planes, op_BK[:, k].view(-1, 1, 1), arg_BK[:, k].view(-1, 1, 1))
        at = torch.arange(a.size)
        x0, y0, x1, y1 = rect_B4.view(-1, 4, 1, 1).unbind(1)
        outside = ~((at >= x0) & (at < x1) & (at[:, None] >= y0) & (at[:, None] < y1))
        for c, plane in enumerate(planes):
            out[..., c] = plane * outside * a.scale_3[c] + a.shift_3[c]

    out = torch.empty(len(a.images_BHW3), a.size, a.size, 3)
    compiled = torch.compile(whole)
    parts = [
        [tensor[first : first + batch] for tensor in (*a[:5], out)] for first in range(0, len(a.images_BHW3), batch)
    ]
    return lambda: [compiled(part[0].flatten(), *part[1:]) for part in parts]
