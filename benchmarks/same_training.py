"""Does a change leave alone what training computes? Two commits train the same recipes and every bit is compared.

    python benchmarks/same_training.py BEFORE            # against the work tree as it stands
    python benchmarks/same_training.py BEFORE AFTER      # two commits

Each side runs from a checkout of its own, through the command line alone, so that names inside are free to change. Two
small recipes have between them everything switched on that touches learning: folds, a specialist, hard pairs, moving
average and weight average, kept epochs, mixing, extras, published policy, angular margin, freezing, accumulation,
stages that start from the best weights; some files are PNG, damaged or no images. Each run is interrupted once and
goes on, and its models predict a folder with one view and with three. Keys whose defaults have changed since
(`augment.filter`, `train.channels_last`) say what they once were, so that older commits can be compared.

Compared bit for bit: weights, the log (all but times), out-of-fold and test predictions by id and class name, scores,
submission. Exit code 1 when anything differs, which is then listed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
CLASSES, PER_CLASS = ("고리", "네모", "세모", "선"), 14
FIXED = {"id", "path", "fold", "label", "confidence", "status"}  # columns that are no class's
PREFIX = "p:"  # of the columns of probabilities
TIMES = {"train_seconds", "valid_seconds", "images_per_second", "images", "waited"}  # what a process took, in the log

COMMON = """
seed = 7
output = "models"
decode.threads = 1
data.train = "photos/train"
data.test = "photos/test"
data.cache = "cache"
predict.batch = 8
track.tensorboard = false
"""

RECIPES = {
    "averaged": """
name = "averaged"
data.folds.count = 3
data.folds.run = [0, 2]
data.class_groups = [["round", "고리"], ["straight", "네모", "세모"]]
[model]
backbone = "test_convnext"
pretrained = false
pooling = "gem2"
head = "arcface"
[augment]
filter = "bilinear"
affine.p = 0.8
color.p = 0.8
perspective.p = 0.3
erase = {p = 0.5, fill = "noise"}
extras = {blur = 0.3, noise = 0.3, jpeg = 0.2}
crop.letterbox_p = 0.3
[[augment.mix]]
mixup = 0.2
cutmix = 1.0
epochs = [0, 2]
[train]
channels_last = "off"
ema = 0.9
keep_last = 2
head_lr_multiplier = 5.0
class_weights = 0.5
label_smoothing = 0.05
sampling = {hard_pairs = 3, hard_share = 0.5, power = 0.3}
[[stage]]
size = 32
batch = 8
epochs = 2
lr = 2e-3
margin = 0.1
drop_path = 0.1
[[stage]]
size = [40, 48]
batch = 8
epochs = 2
lr = 1e-3
ema_restart = true
[[specialist]]
name = "corners"
classes = ["네모", "세모"]
stage = [{size = 32, batch = 4, epochs = 1, lr = 2e-3}]
model = {pooling = "avg", head = "linear"}
train = {keep_last = 0, sampling = {hard_pairs = 0}}
""",
    "frozen": """
name = "frozen"
data.folds.count = 2
[model]
backbone = "test_efficientnet"
pretrained = false
dropout = 0.2
[augment]
filter = "bilinear"
policy.kind = "randaugment"
quarter_turn = 0.3
valid.fit = "letterbox"
[train]
channels_last = "off"
optimizer = "sgd"
loss = "focal"
swa_epochs = 2
layer_decay = 0.8
schedule = {kind = "plateau", patience = 0, warmup_epochs = 0.0}
early_stop = {patience = 2}
[[stage]]
size = 32
batch = 4
accumulate = 2
epochs = 3
lr = 2e-2
head_only = 1
thaw_blocks = 2
[[stage]]
size = 36
batch = 8
epochs = 3
lr = 5e-3
start_from = "best"
mix = {mixup = 0.4, per = "batch"}
[[specialist]]
name = "rings"
classes = ["고리"]
blend = 0.5
stage = [{size = 32, batch = 8, epochs = 1, lr = 1e-2}]
train = {swa_epochs = 0}
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", nargs="?", help="another one; left out: the work tree")
    parser.add_argument("--keep", type=Path, help="leave the runs in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        sides = {}
        for name, commit in (("before", arguments.before), ("after", arguments.after)):
            with _checkout(commit, Path(temporary) / f"source-{name}") as source:
                sides[name] = run_all(source, folder / name)
    different = list(differences(sides["before"], sides["after"]))
    print(f"{len(sides['before'])} things compared: {'all the same' if not different else 'not the same'}")
    for line in different:
        print(f"  {line}")
    sys.exit(bool(different))


class _checkout:
    """A commit's files in a folder of their own, while the block runs; for None the work tree itself."""

    def __init__(self, commit: str | None, folder: Path) -> None:
        self._commit, self._folder = commit, folder

    def __enter__(self) -> Path:
        if self._commit is None:
            return ROOT
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(self._folder), self._commit], check=True)
        for library in (ROOT / "kernels").glob("*.so"):
            if _sources(ROOT) == _sources(self._folder):
                shutil.copy(library, self._folder / "kernels")
        if not any((self._folder / "kernels").glob("*.so")):
            build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
            subprocess.run(build, cwd=self._folder, check=True)
        return self._folder

    def __exit__(self, *_: object) -> None:
        if self._commit is not None:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(self._folder)], check=True)


def _sources(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "kernels").iterdir() if path.suffix in (".cpp", ".h")}


