"""An experiment log in which every row has the same training time: what each part of a recipe is worth, computed.

    python benchmarks/experiments.py --recipe RECIPE --test TABLE --truth TABLE --work DIR [--seeds 3] [--json FILE]
        [--markdown FILE]
    python benchmarks/experiments.py --markdown FILE [--json FILE]        # only writes the table from the results

The recipe says the photos, the weights that are fine-tuned, the size and the rate. Logs of this kind usually compare
rows of unequal cost: more folds, more epochs, more pixels. Here the plain recipe gets `--seconds` of training, and
every other row as many epochs as fit into the time that the plain one takes. How long an image takes is measured
first, at each size and with what changes the step (mixing, averaging), and kept in the work folder with the results;
the table's seconds follow from it, and do not count validation after each epoch.

The rows add up in the order of `PARTS`. Folds share the time of the row between them, so that a model of k folds has
seen a k-th of the epochs. All rows hold out the same share of the images: one of `--folds` parts. What follows the
folds (views, weights, stacking, neighbours, calibration) trains nothing: the same models answer otherwise, by what was
fitted on the images that they held out, and was kept only where it gained on those that it was not fitted on.

The score is that of `--test`, photos that no row trains, selects or fits on, answered as `engine infer` answers them.
The table of `--truth` has their labels and groups (photos of one sender, say). A seed draws the split, the weights of
the head and all else. A verdict compares two rows photo by photo, over all seeds: the difference in log loss helped or
hurt where its 95 % interval (bootstrap over groups) leaves zero out.

Every row and seed has a folder of its own in the work folder; what is finished there is used again, and what was
interrupted goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
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

import frame
from engine.bench.envelope import Envelope, read, without_place
from engine.cli.common import progress
from engine.errors import EngineError
from engine.events import EpochEnded, Event, FoldBegan, ImagesDone, Watcher
from engine.files import write_text
from engine.intervals import compare, intervals
from engine.metrics import class_share_log_loss, score
from engine.predict.predictor import Predictor
from engine.predictions import LabelledPredictions, Predictions, joined
from engine.ranks import Ranks
from engine.recipe.load import load_recipe, parse_recipe
from engine.recipe.sections import Recipe
from engine.system import cores
from engine.text import count
from engine.training.prepare import Prepared, prepare
from engine.training.run import train
from peers.photos import Photos, labelled_photos

RESULTS = frame.RESULTS / "experiments_cpu.json"
TRAINED = {
    "mixing": "MixUp and CutMix",
    "ema": "EMA of the weights",
    "progressive": "progressive resizing",
    "folds": "folds, averaged",
}
ANSWERED = {
    "views": "two views",
    "weights": "fitted weights of kept epochs",
    "stacking": "stacking",
    "neighbours": "neighbours",
    "temperature": "temperature",
}
PARTS = TRAINED | ANSWERED
SETS = {  # what a part that trains nothing changes in how the folds answer
    "views": ("predict.tta=2",),
    "weights": ("ensemble.weights=fit",),
    "stacking": ("ensemble.weights=equal", "ensemble.stack=logistic"),
    "neighbours": ("ensemble.neighbours=auto",),
    "temperature": ("ensemble.calibrate=temperature",),
}
PLAIN = ("predict.tta=1", "ensemble.calibrate=off")
STAGES = ((0.67, 0.15), (0.83, 0.2), (1.0, 0.65))  # progressive: share of the size, and of the time
CALIBRATION_EPOCHS = 2  # the last one counts
SHOWN = ("log_loss", "accuracy", "macro_f1", "calibration_error")
ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all rows share. `base`: the recipe that they begin with."""

    base: Recipe
    test: str
    truth: str
    work: Path
    seconds: float
    folds: int
    mixup: float = 0.2
    cutmix: float = 1.0
    mix_p: float = 0.5
    ema: float = 0.99

    @property
    def size(self) -> int:
        return self.base.stage[0].size[0]

    def public(self) -> dict[str, Any]:
        """For JSON: without places on this machine."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del own["work"], own["base"]
        stage = self.base.stage[0]
        return own | {
            "data": without_place(self.base.data.train),
            "test": without_place(self.test),
            "truth": without_place(self.truth),
            "backbone": self.base.model.backbone,
            "weights": Path(self.base.model.weights).name,
            "size": self.size,
            "batch": stage.batch,
            "lr": stage.lr,
            "scale": list(self.base.augment.crop.scale),
        }


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe: the plain one with these parts."""

    parts: tuple[str, ...]

    @property
    def key(self) -> str:
        return "+".join(self.parts) or "plain"

    @property
    def before(self) -> Row | None:
        """The row that it adds its last part to."""
        return Row(self.parts[:-1]) if self.parts else None

    @property
    def trained(self) -> Row:
        """The row whose models answer for it."""
        return Row(tuple(part for part in self.parts if part in TRAINED))

    @property
    def sets(self) -> tuple[str, ...]:
        """How its models answer."""
        return (*PLAIN, *(text for part in self.parts for text in SETS.get(part, ())))


