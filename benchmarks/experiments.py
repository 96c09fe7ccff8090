"""An experiment log in which every row has the same training time: what each part of a recipe is worth, computed.

    python benchmarks/experiments.py --data DIR --test DIR --work DIR [--rows all] [--json FILE] [--markdown FILE]
    python benchmarks/experiments.py --markdown FILE [--json FILE]        # only writes the table from the results

Logs of this kind usually compare rows of unequal cost: more folds, more epochs, more pixels. Here the plain recipe gets
`--seconds` of training, and every other row as many epochs as fit into the time that the plain one takes. How long an
image takes is measured first, at each size and with what changes the step (mixing, averaging), and kept in the work
folder with the results. Validation after each epoch is not part of that time; the seconds that were really used are
in the table.

The rows add up in the order of `PARTS`; `--rows all` adds each part alone. Folds share the time of the row between
them, so that a model of k folds has seen a k-th of the epochs; they come last, where they judge a finished recipe. All
rows hold out the same share of the images: one of `--folds` parts.

The score is that of `--test`, photos that no row trains or selects on, answered as `engine infer` answers them. A seed
draws the split, the weights and all else. A verdict compares the rows seed by seed: the difference in test log loss
helped or hurt where its 90 % interval (Student's t over the seeds) leaves zero out; otherwise there is no difference
that so many seeds can show.

Every row and seed has a folder of its own in the work folder; what is finished there is used again, and what was
interrupted goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: what waits must not spin

import torch
from rich.console import Console
from scipy.stats import t as student

import frame
from engine.bench.envelope import Envelope, read, without_place
from engine.cli.common import progress
from engine.errors import EngineError
from engine.events import EpochEnded, Event, FoldBegan, ImagesDone, Watcher
from engine.files import write_text
from engine.metrics import METRICS
from engine.predict.job import prepare as prepare_prediction
from engine.predict.models import Wishes
from engine.predict.run import answer
from engine.ranks import Ranks
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.system import cores
from engine.text import count
from engine.training.prepare import Prepared, prepare
from engine.training.run import train

RESULTS = frame.RESULTS / "experiments_cpu.json"
PARTS = {
    "mixing": "MixUp and CutMix",
    "ema": "EMA of the weights",
    "progressive": "progressive resizing",
    "hard_pairs": "batches of hard pairs",
    "folds": "folds, averaged",
}
STAGES = ((0.75, 0.15), (0.875, 0.2), (1.0, 0.65))  # progressive: share of the size, and of the time
CALIBRATION_EPOCHS = 2  # the last one counts
CONFIDENCE = 0.9
ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all rows share."""

    data: str
    test: str
    work: Path
    seconds: float
    folds: int
    backbone: str
    size: int
    batch: int
    lr: float
    mixup: float = 0.2
    cutmix: float = 1.0
    mix_p: float = 0.5
    ema: float = 0.99
    hard_pairs: int = 10
    hard_share: float = 0.3
    scale: tuple[float, float] = (0.5, 1.0)

    def public(self) -> dict[str, Any]:
        """For JSON: without places on this machine."""
        own = dataclasses.asdict(self)
        del own["work"]
        return own | {"data": without_place(self.data), "test": without_place(self.test)}


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe: the plain one with these parts; `before`: the key of the row it adds its last part to."""

    parts: tuple[str, ...]

    @property
    def key(self) -> str:
        return "+".join(self.parts) or "plain"

    @property
    def before(self) -> str | None:
        return Row(self.parts[:-1]).key if self.parts else None


class Stage(NamedTuple):
    """So many epochs at one size."""

    size: int
    epochs: int


def rows(which: str) -> list[Row]:
    """cumulative, all (each part alone, too), or keys such as "plain,mixing+ema" by comma."""
    names = tuple(PARTS)
    cumulative = [Row(names[:count]) for count in range(len(names) + 1)]
    alone = [Row((name,)) for name in names if Row((name,)) not in cumulative]
    if which == "cumulative":
        return cumulative
    if which == "all":
        return cumulative + alone
    known = {row.key: row for row in cumulative + alone}
    chosen = [key.strip() for key in which.split(",")]
    if unknown := [key for key in chosen if key not in known]:
        raise SystemExit(f"--rows: there is no row {unknown[0]!r}; rows are {', '.join(known)}, or cumulative, or all")
    return [row for key, row in known.items() if key in chosen or key == "plain"]  # the time is the plain row's


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe(settings: Settings, row: Row, stages: Sequence[Stage], seed: int, output: Path) -> Recipe:
    """The row's recipe with these stages."""
    augment: dict[str, Any] = {
        "crop": {"kind": "random_resized", "scale": list(settings.scale)},
        "flip": 0.5,
        "filter": "bilinear",
        "valid": {"fit": "center"},  # scored as it is trained
    }
    if "mixing" in row.parts:
        augment["mix"] = [{"mixup": settings.mixup, "cutmix": settings.cutmix, "p": settings.mix_p}]
    fitting: dict[str, Any] = {"weight_decay": 0.05, "schedule": {"warmup_epochs": 0.5, "over": "run"}}
    if "ema" in row.parts:
        fitting["ema"] = settings.ema
    if "hard_pairs" in row.parts:
        fitting["sampling"] = {"hard_pairs": settings.hard_pairs, "hard_share": settings.hard_share}
    return parse_recipe(
        {
            "name": row.key,
            "seed": seed,
            "output": str(output),
            "data": {
                "train": settings.data,
                "cache": str(settings.work / "cache"),
                "folds": {"count": settings.folds, "run": [] if "folds" in row.parts else [0]},
            },
            "decode": {"device": "cpu"},
            "augment": augment,
            "model": {"backbone": settings.backbone, "pretrained": False},
            "train": fitting,
            "stage": [
                {"size": stage.size, "batch": settings.batch, "epochs": stage.epochs, "lr": settings.lr}
                for stage in stages
            ],
        }
    )


