"""Everything that needs a GPU, in one command: checks first, then measurements, then one table.

    python benchmarks/gpu_suite.py [--data FOLDER] [--minutes 8] [--only tests,pass,bench,train] [--results DIR]

Meant for a machine that is at hand for minutes: each part runs as its own process with a time limit, a part that fails
or runs out of time does not stop the others, and every result is on disk as soon as it exists. The parts:

* tests: the tests marked `gpu` (Triton natively, DALI on the GPU, bf16, compiled steps).
* pass:  `bench_augment.py`: the pass against copy bandwidth, Kornia eager and compiled, at 256 to 768.
* bench: `engine bench` at the sizes and batches of progressive_768, ConvNeXt-Base: is the loader faster than the model?
* train: `engine train recipes/progressive_768.toml` at its real sizes and batches, one short epoch a stage.

`--data` is a folder with one sub-folder per class; without it the suite draws vehicles.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

import frame
from engine.bench.envelope import read, without_place

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "progressive_768.toml"
STAGES = ((256, 224), (384, 96), (512, 48), (640, 32), (768, 32))  # pixels and batch, as the recipe has them
PARTS = ("tests", "pass", "bench", "train")
STEPS = 8  # of the first stage in the train part, when the images are drawn
Row = tuple[str, str, str]  # part, how it went, what it came to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with one sub-folder per class; drawn when not given")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts together")
    parser.add_argument("--only", default=",".join(PARTS), help="which parts, separated by commas")
    parser.add_argument("--results", type=Path, default=frame.RESULTS)
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    options.results.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + options.minutes * 60
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or _draw(Path(temporary))
        for part in parts:
            left = ends - time.monotonic()
            if left < 20:
                rows.append((part, "not run", "no time left"))
                continue
            rows += globals()[f"_{part}"](data, Path(temporary), options.results, left)
            _show(rows)


def _tests(_: Path, __: Path, results: Path, limit_s: float) -> list[Row]:
    ok, out = _run([sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests"], limit_s)
    (results / "gpu_tests.txt").write_text(out, "utf-8")
    return [("tests", "ok" if ok else "FAILED", _last(out))]


def _pass(data: Path, _: Path, results: Path, limit_s: float) -> list[Row]:
    path = results / "augment_gpu.json"
    sizes = ",".join(str(size) for size, _ in STAGES)
    script = str(ROOT / "benchmarks" / "bench_augment.py")
    ok, out = _run([sys.executable, script, "--data", str(data), "--sizes", sizes, "--json", str(path)], limit_s)
    return [("pass", "ok" if ok else "FAILED", f"{path}" if ok else _last(out))]


def _bench(data: Path, _: Path, results: Path, limit_s: float) -> list[Row]:
    rows: list[Row] = []
    ends = time.monotonic() + limit_s
    for size, batch in STAGES:
        path = results / f"bench_gpu_{size}.json"
        command = [*_engine("bench"), "--res", str(size), "--batch", str(batch), "--backbone", "convnext_base"]
        command += ["--data", str(data), "--seconds", "5", "--json", str(path)]
        ok, out = _run(command, ends - time.monotonic())
        rows.append((f"bench {size}", "ok" if ok else "FAILED", _rates(path) if ok else _last(out)))
    return rows


def _train(data: Path, temporary: Path, results: Path, limit_s: float) -> list[Row]:
    sets = [f"data.train={data}", "data.folds.count=2", "data.folds.run=[0]", f"data.cache={temporary}"]
    sets += [f"output={temporary / 'models'}", "model.pretrained=false", "stage.*.epochs=1"]
    # A short epoch: two folds of few images, so that the first stage's large batch makes STEPS steps.
    command = [*_engine("train"), str(RECIPE), *(word for text in sets for word in ("--set", text))]
    ok, out = _run(command, limit_s)
    log = temporary / "models" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
    settings = {"recipe": RECIPE.stem, "sets": [without_place(text) for text in sets]}
    frame.result(lines, settings, frame.device()).write(results / "train_gpu.json")
    rows: list[Row] = [("train", "ok" if ok else "FAILED", _last(out))]
    return rows + [(f"train {r['size'][0]}", "ok", f"{r['images_per_second']:,.0f} images/s") for r in lines]


def _draw(folder: Path) -> Path:
    """Vehicles enough for `STEPS` steps of the largest batch."""
    images = STAGES[0][1] * STEPS * 2
    subprocess.run(
        [*_engine("data"), "synth", str(folder / "vehicles"), "--per-class", str(-(-images // 12))], check=True
    )
    return folder / "vehicles" / "train"


def _engine(command: str) -> list[str]:
    return [sys.executable, "-m", "engine.cli.main", command]


def _run(command: list[str], limit_s: float) -> tuple[bool, str]:
    """Run it; whether it succeeded in time, and what it printed."""
    print("$", " ".join(command), flush=True)
    try:
        done = subprocess.run(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=max(1, limit_s)
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or ""
        return False, f"{printed if isinstance(printed, str) else printed.decode()}\nran out of time"
    return done.returncode == 0, done.stdout


def _rates(path: Path) -> str:
    rates = {row["phase"]: row["images_per_second"] for row in read(path).rows if row["images_per_second"]}
    return ", ".join(f"{phase} {rate:,.0f}" for phase, rate in rates.items())


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _show(rows: list[Row]) -> None:
    Console().print(frame.table("", ("part", "", "result"), rows, words=3))


if __name__ == "__main__":
    main()
