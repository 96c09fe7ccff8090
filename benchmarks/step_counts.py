"""What a training step asks of a GPU and its host, counted without one: copies to the device, those that block, waits
of the host, launches.

    python benchmarks/step_counts.py --json benchmarks/results/step_counts.json
    PYTHONPATH=OTHER_TREE python benchmarks/step_counts.py       # the same of another checkout's engine

An epoch is trained on the tests' double of a GPU (tests/fake_cuda.py), and all that it counts is divided by the steps.
The numbers are those of the program and not of a machine, so they may be compared across machines and commits. Kernels
of torch's own operations are counted one for each operation that computes something, as CUDA has it for most.

"in steps": of the waits those before the last step was taken; the others are the epoch's end. "in other threads": what
the threads did that make batches ahead of the model, which hold nobody up.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from rich.console import Console

import frame

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # last: the engine may be another checkout's
from fake_cuda import DEVICE, FakeCuda, LendingDecoder  # type: ignore[import-not-found]

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.decode import choose
from engine.inference.member import Member
from engine.inference.members import Members
from engine.inference.scoring import Images, score
from engine.loader.batches import Epoch, Loader, Samples
from engine.loader.source import Memory
from engine.model.runtime import Runtime
from engine.ranks import Ranks
from engine.recipe.sections import DecodeSection, ModelSection, StageSection, TrainSection
from engine.recipe.sections.augment import AugmentSection, MixSection
from engine.training.learner import Learner

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PLAIN: dict[str, Any] = {"color": {"p": 0.8}, "erase": {"p": 0.3}, "affine": {"p": 0.5}}
ALL = {"most": 2, **dict.fromkeys(("blur", "motion", "noise", "jpeg", "clahe", "equalize", "elastic"), 0.2)}
EXTRAS: dict[str, dict[str, Any]] = {
    "none": {},
    "blur, noise": {"extras": {"most": 1, "blur": 0.1, "noise": 0.1}},  # of recipes/progressive_768.toml
    "all": {"extras": ALL},
    "all, a policy's": {"extras": ALL, "policy": {"kind": "autoaugment"}},  # sharpness and auto-contrast, too
}


@dataclasses.dataclass(frozen=True)
class Case:
    decoded: str  # "gpu": as DALI does, into memory of its own; "cpu": libjpeg-turbo or DALI
    extras: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="of the epoch that is counted")
    parser.add_argument("--size", type=int, default=32, help="of the model's images, pixels")
    frame.json_option(parser)
    options = parser.parse_args()
    samples = photos(options.batch * options.steps)
    cases = [Case(decoded, extras) for decoded in ("gpu", "cpu") for extras in EXTRAS]
    rows = [train(case, samples, options) for case in cases]
    rows += [validate(decoded, samples, options) for decoded in ("gpu", "cpu")]
    headings = [
        "",
        "decoded",
        "extras",
        "uploads",
        "pageable",
        "blocking",
        "waits",
        "in steps",
        "in other threads",
        "launches",
        "the model's",
    ]
    names = ("what", "decoded", "extras")
    figures = (
        "uploads",
        "pageable_uploads",
        "blocking_uploads",
        "waits",
        "waits_in_steps",
        "waits_elsewhere",
        "launches",
        "model_launches",
    )
    cells = [[str(row[name]) for name in names] + [f"{row[name]:.1f}" for name in figures] for row in rows]
    Console(width=110).print(frame.table("Counts for one batch", headings, cells, words=3))
    settings = {"batch": options.batch, "steps": options.steps, "size": options.size, "optimizer": "adamw"}
    frame.finish(frame.result(rows, settings), options.json)


def photos(count: int) -> Samples:
    """JPEGs of two classes, 120 x 90 pixels and thereabouts."""
    contents = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        size = (120 + number % 7, 90 + number % 5)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG")
        contents.append(stream.getvalue())
    numbers = np.arange(count)
    return Samples([str(number) for number in numbers], Memory(contents), numbers * 7919, numbers % 2)


def train(case: Case, samples: Samples, options: argparse.Namespace) -> dict[str, Any]:
    """Counts of an epoch, by the step."""
    policy = Policy(AugmentSection.model_validate(PLAIN | EXTRAS[case.extras]), MEAN, STD)
    batches = orders(len(samples.ids), options)
    with on_double(case.decoded) as gpu:
        learner = a_learner(options)
        loader = Loader(samples, DecodeSection(device=case.decoded), DEVICE)
        mix = MixSection(mixup=0.2, cutmix=1.0, p=0.5)
        for number in (0, 1):  # the first warms up
            gpu.clear()
            epoch = Epoch(0, number, options.size, options.size, mix)
            model_launches, waits = 0, 0
            with closing(loader.train(batches, policy, epoch)) as running:
                for batch in running:
                    before = gpu.on_default_stream  # batches are made beside it meanwhile
                    learner.take_step(batch)
                    model_launches += gpu.on_default_stream - before
                    waits = len(gpu.waits_here)
        return row("training", case, gpu, options.steps, model_launches, waits)


def validate(decoded: str, samples: Samples, options: argparse.Namespace) -> dict[str, Any]:
    """Counts of scoring, by the batch."""
    rows_N = np.arange(len(samples.ids))
    with on_double(decoded) as gpu:
        learner = a_learner(options)
        loader = Loader(samples, DecodeSection(device=decoded), DEVICE)
        contract = Contract(options.size, options.size, MEAN, STD)
        member = Member(learner.model, contract, learner.runtime, ("a", "b"))
        gpu.clear()
        score(Members([member]), Images(loader, rows_N, options.batch), Ranks(0, 1, DEVICE))
        return row("validation", Case(decoded, "none"), gpu, len(rows_N) // options.batch)


def orders(samples: int, options: argparse.Namespace) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.permutation(samples)[: options.batch] for _ in range(options.steps)]


class on_double(ExitStack):
    """A device that is none, with a decoder that answers as DALI would."""

    def __init__(self, decoded: str) -> None:
        super().__init__()
        self.decoded = decoded

    def __enter__(self) -> FakeCuda:
        gpu = self.enter_context(FakeCuda())
        if self.decoded == "gpu":
            lending = lambda *_: LendingDecoder(gpu)  # noqa: E731
            self.enter_context(mock.patch.object(choose, "DaliDecoder", lending))
        return gpu


def a_learner(options: argparse.Namespace) -> Learner:
    stage = StageSection(size=options.size, batch=options.batch, epochs=1, lr=1e-3)
    section = TrainSection(ema=0.9, precision="fp32", compile="off", clip=1.0)
    model = ModelSection(backbone="test_convnext", pretrained=False)
    learner = Learner(model, section, 2, (options.size, options.size), Runtime.of(section, DEVICE))
    learner.begin_stage(stage)
    learner.begin_epoch(stage, 0)
    return learner


def row(
    what: str, case: Case, gpu: FakeCuda, steps: int, model_launches: int = 0, waits_in_steps: int = 0
) -> dict[str, Any]:
    here = len(gpu.waits_here)
    counts = {
        "uploads": len(gpu.uploads),
        "pageable_uploads": len(gpu.pageable_uploads),
        "blocking_uploads": len(gpu.blocking_uploads),
        "waits": here,
        "waits_in_steps": waits_in_steps,
        "waits_elsewhere": len(gpu.waits) - here,
        "launches": gpu.launches.total() - model_launches,
        "model_launches": model_launches,
    }
    each = {name: round(count / steps, 2) for name, count in counts.items()}
    return {"what": what, **dataclasses.asdict(case), **each}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