# --- the same time for every row -------------------------------------------------------------------------------------


class Clock:
    """Seconds an epoch takes, by the size and what changes the step; measured once and kept in the work folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.work / "calibration.json"
        self.epoch_s: dict[str, float] = json.loads(self._path.read_text()) if self._path.is_file() else {}

    def epoch(self, row: Row, size: int) -> float:
        """Seconds of one training epoch of one fold of the row at this size."""
        parts = tuple(part for part in ("mixing", "ema") if part in row.parts)
        key = f"{Row(parts).key}@{size}"
        if key not in self.epoch_s:
            folder = self._settings.work / "calibration" / f"{key}-{time.time_ns()}"
            made = recipe(self._settings, Row(parts), [Stage(size, CALIBRATION_EPOCHS)], 0, folder)
            fit(prepare(made), f"measuring {key}")
            self.epoch_s[key] = _log(folder)[-1]["train_seconds"]
            write_text(self._path, json.dumps(self.epoch_s, indent=1) + "\n")
        return self.epoch_s[key]

    def stages(self, row: Row) -> list[Stage]:
        """The row's stages: as many epochs as fit into the time of the plain row, at least one a stage."""
        plain_s = self.epoch(Row(()), self._settings.size)
        budget_s = max(1, round(self._settings.seconds / plain_s)) * plain_s
        if "folds" in row.parts:
            budget_s /= self._settings.folds
        return plan(budget_s, [(size, share, self.epoch(row, size)) for size, share in self._sizes(row)])

    def _sizes(self, row: Row) -> list[tuple[int, float]]:
        size = self._settings.size
        if "progressive" not in row.parts:
            return [(size, 1.0)]
        return [(round(size * part / 8) * 8, share) for part, share in STAGES]


