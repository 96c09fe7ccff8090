"""`engine train`: what it prints, what it refuses, and that it can be stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from engine.cli.main import main

ROOT = Path(__file__).resolve().parents[2]

Shades = Callable[[Path, Mapping[str, int], str], Path]

RECIPE = """\
name = "shades"
output = "{folder}/models"
data = {{ train = "{folder}/photos", cache = "{folder}/cache", folds = {{ count = 2, run = [1] }} }}
model = {{ backbone = "test_convnext", pretrained = false }}
decode.threads = 1
train.ema = 0.9

[[stage]]
size = 32
batch = 4
epochs = 2
lr = 1e-3

[[stage]]
size = [32, 48]
batch = 3
epochs = 1
lr = 1e-3
"""


@pytest.fixture
def recipe(tmp_path: Path, shades: Shades) -> Path:
    """Sixteen photos, dark and bright, and a recipe for them."""
    return shades(tmp_path, {"어두운": 40, "bright": 200}, RECIPE)


def train(recipe: Path, *options: str) -> Result:
    result = CliRunner().invoke(main, ["train", str(recipe), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_dry_run_prints_the_plan_and_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    result = train(recipe, "--dry-run", "--set", "stage.0.epochs=5", "--set", "train.clip=0.5")
    assert result.exit_code == 0
    assert everything(tmp_path) - before <= {"cache", *(f"cache/{p.name}" for p in (tmp_path / "cache").glob("*"))}
    text = result.stdout
    assert "clip = 0.5" in text and "weight_decay = 0.05" in text  # as set, and as the default
    assert "16 images, 2 classes, 0 left out" in text
    rows = [line.split() for line in text.splitlines()]
    numbers = [[word for word in row if word not in "│┃|"] for row in rows]
    assert ["1", "8", "8"] in numbers  # the fold, trained on, held out
    (first,) = [row for row in numbers if row[:2] == ["0", "32x32"]]
    assert first[2:7] == ["4", "5", "10", "40", "0.001"]  # batch, epochs, steps, images, lr
    (second,) = [row for row in numbers if row[:2] == ["1", "32x48"]]
    assert second[2:6] == ["3", "1", "2", "6"]
    assert first[-1] == second[-1] == "GiB"
    assert "stay decoded" not in text


def test_a_dry_run_says_how_many_photos_would_stay_decoded(recipe: Path) -> None:
    keys = ("decode.cache=disk", "decode.cache_mb=20000", f"decode.cache_dir={recipe.parent / 'kept'}")
    text = train(recipe, "--dry-run", *(word for key in keys for word in ("--set", key))).stdout
    assert text.count("photos that stay decoded (decode.cache): 0.00 GiB of at most 19.53 GiB: all stay") == 2  # stages
    assert not (recipe.parent / "kept").exists()


def test_a_run_prints_its_score_and_where_things_are(recipe: Path, tmp_path: Path) -> None:
    result = train(recipe)
    assert result.exit_code == 0
    for words in ("log loss of the class shares", "0.6931", str(tmp_path / "models"), "engine infer --folds"):
        assert words in result.stdout
    assert result.stderr.count("epoch") >= 3
    assert re.search(r"images/s  waited \d+%", result.stderr)
    again = train(recipe)
    assert again.exit_code == 0
    assert "is finished" in again.stdout and "--overwrite" in again.stdout
    scores = result.stdout.partition("shades")[2]
    assert again.stdout.partition("shades")[2] == scores
    for planned in ((), ("--dry-run",)):
        other = train(recipe, "--set", "seed=5", *planned)
        assert other.exit_code == 2 and ("weight_decay" in other.stdout) == bool(planned)
        assert "seed: 0 -> 5" in other.stderr and "--overwrite" in other.stderr
        assert other.stderr.rstrip().endswith("To go on as it was: --set seed=0")
    assert train(recipe, "--set", "seed=5", "--dry-run", "--overwrite").exit_code == 0
    moved = train(recipe, "--set", "decode.threads=2", "--dry-run")
    assert moved.exit_code == 0 and "goes on with decode.threads: 1 -> 2" in moved.stdout
    afresh = train(recipe, "--set", "seed=5", "--overwrite")
    assert afresh.exit_code == 0 and "is finished" not in afresh.stdout


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 120) -> None:
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def test_sigterm_ends_the_process_with_3_and_the_same_command_goes_on(recipe: Path, tmp_path: Path) -> None:
    """The one test with a real process, because a signal goes to a process."""
    log = tmp_path / "models" / "log.jsonl"
    command = [sys.executable, "-m", "engine.cli.main", "train", str(recipe), "--set", "stage.0.epochs=100000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def epochs() -> list[int]:
        return [json.loads(line)["epoch"] for line in log.read_text("utf-8").splitlines()] if log.exists() else []

    for _ in range(2):
        reached = len(epochs())
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            wait_for(lambda: len(epochs()) >= reached + 2, process)  # noqa: B023  called within the turn
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        assert process.returncode == 3, told
        assert "the same command goes on" in told
        assert ("going on after" in told) == (reached > 0)
    assert epochs() == list(range(len(epochs())))  # none trained twice, none left out


def test_ctrl_c_twice_ends_at_once(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("engine.training.trainer.FoldTrainer.train", impatient)
    before = signal.getsignal(signal.SIGINT)
    result = train(recipe)
    assert result.exit_code == 3
    assert "once more to stop at once" in result.stderr
    assert signal.getsignal(signal.SIGINT) is before


def test_a_recipe_that_cannot_be_used_is_refused_before_torch_is_needed(recipe: Path) -> None:
    result = train(recipe, "--set", "stage.0.epoch=3")
    assert result.exit_code == 2
    assert "did you mean stage.0.epochs?" in result.stderr
    code = (
        "import sys\n"
        "from engine.cli.main import main\n"
        f"try: main(['train', {str(recipe)!r}, '--set', 'seed=-1'], prog_name='engine')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_training_leaves_torch_threads_and_seeds_alone(recipe: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert train(recipe, "--set", "stage.*.epochs=1").exit_code == 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(2), expected)
