"""Everything that needs a GPU, in one command: right first, then measured, then one table.

    python benchmarks/gpu_suite.py [--minutes 9.5] [--only checks,pass,...] [--results DIR]
    python benchmarks/gpu_suite.py --rehearse            # without a GPU: every line, on the tests' double of one

For a machine that is at hand for minutes, without a network, with torch, torchvision and triton and perhaps no
more (benchmarks/pack_gpu.py packs the rest). Each part runs as a process of its own with a time limit; one that fails
or runs out of time stops no other, and what it has found is on disk row by row. Compiling is timed apart from rates.

    checks    what the GPU makes is what the CPU makes: the pass, batches, DALI, bad files, streams under load, steps
    tests     the tests marked `gpu`
    pass      the pass against the copy that bounds it, Kornia and torchvision; 256 to 768 pixels
    options   the training step, ConvNeXt-Base, with each of the options for GPUs: rate, memory, time to compile
    bench     `engine bench` on every stage of recipes/progressive_768.toml with its peers and ten costliest kernels
    feed      files to batches with nothing in the model's place, then DALI's own pipeline and torchvision
    train     `engine train recipes/progressive_768.toml` at its real sizes and batches, one short epoch a stage
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import frame
from engine.bench.envelope import Row, read
from engine.bench.photos import photos
from gpu_parts.context import DEVICE, Context, Part

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "progressive_768.toml"
STEPS = 8  # of the first stage in the train part
Line = tuple[str, str, str]  # part, how it went, what it came to


@dataclasses.dataclass(frozen=True)
class Planned:
    """A part, the seconds that it may take of the suite's, and the module of gpu_parts where it is one of ours."""

    name: str
    seconds: float
    module: str = ""