def plan(budget_s: float, stages: Sequence[tuple[int, float, float]]) -> list[Stage]:
    """Epochs for each (size, share of the budget, seconds an epoch); the last stage takes what the others leave."""
    planned: list[Stage] = []
    left_s = budget_s
    for number, (size, share, epoch_s) in enumerate(stages):
        wanted_s = left_s if number == len(stages) - 1 else share * budget_s
        epochs = max(1, round(wanted_s / epoch_s))
        planned.append(Stage(size, epochs))
        left_s -= epochs * epoch_s
    return planned


# --- training and scoring --------------------------------------------------------------------------------------------


def measured(settings: Settings, row: Row, stages: Sequence[Stage], seed: int) -> dict[str, Any]:
    """The row trained and scored with a seed, or what an earlier call found. Raises SystemExit when the folder is of
    other settings."""
    folder = settings.work / row.key / str(seed)
    finished = folder / "result.json"
    made = recipe(settings, row, stages, seed, folder / "models")
    mark = _mark(made, settings.test)
    if finished.is_file():
        found: dict[str, Any] = json.loads(finished.read_text("utf-8"))
        if found["mark"] != mark:
            raise SystemExit(f"{folder} holds a result of other settings; give another --work, or remove that folder")
        return found
    prepared = prepare(made)
    result = fit(prepared, f"{row.key}, seed {seed}")
    began_s = time.perf_counter()
    outcome = answer(prepare_prediction(folder / "models", Wishes(data=settings.test)), ALONE.device)
    if outcome.scores is None:
        raise SystemExit(
            f"--test {settings.test}: its images have no labels; give a folder with one sub-folder a class"
        )
    epochs = _log(folder / "models")
    found = {
        "seed": seed,
        "mark": mark,
        "valid": _two(result.metrics),
        "test": _two(outcome.scores.together),
        "test_images": outcome.scores.images,
        "test_baseline": _two(outcome.scores.baseline),
        "train_s": sum(epoch["train_seconds"] for epoch in epochs),
        "valid_s": sum(epoch["valid_seconds"] for epoch in epochs),
        "test_s": time.perf_counter() - began_s,
        "images": sum(epoch["images"] for epoch in epochs),
    }
    write_text(finished, json.dumps(found, indent=1) + "\n")
    return found


def fit(prepared: Prepared, title: str) -> Any:
    """Train what is left of a run, with a bar."""

    class Bar(Watcher):
        def hear(self, event: Event) -> None:
            match event:
                case ImagesDone(count=count):
                    meter.advance(count)
                case FoldBegan(images=images, done=done):
                    meter(done, images)
                case EpochEnded(record=record):
                    meter.note(f"fold {record.fold}  log loss {record.metrics['log_loss']:.3f}")

    with progress(title=title) as meter:
        return train(prepared, ALONE, Bar(), lambda: False)


def _two(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in ("log_loss", "accuracy")}


def _log(models: Path) -> list[dict[str, Any]]:
    """A line an epoch, those of interrupted processes included."""
    return [json.loads(line) for line in (models / "log.jsonl").read_text("utf-8").splitlines()]


def _mark(made: Recipe, test: str) -> str:
    content = made.model_dump_json(exclude={"output"}) + test
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def run(settings: Settings, chosen: Sequence[Row], seeds: int) -> list[dict[str, Any]]:
    """Every row with every seed, seed by seed, so that a run cut short has whole columns."""
    clock = Clock(settings)
    planned = {row.key: clock.stages(row) for row in chosen}
    found: dict[str, list[dict[str, Any]]] = {row.key: [] for row in chosen}
    for seed in range(seeds):
        for row in chosen:
            result = measured(settings, row, planned[row.key], seed)
            found[row.key].append({key: value for key, value in result.items() if key != "mark"})
            line = f"seed {seed}  {row.key}: test log loss {result['test']['log_loss']:.4f}"
            print(f"{line}  accuracy {result['test']['accuracy']:.4f}  {result['train_s']:.0f} s", file=sys.stderr)
    return [
        {
            "key": row.key,
            "parts": list(row.parts),
            "before": row.before,
            "stages": [list(stage) for stage in planned[row.key]],
            "runs": found[row.key],
        }
        for row in chosen
    ]


