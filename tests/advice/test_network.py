"""What is suggested for so many photos on such a machine."""

from __future__ import annotations

import numpy as np
import pytest

from engine.advice import network
from engine.advice.machine import Machine, this_machine
from engine.advice.network import Network, network_for
from engine.system import GIB

from .conftest import CPU


def gpu(memory: int) -> Machine:
    return Machine("a GPU", memory * GIB, 16, True)


def suggested(machine: Machine, trained_on: int, height: int = 600, width: int = 800) -> Network:
    return network_for(machine, trained_on, 10, np.array([[height, width]] * 3))


def test_a_larger_machine_and_more_photos_get_a_larger_network() -> None:
    names = [suggested(gpu(memory), 5_000).backbone.partition(".")[0] for memory in (8, 16, 80)]
    assert names == ["convnext_nano", "convnext_tiny", "convnext_base"]
    assert suggested(gpu(80), 500).backbone.startswith("convnext_tiny")
    assert suggested(CPU, 5_000).backbone.startswith("convnext_atto")


def test_stages_rise_and_end_at_what_the_backbone_was_made_for() -> None:
    assert [stage.side for stage in suggested(gpu(80), 5_000).stages] == [256, 320, 384]
    assert [stage.side for stage in suggested(CPU, 5_000).stages] == [128, 160]


@pytest.mark.parametrize(("shorter", "sides"), [(28, [64]), (100, [96, 128]), (150, [128, 160])])
def test_small_photos_are_not_blown_up(shorter: int, sides: list[int]) -> None:
    assert [stage.side for stage in suggested(CPU, 5_000, shorter, shorter).stages] == sides


def test_a_batch_fits_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 1 GiB and 0.1 GiB an image: three quarters of 8 GiB hold 50 of them."""
    monkeypatch.setattr(network, "_step_bytes", lambda *args: int((1 + 0.1 * args[3]) * GIB))
    made = suggested(gpu(8), 5_000)
    assert {stage.batch for stage in made.stages} == {48}
    assert made.step_bytes == pytest.approx(5.8 * GIB, rel=1e-3)
    assert suggested(gpu(1), 5_000).stages[0].batch == 2  # never 1, which a batch norm refuses


@pytest.mark.parametrize(("trained_on", "batch"), [(5, 4), (12, 8), (100, 8), (200, 24), (5_000, 32)])
def test_a_batch_leaves_an_epoch_several_steps(trained_on: int, batch: int) -> None:
    assert suggested(CPU, trained_on).stages[0].batch == batch


def test_fewer_photos_are_seen_more_often() -> None:
    assert [suggested(gpu(80), n).epochs for n in (500, 5_000, 50_000, 500_000)] == [30, 18, 12, 8]
    assert [suggested(CPU, n).epochs for n in (500, 2_400, 50_000)] == [30, 12, 4]


def test_the_rate_follows_the_batch_and_falls_at_the_end() -> None:
    large, small = suggested(CPU, 5_000).stages, suggested(CPU, 100).stages
    assert large[0].lr > small[0].lr and large[-1].lr < large[0].lr


def test_only_long_photos_are_letterboxed() -> None:
    assert not suggested(CPU, 100, 600, 800).letterbox and suggested(CPU, 100, 300, 800).letterbox


def test_this_machine_has_memory_and_cores() -> None:
    here = this_machine()
    assert here.cores >= 1 and here.memory > GIB / 4 and f"{here.memory / GIB:.0f} GiB" in str(here)


def test_without_a_network_it_is_learnt_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = suggested(CPU, 5_000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    alone = suggested(CPU, 5_000)
    assert (fetched.weights, alone.weights) == ("fetched", "none")
    assert alone.epochs == network.FRESH_EPOCHS * fetched.epochs and alone.stages[0].lr > fetched.stages[0].lr
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "model.safetensors")
    assert suggested(CPU, 5_000).weights == "cached"