PARTS = (
    Planned("checks", 110, "checks"),
    Planned("tests", 50),
    Planned("pass", 75, "passes"),
    Planned("options", 130, "options"),
    Planned("bench", 110),
    Planned("feed", 35, "feeding"),
    Planned("train", 60),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together")
    parser.add_argument("--only", help="which parts, separated by commas")
    parser.add_argument("--results", type=Path, default=frame.RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="on a double of a GPU, small; results go to --results")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # the child's
    options = parser.parse_args()
    if options.rehearse and options.results == frame.RESULTS:
        parser.error("--rehearse: give --results a folder of its own: its figures are of no GPU")
    if options.part:
        run_part(next(part for part in PARTS if part.name == options.part), options)
        return
    names = options.only.split(",") if options.only else [part.name for part in PARTS]
    if unknown := set(names) - {part.name for part in PARTS}:
        parser.error(f"--only: {', '.join(sorted(unknown))}: choose from {', '.join(part.name for part in PARTS)}")
    options.results.mkdir(parents=True, exist_ok=True)
    wanted = [part for part in PARTS if part.name in names]
    lines, failed = run_all(wanted, options)
    Console(width=140).print(frame.table("", ("part", "", "result"), lines, words=3))
    sys.exit(1 if failed else 0)


def run_all(parts: Sequence[Planned], options: argparse.Namespace) -> tuple[list[Line], bool]:
    """Every part within its share of what is left; lines for the table, and whether one failed."""
    ends = time.monotonic() + options.minutes * 60
    lines: list[Line] = []
    failed = False
    for number, part in enumerate(parts):
        left = ends - time.monotonic()
        share = part.seconds / sum(one.seconds for one in parts[number:])
        limit_s = left * share
        if limit_s < 5:
            lines.append((part.name, "NOT RUN", "no time left"))
            failed = True
            continue
        began = time.monotonic()
        ok, said = run(command_of(part, options), limit_s)
        if part.name == "tests" and not options.rehearse:
            ok &= " passed" in last(said)  # all skipped is no success where there should be a GPU
        failed |= not ok
        (options.results / f"gpu_{part.name}.txt").write_text(said, "utf-8")
        found = told(part, options)
        lines.append((part.name, "ok" if ok else "FAILED", f"{time.monotonic() - began:.0f} s; {last(said)[:90]}"))
        lines += [("", *line) for line in found]
        print(f"{part.name}: {'ok' if ok else 'FAILED'}, {time.monotonic() - began:.0f} s", flush=True)
    return lines, failed


def command_of(part: Planned, options: argparse.Namespace) -> list[str]:
    """What runs a part."""
    path = result_of(part, options)
    if part.module:
        rehearse = ["--rehearse"] if options.rehearse else []
        return [sys.executable, __file__, "--part", part.name, "--results", str(options.results), *rehearse]
    if part.name == "tests":
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", *gpu_tests()]
    if part.name == "bench":
        small = ["--set", "model.backbone=test_convnext", "--batch", "2", "--res", "64"] if options.rehearse else []
        picture = ["--profile", str(options.results / "gpu_trace.json.gz")]
        if importlib.util.find_spec("matplotlib"):  # a bare machine has not; the page draws from the figures
            picture += ["--picture", str(path.with_suffix(".svg"))]
        command = ["bench", "--recipe", str(RECIPE), "--seconds", "0.5" if options.rehearse else "2.5"]
        return engine(*command, *small, *picture, "--compare", "--json", str(path))
    return [sys.executable, __file__, "--part", part.name, "--results", str(options.results)] + (
        ["--rehearse"] if options.rehearse else []
    )


def gpu_tests() -> list[str]:
    """The files with such tests: others want libraries that a bare machine has not."""
    files = sorted((ROOT / "tests").glob("*/test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "pytest.mark.gpu" in file.read_text("utf-8")]


def run_part(part: Planned, options: argparse.Namespace) -> None:
    """A part of ours, in this process; its rows are on disk as they come."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if part.name == "train":
            sys.exit(train(folder, options))
        if options.rehearse:
            from gpu_parts.rehearsal import rehearsal

            stack.enter_context(rehearsal())
        made: Part = importlib.import_module(f"gpu_parts.{part.module}").run
        rows: list[Row] = []
        for row in made(Context(options.rehearse, folder)):
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
            frame.result(rows, {"rehearsed": options.rehearse}, DEVICE).write(result_of(part, options))
    sys.exit(0 if rows and all(row.get("ok", True) for row in rows) else 1)


def train(folder: Path, options: argparse.Namespace) -> int:
    """The flagship recipe, one short epoch a stage; its log is the result."""
    batch, sets = 224, []
    if options.rehearse:  # the real program, on the CPU
        batch, sets = 4, ["model.backbone=test_convnext", "stage.*.size=32", "stage.*.batch=4"]
    for number, path in enumerate(photos(count=batch * STEPS * 2)):  # two folds, of which one is trained on
        place = folder / "photos" / f"class {number % 12}"
        place.mkdir(parents=True, exist_ok=True)
        (place / Path(path).name).symlink_to(path)
    sets += [f"data.train={folder / 'photos'}", "data.folds.count=2", "data.folds.run=[0]", "data.check=header"]
    sets += [f"data.cache={folder}", f"output={folder / 'models'}", "model.pretrained=false", "stage.*.epochs=1"]
    sets += ["track.tensorboard=false"]
    command = engine("train", str(RECIPE), *(word for text in sets for word in ("--set", text)))
    running = subprocess.Popen(command, cwd=ROOT)
    log, lines = folder / "models" / "log.jsonl", 0
    settings = {"rehearsed": options.rehearse, "recipe": RECIPE.stem, "steps": STEPS}
    while True:  # on disk as the stages come: the last ones may be out of time
        code = running.poll()
        found = [json.loads(line) for line in _whole_lines(log)]
        if len(found) > lines:
            lines = len(found)
            frame.result(found, settings, frame.device()).write(options.results / "gpu_train.json")
        if code is not None:
            return code
        time.sleep(0.5)


def _whole_lines(path: Path) -> list[str]:
    """Of a file that is being written."""
    text = path.read_text("utf-8") if path.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def result_of(part: Planned, options: argparse.Namespace) -> Path:
    path: Path = options.results / f"gpu_{part.name}.json"
    return path


def told(part: Planned, options: argparse.Namespace) -> list[tuple[str, str]]:
    """A line for each thing that a part measured or checked."""
    path = result_of(part, options)
    return [line_of(row) for row in read(path).rows] if path.is_file() else []


def line_of(row: Row) -> tuple[str, str]:
    """What it is, and its figures in short."""
    figures: dict[str, Any] = {
        name: value for name, value in row.items() if isinstance(value, (int, float, str)) and value != ""
    }
    names = ("check", "contender", "option", "phase", "what")
    name = next((str(figures.pop(key)) for key in names if key in figures), "")
    if windows := sorted(row.get("windows") or ()):
        figures = {"images/s": f"{windows[len(windows) // 2]:,.0f}"} | figures
    return name, ", ".join(f"{key} {_short(value)}" for key, value in figures.items())[:160]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def engine(*words: str) -> list[str]:
    return [sys.executable, "-m", "engine.cli.main", *words]


def run(command: list[str], limit_s: float) -> tuple[bool, str]:
    """Run it; whether it succeeded in time, and what it printed. Out of time, all that it has started ends with it:
    what went on would be measured by the next part."""
    print("$", " ".join(command), flush=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as told:
        child = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            ended = child.wait(max(1, limit_s)) == 0
            in_time = True
        except subprocess.TimeoutExpired:
            ended = in_time = False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        told.seek(0)
        printed = told.read()
    return ended, printed if in_time else f"{printed}\nran out of time"


def last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    main()