# --- what it says ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row's metric minus another's, seed by seed: the mean, and how far its interval reaches to either side."""

    mean: float
    reach: float  # infinite with one seed
    verdict: str


def difference(own: Sequence[float], other: Sequence[float], metric: str = "log_loss") -> Difference:
    """Compare two rows by their values of a metric, one a seed, in the same order."""
    deltas = [a - b for a, b in zip(own, other, strict=True)]
    mean = statistics.mean(deltas)
    if len(deltas) < 2:
        return Difference(mean, math.inf, "one seed")
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(deltas) - 1))
    reach = quantile * statistics.stdev(deltas) / math.sqrt(len(deltas))
    if abs(mean) <= reach:
        return Difference(mean, reach, "no difference")
    gained = (mean > 0) == METRICS[metric].higher_is_better
    return Difference(mean, reach, "helped" if gained else "hurt")


def values(row: Mapping[str, Any], part: str, metric: str) -> list[float]:
    """One a seed."""
    return [found[part][metric] for found in row["runs"]]


HEADINGS = ("recipe", "stages", "test log loss", "accuracy", "validation", "seconds", "against plain", "last part")


def table_rows(result: Envelope) -> list[tuple[str, ...]]:
    """The cells of every row, under `HEADINGS`."""
    by_key = {row["key"]: row for row in result.rows}
    lines = []
    for key, row in by_key.items():
        cells = [_title(row["parts"], result.settings), _stages(row, result.settings)]
        for part, metric in (("test", "log_loss"), ("test", "accuracy"), ("valid", "log_loss")):
            cells.append(_mean(values(row, part, metric)))
        cells.append(f"{statistics.mean(found['train_s'] for found in row['runs']):.0f}")
        others = [by_key.get(other) if key != "plain" else None for other in ("plain", row["before"])]
        cells += [_against(row, other) if other is not None else "" for other in others]
        lines.append(tuple(cells))
    return lines


def _title(parts: Sequence[str], settings: Mapping[str, Any]) -> str:
    if not parts:
        return "plain"
    words = f"{settings['folds']} {PARTS['folds']}" if parts[-1] == "folds" else PARTS[parts[-1]]
    return f"{words}, alone" if len(parts) == 1 and parts[0] != next(iter(PARTS)) else f"+ {words}"


