"""What `engine report` takes: seconds, memory and the size of the page, as photos and classes become more.

    python benchmarks/bench_report.py [--cases 1000x10,10000x100,100000x400] [--json FILE]

Each case is made and reported on in processes of their own: drawn photos in a folder a class, and out-of-fold answers
as a run leaves them, which are right in about three of four cases and confuse neighbours. Nothing is trained, so there
are no curves and no heatmaps. Memory is the most that the process held while the page was made, over what it held
before, with Python and its libraries. The first report of a folder indexes the photos, which training has done
otherwise; told is the second.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

import frame
from engine.bench.envelope import Row
from engine.metrics import evaluate
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.load import parse_recipe
from engine.report.result import write_report
from engine.store.run_folder import RunFolder
from engine.system import host_bytes, peak_host_bytes, reset_peak

CASES = "1000x10,10000x100,100000x400"
MIB = 2**20


def make_run(folder: Path, photos: int, classes: int) -> Path:
    """Photos, and a run's folder with answers about them."""
    names = [f"class {number:03d}" for number in range(classes)]
    labels_N = np.random.default_rng(0).integers(0, classes, photos)
    ids = _draw(folder / "photos", names, labels_N)
    answers = _answers(ids, names, labels_N)
    run = RunFolder(folder / "run")
    run.path.mkdir()
    recipe = parse_recipe(
        {
            "name": f"{photos} x {classes}",
            "data": {"train": str(folder / "photos"), "cache": str(folder / "cache"), "check": "header"},
            "stage": [{"size": 64, "batch": 8, "epochs": 5, "lr": 1e-3}],
        }
    )
    run.claim.write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}), "utf-8")
    answers.write(run.out_of_fold)
    scores = {"baseline_log_loss": float(np.log(classes)), "out_of_fold": evaluate(answers).metrics}
    run.scores.write_text(json.dumps(scores), "utf-8")
    return run.path


def _draw(folder: Path, names: Sequence[str], labels_N: np.ndarray) -> list[str]:
    """A photo for each label, all of a class alike but for a number in the file; returns their ids."""
    contents = []
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        coarse = np.random.default_rng(label).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        contents.append(file.getvalue())
    ids = []
    for number, label in enumerate(labels_N.tolist()):
        ids.append(f"{names[label]}/{number:06d}.jpg")
        comment = b"\xff\xfe\x00\x08%06d" % number  # so that no two files are the same
        (folder / ids[-1]).write_bytes(contents[label][:2] + comment + contents[label][2:])
    return ids


def _answers(ids: Sequence[str], names: Sequence[str], labels_N: np.ndarray) -> LabelledPredictions:
    random, rows = np.random.default_rng(1), np.arange(len(ids))
    scores_NC = random.gumbel(size=(len(ids), len(names))).astype(np.float32)
    scores_NC[rows, labels_N] += np.float32(np.log(3 * len(names)))
    scores_NC[rows, (labels_N + 1) % len(names)] += np.float32(np.log(len(names)) / 2)
    p_NC = np.exp(scores_NC - scores_NC.max(1, keepdims=True))
    p_NC /= p_NC.sum(1, keepdims=True)
    groups = [f"sender {number // 10}" for number in range(len(ids))]
    return Predictions(tuple(ids), tuple(names), p_NC).labelled([names[label] for label in labels_N], rows % 4, groups)


def measure(photos: int, classes: int, folder: Path, again: bool) -> Row:
    """Report on a run that was made there, whose photos are indexed where this is done `again`."""
    run = folder / "run"
    before = host_bytes()
    reset_peak()
    started = time.perf_counter()
    page = write_report(run, folder / "report.html", heatmaps=False)
    seconds = time.perf_counter() - started
    return {
        "name": f"{photos:,} photos, {classes} classes",
        "photos": photos,
        "classes": classes,
        "indexed_before": again,
        "seconds": seconds,
        "memory_bytes": peak_host_bytes() - before,
        "page_bytes": page.stat().st_size,
    }


def apart(step: str, case: str, folder: Path) -> Row:
    """`step` of a case in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--cases", case, "--folder", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
    shown = [
        (row["name"], f"{row['seconds']:.1f}", f"{row['memory_bytes'] / MIB:,.0f}", f"{row['page_bytes'] / 1e6:.2f}")
        for row in rows
    ]
    return frame.table("reports", ("", "seconds", "memory, MiB", "page, MB"), shown)


def _step(name: str, case: str, folder: Path) -> Row:
    photos, classes = map(int, case.split("x"))
    if name == "make":
        make_run(folder, photos, classes)
        return {}
    return measure(photos, classes, folder, name == "again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES, help="photos x classes, with commas between")
    parser.add_argument("--step", default="", help=argparse.SUPPRESS)  # one of a case, in a process of its own
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    frame.json_option(parser)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(_step(options.step, options.cases, options.folder)))
        return
    rows: list[Row] = []
    for case in options.cases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            made = [apart(step, case, Path(folder)) for step in ("make", "first", "again")]
        rows += made[1:]
    Console(stderr=True).print(table([row for row in rows if row["indexed_before"]]))
    frame.finish(frame.result(rows, {"photos": "drawn, 400 x 300", "heatmaps": False}), options.json)


if __name__ == "__main__":
    main()
