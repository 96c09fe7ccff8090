"""Every recipe from data to answers at a scale that two cores manage, by --set alone.

    python benchmarks/run_recipes.py --photos DIR --weights FILE [--only s0 --only s3] [--work DIR] [--json FILE]

DIR holds one folder of JPEGs per class. S0 and S1 get a part of it in their challenge's form: a fifth of the photos is
a test part with ids in place of names, a table that lists it and a sample submission; one class goes by two names. S2
and S3 are trained on all of it. S4's documents are drawn, its copies augmented to disk. What is changed is the data,
the size of images and network, and the number of epochs. S0, S1 and S4 start from EfficientNet-Lite0's weights,
which are FILE (`make demo/efficientnet_lite0.pth`); where there are too few photos to learn to see from, parts that are
fitted on answers would have nothing to gain. The others start from random weights, for whose sake rates are higher than
a fine-tune's. So the scores say that a recipe runs and learns, and nothing about what it reaches on its own data.

A row is a whole run: out-of-fold log loss beside that of always answering the class shares, wall seconds of training
(indexing and looking at the images included), and the peak of the process's resident memory. Then come the ways to an
answer that the system's authors went: each submission is checked against its sample by `engine score --check`, and what
it comes to on the test part is noted. What FILE of --json holds of runs that are not made again stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
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
from engine.files import write_text

ROOT = Path(__file__).resolve().parents[1]
FRESH = ("model.pretrained=false", "augment.filter=bilinear")  # random weights are used to no filter
ZEPTO = ("model.backbone=convnext_zepto_rms", *FRESH)
TAUGHT = ("model.backbone=tf_efficientnet_lite0", "model.weights={weights}", "augment.filter=bilinear")
CLASS_PHOTOS = 40  # of each class, in the challenge's form
CHALLENGE = (
    "data.train={work}/challenge/train",
    "data.test={work}/challenge/test.csv",
    "data.sample_submission={work}/challenge/sample_submission.csv",
    "data.cache={folder}/cache",
    "data.folds.count=3",
)
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
    then: tuple[tuple[str, ...], ...] = ()  # commands from the models to submissions
    answers: tuple[Answer, ...] = ()  # what they leave


@dataclasses.dataclass(frozen=True)
class Answer:
    """A submission, and the file by which it is scored (itself, where none is named)."""

    name: str
    submission: str
    sample: str
    truth: str
    scored: str = ""


def stages(*parts: tuple[str, int, float]) -> tuple[str, ...]:
    """--set texts for stages of (size, epochs, lr), batches of 16."""
    return tuple(
        f"stage.{i}.{key}={value}"
        for i, (size, epochs, lr) in enumerate(parts)
        for key, value in (("size", size), ("batch", 16), ("epochs", epochs), ("lr", lr))
    )


def sets(*changes: str) -> tuple[str, ...]:
    return tuple(word for change in changes for word in ("--set", change))


def asked(name: str, *options: str, models: str = "models") -> tuple[str, ...]:
    """The command by which the models answer into the folder `name`."""
    return ("infer", "--folds", f"{{folder}}/{models}", "--out", f"{{folder}}/{name}", *options)


def photographed(name: str, way: str) -> Answer:
    """What `asked(name)` left about the photos of the challenge."""
    sample, truth = "{work}/challenge/sample_submission.csv", "{work}/challenge/test_labels.csv"
    return Answer(way, f"{{folder}}/{name}/submission.csv", sample, truth, f"{{folder}}/{name}/predictions.parquet")


def documented(file: str, way: str) -> Answer:
    """A submission about the documents."""
    sample, truth = "{folder}/documents/sample_submission.csv", "{folder}/documents/test_labels.csv"
    return Answer(way, f"{{folder}}/{file}", sample, truth)


PROGRESSIVE = stages(("48", 2, 2e-3), ("56", 2, 2e-3), ("64", 2, 2e-3), ("72", 3, 2e-3), ("80", 3, 1e-3))
RISING = stages(("48", 1, 1e-3), ("56", 1, 1e-3), ("64", 1, 1e-3), ("72", 1, 5e-4), ("80", 1, 2e-4))
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
FEW = ("data", "synth", "{folder}/documents", "--kind", "documents", "--train", "340", "--test", "170")
PAPERS_ONCE = (
    *("data.folds.count=3", "data.cache={folder}/cache", *TAUGHT, "stage.0.head_only=0"),
    *(word.replace("{work}", "{folder}") for word in PAPERS),
    *("data.train={folder}/documents/train.csv", "data.images={folder}/documents/train"),
    "specialist.0.model.backbone=tf_efficientnet_lite0",
    "specialist.0.stage=[{size=96,batch=16,epochs=4,lr=1e-3}]",
)
EACH_FOLD = tuple(f"{{folder}}/fold_{fold}/submission.csv" for fold in range(3))
SHAPED = ("--sample", "{folder}/documents/sample_submission.csv")
RUNS = {
    "s0": Run(
        "s0_convnext_kfold",
        (*CHALLENGE, *TAUGHT, *stages(("64", 5, 1e-3)), "data.aliases=[[{names}]]"),
        then=(
            asked("soft"),
            asked("logit", "--vote", "logit"),
            asked("views", "--tta", "5"),
            asked("crops", "--tta", "5", "--set", "predict.views=crops"),
        ),
        answers=(
            photographed("soft", "3 views, soft"),
            photographed("logit", "3 views, logit"),
            photographed("views", "5 views"),
            photographed("crops", "5 crops"),
        ),
    ),
    "s1, gem2": Run(
        "progressive_768",
        (*CHALLENGE, *TAUGHT, *RISING, "train.ema=0.9", "data.aliases=[[{names}]]"),
        then=(
            asked("plain", "--set", "ensemble.neighbours=off", "--set", "ensemble.calibrate=off"),
            asked("answers"),
        ),
        answers=(
            photographed("plain", "folds and flips"),
            photographed("answers", "with what was fitted"),
        ),
    ),
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
    "s4, votes": Run(
        "s4_documents",
        (*PAPERS_ONCE, *stages(("96", 8, 1e-3))),
        before=(FEW,),
        then=(
            *(asked(f"fold_{fold}", models=f"models/{fold}") for fold in range(3)),
            ("vote", *EACH_FOLD, "--vote", "hard", "--out", "{folder}/hard.csv", *SHAPED),
            (
                *("train", "recipes/s4_documents.toml", *sets(*PAPERS_ONCE, *stages(("64", 8, 1e-3)))),
                *("--set", "output={folder}/smaller", "--set", "specialist=[]"),
            ),
            asked("soft", "--tta", "2", "--folds", "{folder}/smaller"),
            (
                "ensemble",
                "{folder}/models",
                "{folder}/smaller",
                "--out",
                "{folder}/both",
                *sets("ensemble.stack=logistic"),
            ),
            asked("stacked", models="both"),
        ),
        answers=(
            documented("fold_0/submission.csv", "one fold"),
            documented("hard.csv", "3 folds' files, hard"),
            documented("soft/submission.csv", "two models, 2 views, soft"),
            documented("stacked/submission.csv", "two models, stacked"),
        ),
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
    changes = sets(*run.sets, f"output={folder / 'models'}")
    seconds, peak = command(("train", f"recipes/{run.recipe}.toml", *changes), where, log)
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
    if "ensemble" in scores:
        row["ensemble"] = scores["ensemble"]
    for arguments in run.then:
        command(arguments, where, log)
    if run.answers:
        row["answers"] = {answer.name: judged(answer, where, log) for answer in run.answers}
    return row


def judged(answer: Answer, where: dict[str, str], log: Path) -> dict[str, Any]:
    """Metrics of a submission that fits its sample."""
    scores = log.with_name("answer.json")
    command(("score", "--check", answer.submission, answer.sample), where, log)
    command(("score", answer.scored or answer.submission, answer.truth, "--json", str(scores)), where, log)
    return dict(json.loads(scores.read_text("utf-8")))


def as_challenge(photos: Path, folder: Path) -> str:
    """Photos in the form of S0's and S1's challenge; the two names of the class that has most photos, quoted.

    train/<class>/<class>_NNNN.jpg, test/TEST_NNNNN.jpg, test.csv (ID, img_path), sample_submission.csv (ID and a column
    a name), and test_labels.csv (ID, label), which a challenge keeps to itself.
    """
    classes = {path.name: sorted(path.glob("*.jp*g")) for path in sorted(photos.iterdir()) if path.is_dir()}
    first = max(classes, key=lambda name: len(classes[name]))
    other = f"{first}_too"
    tests: list[tuple[str, Path]] = []
    for name, paths in classes.items():
        taken = random.Random(f"5 {name}").sample(paths, min(CLASS_PHOTOS, len(paths)))
        tests += [(name, path) for path in taken[::5]]
        for number, path in enumerate(path for place, path in enumerate(taken) if place % 5):
            shown = other if name == first and number % 2 else name
            copied(path, folder / "train" / shown / f"{shown}_{number:04d}.jpg")
    random.Random(5).shuffle(tests)
    ids = [f"TEST_{number:05d}" for number in range(len(tests))]
    for id_, (_, path) in zip(ids, tests, strict=True):
        copied(path, folder / "test" / f"{id_}.jpg")
    names = [*classes, other]
    zeros = ",0" * len(names)
    tables = {
        "test.csv": ["ID,img_path", *(f"{id_},./test/{id_}.jpg" for id_ in ids)],
        "sample_submission.csv": [",".join(("ID", *names)), *(f"{id_}{zeros}" for id_ in ids)],
        "test_labels.csv": ["ID,label", *(f"{id_},{name}" for id_, (name, _) in zip(ids, tests, strict=True))],
    }
    for file, lines in tables.items():
        write_text(folder / file, "\n".join(lines) + "\n")
    return f'"{first}", "{other}"'


def copied(photo: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photo, to)


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
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights, for S0, S1 and S4")
    parser.add_argument("--only", action="append", help="runs whose name begins so; may be repeated")
    parser.add_argument("--work", type=Path, help="folder for data and models; default: a temporary one")
    frame.json_option(parser)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        where = {"photos": str(Path(arguments.photos).resolve()), "work": str(work.resolve())}
        work.mkdir(parents=True, exist_ok=True)
        names = [name for name in RUNS if not arguments.only or name.startswith(tuple(arguments.only))]
        if arguments.weights is not None:
            where["weights"] = str(arguments.weights.resolve())
        elif taught := [name for name in names if set(TAUGHT) <= set(RUNS[name].sets)]:
            parser.error(f"{taught[0]} starts from EfficientNet-Lite0's weights: give --weights FILE")
        shutil.rmtree(work / "challenge", ignore_errors=True)
        where["names"] = as_challenge(Path(where["photos"]), work / "challenge")
        os.chdir(ROOT)
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
