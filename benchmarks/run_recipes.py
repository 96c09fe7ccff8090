"""Every recipe from data to answers at a scale that two cores manage, by --set alone.

    python benchmarks/run_recipes.py --photos DIR [--only s0,s3] [--work DIR] [--json FILE]

DIR holds one folder of JPEGs per class: S0 to S3 are trained on it. S4's documents are drawn, its copies augmented to
disk. What is changed is the data, the size of images and network, and the number of epochs; the networks start from
random weights, for whose sake rates are higher than a fine-tune's. So the scores say that a recipe runs and learns, and
nothing about what it reaches on its own data.

A row is a whole run: out-of-fold log loss beside that of always answering the class shares, wall seconds of training
(indexing and looking at the images included), and the peak of the process's resident memory. What FILE holds of runs
that are not made again stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

import frame
from engine.bench.envelope import read

ROOT = Path(__file__).resolve().parents[1]
FRESH = ("model.pretrained=false", "augment.filter=bilinear")  # random weights are used to no filter
ZEPTO = ("model.backbone=convnext_zepto_rms", *FRESH)
PHOTOS = ("data.train={photos}", "data.test=", "data.sample_submission=", "data.cache={folder}/cache")
KINDS = (
    "flip,vertical_flip,quarter_turn,turn,shift,zoom,shear,perspective,crop,elastic,"
    "blur,noise,jpeg,brightness,erase,mixup,cutmix"
)


@dataclasses.dataclass(frozen=True)
class Run:
    recipe: str
    sets: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()  # commands that make what it trains on
    infer: tuple[str, ...] | None = None


def stages(*parts: tuple[str, int, float]) -> tuple[str, ...]:
    """--set texts for stages of (size, epochs, lr), batches of 16."""
    return tuple(
        f"stage.{i}.{key}={value}"
        for i, (size, epochs, lr) in enumerate(parts)
        for key, value in (("size", size), ("batch", 16), ("epochs", epochs), ("lr", lr))
    )


PROGRESSIVE = stages(("48", 2, 2e-3), ("56", 2, 2e-3), ("64", 2, 2e-3), ("72", 3, 2e-3), ("80", 3, 1e-3))
DOCUMENTS = (
    "data.folds.count=3",
    "data.folds.run=[0]",
    "data.cache={folder}/cache",
    *ZEPTO,
    "specialist.0.model.backbone=convnext_zepto_rms",
    "specialist.0.stage=[{size=96,batch=16,epochs=8,lr=2e-3}]",
    "stage.0.head_only=0",
    "data.images=",
)
DRAWN = ("data", "synth", "{work}/documents", "--kind", "documents", "--train", "680", "--test", "340")
PAPERS = tuple(
    f"data.{key}={{work}}/documents/{value}"
    for key, value in (
        ("label_table", "meta.csv"),
        ("test", "sample_submission.csv"),
        ("test_images", "test"),
        ("sample_submission", "sample_submission.csv"),
    )
)
RUNS = {
    "s0": Run(
        "s0_convnext_kfold",
        (*PHOTOS, *ZEPTO, *stages(("56", 6, 3e-3)), "train.weight_decay=0.05", "train.schedule.warmup_epochs=1"),
    ),
    "s1, gem2": Run("progressive_768", (*PHOTOS, *ZEPTO, *PROGRESSIVE, "data.folds.run=[0]", "train.ema=0.98")),
    "s1, gem": Run(
        "progressive_768",
        (*PHOTOS, *ZEPTO, *PROGRESSIVE, "data.folds.run=[0]", "train.ema=0.98", "model.pooling=gem"),
    ),
    "s2": Run(
        "s2_convnextv2_512",
        (
            *PHOTOS,
            "model.backbone=convnextv2_atto",
            *FRESH,
            "train.ema=0.98",
            "data.label_table={folder}/class_names.csv",
            "train.swa_epochs=2",
            *stages(("64", 7, 2e-3), ("64", 2, 3e-4)),
        ),
        before=(("data", "names", "{photos}", "{folder}/class_names.csv"),),
    ),
    "s3": Run(
        "s3_two_step_rect",
        (
            *PHOTOS,
            "model.backbone=mobilenetv3_small_100",
            *FRESH,
            *stages(("[48,66]", 7, 2e-3), ("[72,100]", 2, 3e-4)),
            "stage.1.accumulate=1",
        ),
    ),
    "s4": Run(
        "s4_documents",
        (
            *DOCUMENTS,
            *PAPERS,
            *stages(("96", 20, 2e-3)),
            "data.train={work}/documents/train.csv",
            "data.images={work}/documents/train",
        ),
        before=(DRAWN,),
        infer=("--tta", "2", "--truth", "{work}/documents/test_labels.csv"),
    ),
    "s4, with copies": Run(
        "s4_documents",
        (*DOCUMENTS, *PAPERS, *stages(("96", 4, 2e-3)), "data.train={work}/augmented/train.csv"),
        before=(
            DRAWN,
            (
                *("data", "augment", "recipes/s4_documents.toml", "{work}/augmented", "--kinds", KINDS),
                *("--longest", "224", "--set", "data.train={work}/documents/train.csv"),
                *("--set", "data.images={work}/documents/train", "--set", "data.label_table={work}/documents/meta.csv"),
                *("--set", "data.cache={folder}/cache"),
            ),
        ),
        infer=("--tta", "2", "--truth", "{work}/documents/test_labels.csv"),
    ),
}


def filled(word: str, where: dict[str, str]) -> str:
    for name, path in where.items():
        word = word.replace(f"{{{name}}}", path)
    return word


def command(arguments: tuple[str, ...], where: dict[str, str], log: Path) -> tuple[float, float]:
    """Run `engine` with these arguments: wall seconds and the peak of its resident memory in GiB."""
    words = [sys.executable, "-m", "engine.cli.main", *(filled(word, where) for word in arguments)]
    began = time.perf_counter()
    with log.open("ab") as out:
        files = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        process = os.posix_spawn(words[0], words, os.environ, file_actions=files)
        _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"engine {shlex.join(words[3:])} failed:\n{log.read_text('utf-8')[-3000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def carry_out(name: str, run: Run, where: dict[str, str]) -> dict[str, Any]:
    folder = Path(where["work"]) / name.replace(", ", "_").replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    where = {**where, "folder": str(folder)}
    log = folder / "log.txt"
    for arguments in run.before:
        command(arguments, where, log)
    sets = [word for change in (*run.sets, f"output={folder / 'models'}") for word in ("--set", change)]
    seconds, peak = command(("train", f"recipes/{run.recipe}.toml", *sets), where, log)
    scores = json.loads((folder / "models" / "scores.json").read_text("utf-8"))
    row = {
        "run": name,
        "recipe": run.recipe,
        "sets": list(run.sets),
        "out_of_fold": scores["out_of_fold"],
        "baseline_log_loss": scores["baseline_log_loss"],
        "seconds": seconds,
        "peak_gib": peak,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if "specialists" in scores:
        row["specialists"] = scores["specialists"]
    if run.infer:
        command(("infer", "--folds", str(folder / "models"), *run.infer), where, log)
        answered = json.loads((folder / "models" / "predictions" / "scores.json").read_text("utf-8"))
        row["test"] = {key: answered[key] for key in ("images", "together", "baseline")}
    return row


def show(rows: list[dict[str, Any]], console: Console) -> None:
    headings = ("", "recipe", "log loss", "class shares", "accuracy", "macro F1", "seconds", "peak GiB")
    cells = []
    for row in rows:
        found = row["out_of_fold"]
        scores = (found["log_loss"], row["baseline_log_loss"], found["accuracy"], found["macro_f1"])
        words = (row["run"], row["recipe"], *(f"{score:.4f}" for score in scores))
        cells.append((*words, f"{row['seconds']:.0f}", f"{row['peak_gib']:.2f}"))
    console.print(frame.table("", headings, cells, words=2))


def main() -> None:
    parser = argparse.ArgumentParser(description="Every recipe from data to answers, at a small scale.")
    parser.add_argument("--photos", required=True, help="folder with one folder of JPEGs per class")
    parser.add_argument("--only", default="", help="runs whose name begins with one of these, by comma")
    parser.add_argument("--work", type=Path, help="folder for data and models; default: a temporary one")
    frame.json_option(parser)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        where = {"photos": str(Path(arguments.photos).resolve()), "work": str(work.resolve())}
        work.mkdir(parents=True, exist_ok=True)
        os.chdir(ROOT)
        names = [name for name in RUNS if not arguments.only or name.startswith(tuple(arguments.only.split(",")))]
        rows = []
        for name in names:
            rows.append(carry_out(name, RUNS[name], where))
            show(rows[-1:], console)
    if arguments.json and arguments.json.is_file():  # what other runs came to stays
        merged = {row["run"]: row for row in [*read(arguments.json).rows, *rows]}
        rows = [merged[name] for name in RUNS if name in merged]
    show(rows, console)
    frame.finish(frame.result(rows, {"photos": Path(arguments.photos).name}), arguments.json)


if __name__ == "__main__":
    main()
