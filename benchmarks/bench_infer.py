"""The memory that `engine infer` takes, from ten thousand images to ten million, on the CPU.

    python benchmarks/bench_infer.py [--cases parquet:10000,list:100000] [--json FILE]

A stand-in answers in place of models: at once, without reading a file, so that ten million images take minutes. All
else is what `engine infer` does: images are listed (a table whose rows all name one small photo under ids of their own,
or a list of such paths on standard input), answered part by part, and written as predictions.parquet and
submission.csv. Each case runs in a process of its own. Measured is how much main memory it held at most from there on,
over what it held when it began, with Python and its libraries (Linux: VmHWM after its mark has been reset, less VmRSS).

Memory is flat when a thousand times the images take about the same: `BOUND` is how much more the largest case may take
than the one of a hundred thousand images. Ten thousand are less than one piece of each file and take less.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.console import Console

import frame
from engine.augment.contract import Contract
from engine.bench.envelope import Row
from engine.loader.batches import Samples
from engine.model.build import build_model
from engine.predict.asking import Answered
from engine.predict.job import prepare
from engine.predict.models import Wishes
from engine.predict.run import answer
from engine.predict.writing import write
from engine.predictions import Predictions
from engine.quarantine import Quarantine
from engine.recipe.load import parse_recipe
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.system import host_bytes, peak_host_bytes, reset_peak

MIB = 2**20
CASES = (
    *(("parquet", rows) for rows in (10_000, 100_000, 1_000_000, 10_000_000)),
    *(("csv", rows) for rows in (10_000, 2_000_000)),
    *(("list", rows) for rows in (10_000, 1_000_000)),
)
CLASSES = tuple(f"class {number}" for number in range(10))
BOUND = 64 * MIB
_PIECE = 100_000  # rows of the input that are made at a time


def stand_in(samples: Samples, rows_N: np.ndarray, told: Callable[[int], None]) -> Answered:
    """Answers of two models that agree, for photos that nobody looks at."""
    p_NC = np.random.default_rng(zlib.crc32(samples.ids[0].encode())).dirichlet(np.ones(len(CLASSES)), len(rows_N))
    together = Predictions(tuple(samples.ids[row] for row in rows_N.tolist()), CLASSES, p_NC)
    told(len(rows_N))
    return Answered([together, together], together, together, {}, Quarantine())


def measure(rows: int, form: str, folder: Path) -> Row:
    """Predict in this process. The row has bytes (`measured`: of memory; `written`: of predictions) and seconds."""
    _models(folder / "models")
    photo = folder / "photo.jpg"
    Image.new("RGB", (32, 32)).save(photo)
    source = _input(rows, form, photo, folder)
    names = {"list": "-"}
    stdin = source.open("rb") if form == "list" else io.BytesIO()
    place = folder / "answers"
    reset_peak()
    before = host_bytes()
    began_s = time.perf_counter()
    with _as_stdin(stdin):
        job = prepare(folder / "models", Wishes(data=names.get(form, str(source))), place=place)
    listed_s = time.perf_counter()
    outcome = answer(job, frame.CPU, ask=stand_in)
    answered_s = time.perf_counter()
    written = write(job, outcome, place)
    done_s = time.perf_counter()
    return {
        "name": f"{rows:,} images, {form}",
        "images": rows,
        "form": form,
        "measured": peak_host_bytes() - before,
        "listing_s": listed_s - began_s,
        "answering_s": answered_s - listed_s,
        "writing_s": done_s - answered_s,
        "written": written[0].stat().st_size,
    }


class _as_stdin:
    def __init__(self, stdin: BinaryIO) -> None:
        self._stdin = stdin

    def __enter__(self) -> None:
        self._before, sys.stdin = sys.stdin, io.TextIOWrapper(self._stdin)

    def __exit__(self, *_: object) -> None:
        sys.stdin = self._before


def _models(folder: Path) -> None:
    recipe = parse_recipe(
        {
            "model": {"backbone": "test_convnext", "pretrained": False},
            "stage": [{"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}],
        }
    )
    contract = Contract.of(recipe.augment, (32, 32), (0.5,) * 3, (0.25,) * 3, "bicubic")
    weights = build_model(recipe.model, len(CLASSES), (32, 32)).state_dict()
    counts = (1,) * len(CLASSES)
    for fold in ("0", "1"):
        saved = Checkpoint(weights, recipe.model_dump(mode="json"), contract.to_dict(), CLASSES, counts, "", {})
        checkpoint.save(folder / fold, saved)


def _input(rows: int, form: str, photo: Path, folder: Path) -> Path:
    """So many samples that all lie in one file; in a list, where a path is its own id, under as many spellings."""
    path = folder / f"test.{form}"
    starts = range(0, rows, _PIECE)
    if form == "list":
        with path.open("w") as file:
            for start in starts:
                numbers = range(start, min(start + _PIECE, rows))
                file.writelines(f"{folder}/{number}/../photo.jpg\n" for number in numbers)
        return path

    def pieces() -> Iterator[pa.Table]:
        for start in starts:
            numbers = range(start, min(start + _PIECE, rows))
            yield pa.table({"id": [f"TEST_{number:08d}" for number in numbers], "path": [str(photo)] * len(numbers)})

    schema = pa.schema([("id", pa.string()), ("path", pa.string())])
    writer = pq.ParquetWriter(path, schema) if form == "parquet" else pyarrow.csv.CSVWriter(path, schema)
    with writer:
        for piece in pieces():
            writer.write_table(piece)
    return path


def apart(rows: int, form: str) -> Row:
    """`measure` in a process of its own."""
    arguments = [sys.executable, __file__, "--one", f"{form}:{rows}"]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # as the command line sets it
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{rows} {form}: {done.stderr}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def table(rows: Sequence[Row]) -> object:
    headings = ("images", "peak MiB", "listing s", "answering s", "writing s", "predictions MiB")
    shown = [
        (
            row["name"],
            f"{row['measured'] / MIB:,.0f}",
            *(f"{row[f'{name}_s']:.1f}" for name in ("listing", "answering", "writing")),
            f"{row['written'] / MIB:,.0f}",
        )
        for row in rows
    ]
    return frame.table("memory of engine infer", headings, shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = ",".join(f"{form}:{rows}" for form, rows in CASES)
    parser.add_argument("--cases", default=whole, help="input and images: parquet, csv or list, and how many")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    frame.json_option(parser)
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(1)
        form, rows = arguments.one.split(":")
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(int(rows), form, Path(folder))))
        return
    found: list[Row] = []
    for form, rows in (case.split(":") for case in arguments.cases.split(",")):
        found.append(apart(int(rows), form))
        Console(stderr=True).print(table(found[-1:]))
    Console().print(table(found))
    frame.finish(frame.result(found, {"classes": len(CLASSES), "models": 2}), arguments.json)


if __name__ == "__main__":
    main()
