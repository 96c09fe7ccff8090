"""Randomness with an address: every number is a hash of (seed, epoch, sample key, stream name, position).

A generator with a state would make a sample's augmentation depend on which batch, rank or worker it landed in, and on
what was drawn before. Here a number depends on its address alone: a run can stop anywhere and go on, one rank or eight
draw the same, and adding an operation to a recipe leaves the draws of the others as they were.

The hash is SplitMix64's finaliser (Steele, Lea and Flood 2014; variant 13 of Stafford) over int64 tensors, so the same
bits come out on every device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64  # as int64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64
INTERVALS = 2048  # of the beta quantile's table


def uniforms(seed: int, epoch: int, keys_B: Tensor, streams: Mapping[str, int]) -> dict[str, Tensor]:
    """Uniform numbers in [0, 1), float32, on the device of `keys_B` (int64): for each stream a tensor (B, its count).

    All streams are drawn in one go, because on a GPU the launches and not the numbers cost time.
    """
    names = tuple(streams.items())
    states_BS = _mix(_states(seed, epoch, keys_B)[:, None] + _columns(names, keys_B.device))
    numbers_BS = ((states_BS >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24
    return dict(zip(streams, numbers_BS.split([count for _, count in names], dim=1), strict=True))


def hashes(seed: int, epoch: int, keys_B: Tensor, stream: str) -> Tensor:
    """64 random bits for each key, int64 (B,)."""
    return _mix(_states(seed, epoch, keys_B) + address(stream))


def beta_quantile(p: Tensor, alpha: float) -> Tensor:
    """The symmetric Beta(alpha, alpha) value below which a share `p` of the distribution lies, float32.

    A uniform `p` gives a Beta-distributed number: one draw for one number, where rejection would take a random count.
    Read from a table of x ** alpha, which is close to linear in p near 0 even where x itself is steep; the upper half
    is the mirrored lower half.
    """
    lower = torch.minimum(p, 1 - p).to(torch.float64)
    table = beta_table(alpha).to(p.device)
    position = lower * (2 * INTERVALS)
    index = position.long().clamp(max=INTERVALS - 1)
    fraction = position - index
    x = (table[index] * (1 - fraction) + table[index + 1] * fraction) ** (1 / alpha)
    return torch.where(p <= 0.5, x, 1 - x).to(torch.float32)


def _states(seed: int, epoch: int, keys_B: Tensor) -> Tensor:
    return _mix(keys_B + address(f"{seed}/{epoch}"))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift(x, 27)) * _MULTIPLIER_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64's own drags the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def address(name: str) -> int:
    """64 bits that a name comes to, as int64."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@lru_cache(maxsize=64)
def _columns(streams: tuple[tuple[str, int], ...], device: torch.device) -> Tensor:
    addresses = [address(f"{name}/{i}") for name, count in streams for i in range(count)]
    return torch.tensor(addresses, dtype=torch.int64, device=device)


@lru_cache(maxsize=64)
def beta_table(alpha: float) -> Tensor:
    """x ** alpha at p = 0, ..., 1/2 in INTERVALS equal steps, where p = I_x(alpha, alpha), float64. By bisection."""
    target = torch.linspace(0, 0.5, INTERVALS + 1, dtype=torch.float64)
    low = torch.zeros_like(target)
    high = torch.full_like(target, 0.5**alpha)
    whole = 2 * _lower_beta(high[:1], alpha)
    for _ in range(60):
        middle = (low + high) / 2
        below = _lower_beta(middle, alpha) < target * whole
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low  # and not the middle: exactly 0 at 0


def _lower_beta(t: Tensor, alpha: float) -> Tensor:
    """The incomplete beta integral with both parameters alpha up to x = t ** (1 / alpha) <= 1/2, times alpha.

    x^a (1 - x)^a 2F1(2a, 1; a + 1; x) (Abramowitz and Stegun 26.5.23 after Euler's transformation): every term of the
    series is positive, so nothing cancels at large alpha.
    """
    x = t ** (1 / alpha)
    term, total = torch.ones_like(x), torch.ones_like(x)
    for n in range(60 + 8 * math.ceil(alpha)):
        term = term * x * (2 * alpha + n) / (alpha + 1 + n)
        total = total + term
    return t * (1 - x) ** alpha * total