def _stages(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{epochs} at {size}" for size, epochs in row["stages"])
    return f"{settings['folds']} x ({stages})" if "folds" in row["parts"] else stages


def _mean(numbers: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(numbers):.3f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.3f}{spread}"


def _against(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    found = difference(values(row, "test", "log_loss"), values(other, "test", "log_loss"))
    reach = f" ± {found.reach:.3f}" if math.isfinite(found.reach) else ""
    return f"{found.mean:+.3f}{reach}: {found.verdict}"


def markdown(result: Envelope) -> str:
    """The result as a page: how it was made, the table, and what helped."""
    seeds = max(len(row["runs"]) for row in result.rows)
    lines = [
        "# An experiment log with equal training time",
        "",
        "Made by `benchmarks/experiments.py` from `benchmarks/results/experiments_cpu.json`; do not edit.",
        "",
        _setting(result),
        "",
        f"Mean ± standard deviation over {count(seeds, 'seed')}; seconds are of training. Differences are in test log "
        f"loss, seed by seed, with their {CONFIDENCE:.0%} interval: below zero is better, and an interval that holds "
        "zero is no difference that so few seeds can show. Of parts that make no difference, "
        f"{1 - CONFIDENCE:.0%} would still be given one.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(cells) + " |" for cells in table_rows(result)),
        "",
        "Each part against the row it was added to:",
        "",
        *_verdicts(result),
    ]
    return "\n".join(lines) + "\n"


def _setting(result: Envelope) -> str:
    """What was trained on what, in words."""
    settings, machine = result.settings, result.machine
    found = next(row for row in result.rows if row["key"] == "plain")["runs"][0]
    low, high = settings["scale"]
    sentences = [
        f"Photos of {_place(settings['data'])}, {settings['backbone']} from random weights at {settings['size']} "
        f"pixels, batch {settings['batch']}, learning rate {settings['lr']:g}, one of {settings['folds']} "
        "folds held out.",
        f"The plain recipe flips and crops (random resized, {low:g} to {high:g} of the area) and trains for about "
        f"{settings['seconds']:.0f} seconds; every other row has as many epochs as fit into the same time, and folds "
        "share it.",
        f"Mixing: MixUp {settings['mixup']:g} and CutMix {settings['cutmix']:g} on {settings['mix_p']:.0%} of the "
        "images.",
        f"EMA: decay {settings['ema']:g}.",
        "Progressive: the sizes in the table, one learning-rate schedule over all of them.",
        f"Hard pairs: after each validation, {settings['hard_share']:.0%} of the batches are made of the "
        f"{settings['hard_pairs']} most confused pairs of classes.",
        f"Scores are of the {found['test_images']} photos of {_place(settings['test'])}, which nothing was selected "
        f"on; answering the class shares would cost {found['test_baseline']['log_loss']:.3f}.",
        f"{machine['cpu']}, {machine['cores']} cores, {result.date[:10]}.",
        "What pays off late, such as mixing, averages and folds, is judged here as early as the time allows: a longer "
        "--seconds asks another question. A row may exceed the time where it cannot have fewer epochs.",
    ]
    return " ".join(sentences)


def _place(folder: str) -> str:
    """The end of a path, which says what is there; its beginning says whose machine it was."""
    return "/".join(Path(folder).parts[-2:])


def _verdicts(result: Envelope) -> list[str]:
    """A line for each verdict with the parts it was given to."""
    by_key = {row["key"]: row for row in result.rows}
    given: dict[str, list[str]] = {}
    for row in by_key.values():
        if row["before"] in by_key:
            before = by_key[row["before"]]
            verdict = difference(values(row, "test", "log_loss"), values(before, "test", "log_loss")).verdict
            given.setdefault(verdict, []).append(_title(row["parts"], result.settings).removeprefix("+ "))
    return [f"* {verdict}: {'; '.join(names)}" for verdict, names in sorted(given.items())]


def show(result: Envelope, console: Console) -> None:
    console.print(frame.table("equal training time", HEADINGS, table_rows(result), words=2))


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="What each part of a recipe is worth at equal training time.")
    parser.add_argument("--data", help="folder with one sub-folder of photos per class, to train on")
    parser.add_argument("--test", help="the same, to score on")
    parser.add_argument("--work", type=Path, help="keep every row's models and results here")
    parser.add_argument("--rows", default="cumulative", help="cumulative, all, or keys by comma")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of a row")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--backbone", default="convnext_zepto_rms")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--json", type=Path, default=RESULTS, help="the results: written, or read for --markdown alone")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    arguments = parser.parse_args()
    if arguments.data:
        if not (arguments.test and arguments.work):
            parser.error("--data needs --test and --work, too")
        result = _train(arguments)
        show(result, Console(width=150))
        frame.finish(result, arguments.json)
    elif not arguments.markdown:
        parser.error("give --data, --test and --work to train, or --markdown to write the table of earlier results")
    else:
        result = read(arguments.json)
    if arguments.markdown:
        write_text(arguments.markdown, markdown(result))


def _train(arguments: argparse.Namespace) -> Envelope:
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{key: value for key, value in vars(arguments).items() if key in names})
    chosen = rows(arguments.rows)
    torch.set_num_threads(cores())
    try:
        found = run(settings, chosen, arguments.seeds)
    except EngineError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last whole epoch", file=sys.stderr)
        raise SystemExit(3) from None
    return frame.result(found, settings.public() | {"epoch_s": Clock(settings).epoch_s})


if __name__ == "__main__":
    main()
