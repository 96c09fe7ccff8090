"""The numbers are uniform, independent in every direction of their address, and depend on nothing else."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from engine.augment.rng import beta_quantile, hashes, uniforms


def _draw(seed: int = 1, epoch: int = 2, count: int = 4000, streams: int = 1) -> torch.Tensor:
    return uniforms(seed, epoch, torch.arange(count), {"a": streams})["a"]


def test_numbers_are_uniform_for_consecutive_and_for_scattered_keys() -> None:
    for keys in (torch.arange(20_000), torch.arange(20_000) * 2**40, -torch.arange(1, 20_001)):
        numbers = uniforms(3, 0, keys, {"a": 1})["a"][:, 0].numpy()
        assert numbers.min() >= 0 and numbers.max() < 1
        assert stats.kstest(numbers, "uniform").pvalue > 0.01


@pytest.mark.parametrize("neighbour", ["key", "column", "epoch", "seed", "name"])
def test_neighbouring_addresses_are_uncorrelated(neighbour: str) -> None:
    keys = torch.arange(50_000)
    base = uniforms(0, 0, keys, {"a": 2})["a"]
    other = {
        "key": uniforms(0, 0, keys + 1, {"a": 1})["a"],
        "column": base[:, 1:],
        "epoch": uniforms(0, 1, keys, {"a": 1})["a"],
        "seed": uniforms(1, 0, keys, {"a": 1})["a"],
        "name": uniforms(0, 0, keys, {"b": 1})["b"],
    }[neighbour]
    correlation, _ = stats.pearsonr(base[:, 0].numpy(), other[:, 0].numpy())
    assert abs(correlation) < 3.5 / len(keys) ** 0.5
    # Beyond correlation: the sum of two independent uniforms, wrapped, is uniform.
    assert stats.kstest(((base[:, 0] - other[:, 0]) % 1).numpy(), "uniform").pvalue > 0.005


def test_a_number_does_not_depend_on_the_batch_or_on_the_other_streams() -> None:
    keys = torch.arange(100) * 7919
    together = uniforms(5, 6, keys, {"crop": 3, "flip": 2})
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    shuffled = uniforms(5, 6, keys[order], {"new": 4, "flip": 2, "crop": 3})
    alone = uniforms(5, 6, keys[17:18], {"flip": 1})
    assert torch.equal(shuffled["crop"], together["crop"][order])
    assert torch.equal(shuffled["flip"], together["flip"][order])
    assert torch.equal(alone["flip"], together["flip"][17:18, :1])


def test_the_bits_are_what_they_were() -> None:
    """A change of these numbers changes every run ever recorded."""
    assert hashes(1, 2, torch.tensor([3]), "a").item() == 5773629874863499497
    assert _draw(count=2)[:, 0].tolist() == [0.8601361513137817, 0.36758631467819214]


def test_hashes_use_all_64_bits() -> None:
    bits = hashes(0, 0, torch.arange(4096), "a")
    assert len(bits.unique()) == 4096
    shares = torch.stack([((bits >> i) & 1).double().mean() for i in range(64)])
    assert ((shares - 0.5).abs() < 0.04).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 3.0, 30.0])
def test_the_beta_quantile_is_scipys(alpha: float) -> None:
    p = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    expected = torch.from_numpy(stats.beta(alpha, alpha).ppf(p.numpy()))
    assert torch.allclose(beta_quantile(p, alpha).double(), expected, atol=1e-4)
    assert beta_quantile(torch.tensor([0.0, 1.0]), alpha).tolist() == [0.0, 1.0]


@pytest.mark.gpu
def test_the_gpu_draws_the_same_numbers() -> None:
    keys = torch.arange(10_000) * 2**45 - 2**60
    streams = {"a": 3, "b": 1}
    host, device = uniforms(1, 2, keys, streams), uniforms(1, 2, keys.cuda(), streams)
    assert all(torch.equal(host[name], device[name].cpu()) for name in streams)
    assert torch.equal(hashes(1, 2, keys, "a"), hashes(1, 2, keys.cuda(), "a").cpu())