class Stage(NamedTuple):
    """So many epochs at one size."""

    size: int
    epochs: int


def rows(without: Sequence[str] = ()) -> list[Row]:
    """The plain recipe and then a part more each, but for those that are left out."""
    names = tuple(name for name in PARTS if name not in without)
    return [Row(names[:count]) for count in range(len(names) + 1)]


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe(settings: Settings, row: Row, stages: Sequence[Stage], seed: int, output: Path) -> Recipe:
    """The row's recipe with these stages."""
    base: dict[str, Any] = settings.base.model_dump(mode="json", exclude_defaults=True)
    first = base.pop("stage")[0]
    augment, fitting = dict(base.get("augment", {})), dict(base.get("train", {}))
    fitting["schedule"] = {"warmup_epochs": 0.5, "over": "run"}
    if "mixing" in row.parts:
        augment["mix"] = [{"mixup": settings.mixup, "cutmix": settings.cutmix, "p": settings.mix_p}]
    if "ema" in row.parts:
        fitting["ema"] = settings.ema
    if "folds" in row.parts:
        fitting["keep_last"] = 2
    folds = {"count": settings.folds, "run": [] if "folds" in row.parts else [0]}
    return parse_recipe(
        base
        | {
            "name": row.key,
            "seed": seed,
            "output": str(output),
            "data": base["data"] | {"cache": str(settings.work / "cache"), "folds": folds},
            "augment": augment,
            "train": fitting,
            "stage": [first | {"size": stage.size, "epochs": stage.epochs} for stage in stages],
        },
        row.sets,
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

    def seconds(self, row: Row) -> float:
        """What the row's stages take in all, by what an epoch took when it was measured."""
        folds = self._settings.folds if "folds" in row.parts else 1
        return folds * sum(stage.epochs * self.epoch(row, stage.size) for stage in self.stages(row))

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


# --- training and answering ------------------------------------------------------------------------------------------


def trained(settings: Settings, row: Row, stages: Sequence[Stage], seed: int) -> tuple[Path, dict[str, float]]:
    """The row's models with a seed, and their seconds. Raises SystemExit when the folder is of other settings."""
    folder = settings.work / row.key / str(seed)
    made = recipe(settings, row, stages, seed, folder / "models")
    mark = hashlib.sha256(made.model_dump_json(exclude={"output"}).encode()).hexdigest()[:16]
    finished = folder / "trained.json"
    if not finished.is_file():
        fit(prepare(made), f"{row.key}, seed {seed}")
        epochs = _log(folder / "models")
        took = {f"{part}_s": sum(epoch[f"{part}_seconds"] for epoch in epochs) for part in ("train", "valid")}
        write_text(finished, json.dumps({"mark": mark} | took, indent=1) + "\n")
    found = json.loads(finished.read_text("utf-8"))
    if found.pop("mark") != mark:
        raise SystemExit(f"{folder} holds a result of other settings; give another --work, or remove that folder")
    return folder / "models", found


def answers(
    settings: Settings, row: Row, stages: Sequence[Stage], seed: int, models: Path, photos: Photos
) -> LabelledPredictions:
    """What the models answer about the test photos with the row's parts, or what an earlier call found."""
    file = settings.work / row.key / str(seed) / "answers.parquet"
    about = {"sets": list(row.sets)}
    if not file.is_file() or Predictions.read_about(file) != about:
        fit(prepare(recipe(settings, row, stages, seed, models)), f"{row.key}, seed {seed}")  # trains nothing anew
        file.parent.mkdir(parents=True, exist_ok=True)
        photos.labelled(Predictor(models)(photos.paths, photos.ids)).write(file, about=about)
    found = Predictions.read(file)
    assert isinstance(found, LabelledPredictions)  # as it was written
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


def _log(models: Path) -> list[dict[str, Any]]:
    """A line an epoch, those of interrupted processes included."""
    return [json.loads(line) for line in (models / "log.jsonl").read_text("utf-8").splitlines()]


Answers = dict[str, list[LabelledPredictions]]
"""By the key of the row, one a seed."""


def train_all(settings: Settings, chosen: Sequence[Row], seeds: int) -> None:
    """Train every row with every seed, seed by seed, so that a run cut short has whole columns."""
    clock = Clock(settings)
    planned = {row.key: clock.stages(row) for row in chosen if row == row.trained}
    for seed in range(seeds):
        for row in chosen:
            if row.key in planned:
                _, took = trained(settings, row, planned[row.key], seed)
                print(f"seed {seed}  {row.key}: {took['train_s']:.0f} s", file=sys.stderr)


def run(settings: Settings, chosen: Sequence[Row], seeds: int) -> list[dict[str, Any]]:
    """Train and score every row with every seed."""
    train_all(settings, chosen, seeds)
    clock = Clock(settings)
    photos = labelled_photos(settings.test, settings.truth, settings.base.data, _classes(settings))
    found: Answers = {}
    lines: list[dict[str, Any]] = []
    for row in chosen:
        stages = clock.stages(row.trained)
        runs = []
        found[row.key] = []
        for seed in range(seeds):
            models, took = trained(settings, row.trained, stages, seed)
            own = answers(settings, row, stages, seed, models, photos)
            found[row.key].append(own)
            test = score(own.probabilities_NC, own.labels_N, SHOWN)
            runs.append({"seed": seed, "test": test} | took)
            print(f"seed {seed}  {row.key}: test log loss {test['log_loss']:.4f}", file=sys.stderr)
        before = row.before
        lines.append(
            {
                "key": row.key,
                "parts": list(row.parts),
                "stages": [list(stage) for stage in stages],
                "seconds": clock.seconds(row.trained),
                "runs": runs,
                "interval": _interval(found[row.key]),
                "against_plain": difference(found["plain"], found[row.key]) if before else None,
                "against_before": difference(found[before.key], found[row.key]) if before else None,
            }
        )
    own = found["plain"][0]
    lines[0] |= {"photos": len(own), "groups": len(set(own.groups)), "class_shares": _class_shares(settings, own)}
    return lines


def _classes(settings: Settings) -> list[str]:
    return prepare(recipe(settings, Row(()), [Stage(settings.size, 1)], 0, settings.work / "none")).classes


def _class_shares(settings: Settings, test: LabelledPredictions) -> float:
    """Log loss on the test photos of always answering the class shares of the training photos."""
    prepared = prepare(recipe(settings, Row(()), [Stage(settings.size, 1)], 0, settings.work / "none"))
    return class_share_log_loss(prepared.samples.labels_N, test.labels_N, len(test.classes))


def _over_seeds(found: Sequence[LabelledPredictions]) -> LabelledPredictions:
    """The answers of all seeds as one: a photo stands there once a seed, in its group."""
    named = [dataclasses.replace(one, ids=tuple(f"{seed} {id_}" for id_ in one.ids)) for seed, one in enumerate(found)]
    return joined(named)


def _interval(found: Sequence[LabelledPredictions]) -> list[float | None]:
    one = intervals(_over_seeds(found), ["log_loss"])["log_loss"]
    return [one.low, one.high]


def difference(before: Sequence[LabelledPredictions], after: Sequence[LabelledPredictions]) -> dict[str, Any]:
    """In log loss, photo by photo over all seeds."""
    apart = compare(_over_seeds(before), _over_seeds(after))
    return {name: getattr(apart, name) for name in ("difference", "low", "high", "verdict")}


# --- what it says ----------------------------------------------------------------------------------------------------

HEADINGS = ("recipe", "stages", "log loss", "accuracy", "macro F1", "ECE", "seconds", "against plain", "last part")
VERDICTS = {"better": "helped", "worse": "hurt", "not told apart": "no difference"}


def table_rows(result: Envelope) -> list[tuple[str, ...]]:
    """The cells of every row, under `HEADINGS`."""
    lines = []
    for row in result.rows:
        cells = [_title(row["parts"], result.settings), _stages(row, result.settings)]
        low, high = row["interval"]
        cells.append(f"{_mean(row, 'log_loss')} ({low:.3f} to {high:.3f})")
        cells += [_mean(row, name) for name in SHOWN[1:]]
        cells.append(f"{row['seconds']:.0f}")
        cells += [_against(row[name]) for name in ("against_plain", "against_before")]
        lines.append(tuple(cells))
    return lines


def _title(parts: Sequence[str], settings: Mapping[str, Any]) -> str:
    if not parts:
        return "plain"
    words = f"{settings['folds']} {PARTS['folds']}" if parts[-1] == "folds" else PARTS[parts[-1]]
    return f"+ {words}"


def _stages(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if row["parts"] and row["parts"][-1] in ANSWERED:
        return "the same models"
    stages = ", ".join(f"{epochs} at {size}" for size, epochs in row["stages"])
    return f"{settings['folds']} x ({stages})" if "folds" in row["parts"] else stages


def _mean(row: Mapping[str, Any], metric: str) -> str:
    return f"{statistics.mean(found['test'][metric] for found in row['runs']):.3f}"


def _against(apart: Mapping[str, Any] | None) -> str:
    if apart is None:
        return ""
    return f"{apart['difference']:+.3f} ({apart['low']:+.3f} to {apart['high']:+.3f}): {VERDICTS[apart['verdict']]}"


def markdown(result: Envelope) -> str:
    """The page: what was done, the table, the verdicts."""
    seeds = len(result.rows[0]["runs"])
    lines = [
        "# An experiment log with equal training time",
        "",
        "Made by `benchmarks/experiments.py` from `benchmarks/results/experiments_cpu.json`; do not edit.",
        "",
        _setting(result),
        "",
        f"Means over {count(seeds, 'seed')}; seconds are of training, by what an epoch took before. In brackets 95 % "
        "intervals over senders, of all seeds together. Differences are in log loss, photo by photo: below zero is "
        "better, and an interval that holds zero is no difference that these photos can show.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(cells) + " |" for cells in table_rows(result)),
        "",
        "Each part against the row before it:",
        "",
        *_verdicts(result),
    ]
    return "\n".join(lines) + "\n"


def _setting(result: Envelope) -> str:
    """What was trained on what, in words."""
    settings, machine, plain = result.settings, result.machine, result.rows[0]
    low, high = settings["scale"]
    sentences = [
        f"Photos of {settings['data']}, {settings['backbone']} fine-tuned from {settings['weights']} at "
        f"{settings['size']} pixels, batch {settings['batch']}, learning rate {settings['lr']:g}, one of "
        f"{settings['folds']} folds held out, no sender on both sides.",
        f"The plain recipe flips and crops (random resized, {low:g} to {high:g} of the area) and trains for about "
        f"{settings['seconds']:.0f} seconds; every other row has as many epochs as fit into the same time, and folds "
        "share it. From the views on the same fold models answer otherwise, by what was fitted on what they held out "
        "and kept only where it gained there.",
        f"Mixing: MixUp {settings['mixup']:g} and CutMix {settings['cutmix']:g} on {settings['mix_p']:.0%} of the "
        "images.",
        f"EMA: decay {settings['ema']:g}.",
        "Progressive: the sizes in the table, one learning-rate schedule over all of them.",
        f"Scores are of the {plain['photos']} photos of {settings['test']}, by {plain['groups']} senders whom no row "
        f"was trained, selected or fitted on; answering the class shares would cost {plain['class_shares']:.3f}.",
        f"{machine['cpu']}, {machine['cores']} cores, {result.date[:10]}.",
        "What pays off late, such as mixing and averages, is judged here as early as the time allows: a longer "
        "--seconds asks another question. A row may exceed the time where it cannot have fewer epochs.",
    ]
    return " ".join(sentences)


def _verdicts(result: Envelope) -> list[str]:
    """A line for each verdict with the parts it was given to."""
    given: dict[str, list[str]] = {}
    for row in result.rows:
        if row["against_before"]:
            verdict = VERDICTS[row["against_before"]["verdict"]]
            given.setdefault(verdict, []).append(_title(row["parts"], result.settings).removeprefix("+ "))
    return [f"* {verdict}: {'; '.join(names)}" for verdict, names in sorted(given.items())]


def show(result: Envelope, console: Console) -> None:
    console.print(frame.table("equal training time", HEADINGS, table_rows(result), words=2))


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="What each part of a recipe is worth at equal training time.")
    parser.add_argument("--recipe", type=Path, help="photos, weights, size, batch and rate of all rows")
    parser.add_argument("--test", help="table of photos to score on")
    parser.add_argument("--truth", help="table with their labels and groups")
    parser.add_argument("--work", type=Path, help="keep every row's models and results here")
    parser.add_argument("--without", default="", help=f"parts to leave out, by comma: {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90.0, help="training time of a row")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--size", type=int, help="in place of the recipe's")
    parser.add_argument("--train-only", action="store_true", help="stop when all is trained")
    parser.add_argument("--json", type=Path, default=RESULTS, help="the results: written, or read for --markdown alone")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    arguments = parser.parse_args()
    if arguments.recipe:
        if not (arguments.test and arguments.truth and arguments.work):
            parser.error("--recipe needs --test, --truth and --work, too")
        made = _measure(arguments)
        if made is None:
            return
        result = made
        show(result, Console(width=170))
        frame.finish(result, arguments.json)
    elif not arguments.markdown:
        parser.error("give --recipe, --test, --truth and --work to train, or --markdown to write the table of results")
    else:
        result = read(arguments.json)
    if arguments.markdown:
        write_text(arguments.markdown, markdown(result))


def _measure(arguments: argparse.Namespace) -> Envelope | None:
    sets = [f"stage.0.size={arguments.size}"] if arguments.size else []
    base = load_recipe(arguments.recipe, sets)
    settings = Settings(base, arguments.test, arguments.truth, arguments.work, arguments.seconds, arguments.folds)
    chosen = rows([name for name in arguments.without.split(",") if name])
    torch.set_num_threads(cores())
    try:
        if arguments.train_only:
            train_all(settings, chosen, arguments.seeds)
            return None
        found = run(settings, chosen, arguments.seeds)
    except EngineError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last whole epoch", file=sys.stderr)
        raise SystemExit(3) from None
    return frame.result(found, settings.public() | {"epoch_s": Clock(settings).epoch_s})


if __name__ == "__main__":
    main()