def run_all(source: Path, folder: Path) -> dict[str, Any]:
    """Everything that a side answers, by name."""
    found: dict[str, Any] = {}
    for name, recipe in RECIPES.items():
        place = folder / name
        draw(place / "photos")
        (place / "recipe.toml").write_text(COMMON + recipe, encoding="utf-8")
        interrupted = _engine(source, place, ["train", "recipe.toml"], stop_after=3)
        code = _engine(source, place, ["train", "recipe.toml"])
        assert (interrupted, code) == (3, 0), f"{source}: {name} ended with {interrupted}, then {code}"
        for views in (1, 3):
            answer = ["infer", "--folds", "models", "--tta", str(views), "--out", f"answers{views}"]
            assert _engine(source, place, answer) == 0
        found |= {f"{name}/{key}": value for key, value in _look(place)}
        print(f"{source}: {name}: {len(found)} things")
    return found


def draw(folder: Path) -> None:
    """Photos of four classes, and files that are something else."""
    random = np.random.default_rng(11)
    for kind, name in enumerate((*CLASSES, "")):
        place = folder / "train" / name if name else folder / "test"
        place.mkdir(parents=True)
        for i in range(PER_CLASS):
            shape = kind if name else i % len(CLASSES)
            pixels = random.integers(0, 90, (44 + i % 5, 52 - i % 3, 3), dtype=np.uint8)
            image = Image.fromarray(pixels + np.array([30 * (shape == c) for c in range(3)], dtype=np.uint8))
            pen, (x, y) = ImageDraw.Draw(image), random.integers(2, 22, 2).tolist()
            color = tuple(random.integers(90, 255, 3).tolist())
            box = [x, y, x + 20, y + 16]
            if shape == 2:
                pen.polygon([x, y + 16, x + 20, y + 16, x + 10, y], fill=color)
            elif shape == 3:
                pen.line(box, fill=color, width=4)
            else:
                (pen.ellipse, pen.rectangle)[shape](box, fill=color)
            suffix = "png" if i % 7 == 3 else "jpg"
            image.save(place / f"{name or 'TEST'}_{i:02d}.{suffix}", quality=90)
    whole = (folder / "train" / CLASSES[0] / f"{CLASSES[0]}_00.jpg").read_bytes()
    (folder / "train" / CLASSES[1] / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / CLASSES[2] / "text.jpg").write_text("no image", encoding="utf-8")
    (folder / "test" / "TEST_cut.jpg").write_bytes(whole[: len(whole) // 2])


def _engine(source: Path, place: Path, command: list[str], stop_after: int = 0) -> int:
    """Run a command of the engine in `source`; with `stop_after`, ask it to stop once the log has so many lines."""
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (place / "told.txt").open("a", encoding="utf-8") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.cli.main", *command],
            cwd=place,
            env=environment,
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        log = place / "models" / "log.jsonl"
        while process.poll() is None and stop_after:
            if log.is_file() and len(log.read_text("utf-8").splitlines()) >= stop_after:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.02)
        code = process.wait()
    if code not in (0, 3):
        print((place / "told.txt").read_text("utf-8"))
    return code


def _look(place: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.name == "weights.safetensors":
            yield name, {key: _digest(tensor) for key, tensor in load_file(path).items()}
        elif path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            yield name, [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
        elif path.name in ("oof.parquet", "predictions.parquet"):
            yield name, _answers(path)
        elif path.name == "scores.json":
            yield name, json.loads(path.read_text("utf-8"))
        elif path.name == "submission.csv":
            yield name, path.read_text("utf-8")


def _answers(path: Path) -> dict[str, Any]:
    """By id: of held-out images label and fold, of predicted ones the likeliest class and the status; and a digest of
    the probabilities in the order of the class names."""
    table = pq.read_table(path)
    names = table.column_names
    columns = {name.removeprefix(PREFIX): i for i, name in enumerate(names) if name.startswith(PREFIX)}
    if not columns:  # an older format: a class under its own name, or under "class <name>", after the fixed columns
        first = next(i for i, name in enumerate(names) if i > 1 and name not in FIXED)
        columns = {name.removeprefix("class "): i for i, name in enumerate(names) if i >= first}
    values_NC = np.stack([table.column(columns[name]).to_numpy() for name in sorted(columns)], axis=1)
    fixed = names[: min(columns.values())]
    answer = "prediction" if "prediction" in fixed else "label"  # as it was called in an older format
    kept = (answer, "status") if "status" in fixed else ("label", "fold")
    rest = zip(*(table.column(fixed.index(name)).to_pylist() for name in kept), strict=True)
    return {
        id_: (*own, _digest(row_C))
        for id_, own, row_C in zip(table.column(0).to_pylist(), rest, values_NC, strict=True)
    }


def _digest(values: np.ndarray) -> str:
    return f"{values.dtype} {values.shape} {hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]}"


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What is not the same, and where it first differs."""
    for name in sorted({*before, *after}):
        if name not in after or name not in before:
            yield f"{name}: only {'before' if name in before else 'after'}"
        elif before[name] != after[name]:
            yield f"{name}: {_first(before[name], after[name])}"


def _first(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return f"{len(keys)} of {len(before)} differ; {keys[0]}: {_first(before.get(keys[0]), after.get(keys[0]))}"
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        number = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        return f"item {number}: {_first(before[number], after[number])}"
    return f"{str(before)[:120]} -> {str(after)[:120]}"


if __name__ == "__main__":
    main()
