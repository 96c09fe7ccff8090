"""Predictions that are killed, shared out and cut into parts, and come out as the same files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import engine.loader.source
import engine.predict.run
from engine.cli.main import main
from engine.ensemble.vote import Rule
from engine.errors import EngineError, Interrupted, RecipeError
from engine.loader.batches import Samples
from engine.predict.asking import Answered
from engine.predict.begun import held
from engine.predict.job import Job, prepare
from engine.predict.models import Wishes
from engine.predict.outcome import Outcome
from engine.predict.parts import Part, Parts, Span
from engine.predict.run import answer
from engine.predict.writing import write
from engine.predictions import Predictions
from engine.quarantine import Fault, Quarantine
from engine.ranks import Ranks
from engine.store.run_folder import PredictionsFolder

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CLASSES = ("가방", "모자", "신발")
Told = Callable[[int], None]


class Reader:
    """Answers by a photo's bytes, once each; `killed_after` so many images it dies."""

    def __init__(self, killed_after: int = 1000) -> None:
        self.read: Counter[str] = Counter()
        self._left = killed_after

    def __call__(self, samples: Samples, rows_N: NDArray[np.int64], told: Told) -> Answered | Quarantine:
        quarantine, seen, p = Quarantine(), [], []
        for row in rows_N.tolist():
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
            self.read[samples.ids[row]] += 1
            (content,) = samples.source.read(np.array([row]))
            if isinstance(content, Fault):
                quarantine.add(samples.ids[row], content)
                continue
            seen.append(samples.ids[row])
            p.append(np.bincount(np.frombuffer(bytes(content), np.uint8) % 3, minlength=3) + 1.0)
            told(len(seen) + len(quarantine))
        if not seen:
            return quarantine
        p_NC = np.array(p) / np.sum(p, axis=1, keepdims=True)
        together = Predictions(tuple(seen), CLASSES, p_NC)
        other = Predictions(tuple(reversed(seen)), tuple(reversed(CLASSES)), p_NC[::-1, ::-1])
        columns = {"set": pa.array([[i] for i in seen], pa.list_(pa.string()))}
        answered = Answered([together, other], together, together, {}, quarantine)
        object.__setattr__(answered, "columns", columns)
        return answered


def job_of(models: Path, place: Path, *sets: str, overwrite: bool = False, **wishes: object) -> Job:
    return prepare(models, Wishes(sets=sets, **wishes), place=place, overwrite=overwrite)  # type: ignore[arg-type]


def files(job: Job, outcome: Outcome, place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in write(job, outcome, place)}


@pytest.fixture
def straight(models: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a prediction in one go leaves."""
    job = job_of(models, tmp_path / "straight")
    return files(job, answer(job, CPU, ask=Reader()), tmp_path / "straight")


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_files_are_the_same_however_answers_are_cut(
    models: Path, photos: Path, tmp_path: Path, rows: int, straight: dict[str, bytes]
) -> None:
    job = job_of(models, tmp_path / "out", f"predict.part={rows}")
    outcome = answer(job, CPU, ask=Reader())
    assert len(job.parts.spans) == -(-10 // rows)
    assert files(job, outcome, tmp_path / "out") == straight


@pytest.mark.parametrize("rule", ["soft", "logit", "rank"])
def test_models_answer_alike_in_parts_of_one_and_of_all(models: Path, tmp_path: Path, rule: Rule) -> None:
    outcomes = [
        answer(job_of(models, tmp_path / str(rows), f"predict.part={rows}", vote=rule, views=2), CPU)
        for rows in (1, 10)
    ]
    np.testing.assert_array_equal(*(one.answers.probabilities_NC for one in outcomes))


def test_what_was_killed_goes_on_without_reading_an_image_twice(
    models: Path, photos: Path, tmp_path: Path, straight: dict[str, bytes]
) -> None:
    place, read = tmp_path / "out", Counter[str]()
    for killed_after in (4, 3, 0, 1000):  # in the second part, in the second after that, at once, never
        ask = Reader(killed_after)
        job = job_of(models, place, "predict.part=3")
        committed = {row for span in job.parts.spans for row in range(span.start, span.stop)}
        with contextlib.suppress(KeyboardInterrupt):
            outcome = answer(job, CPU, ask=ask)
        assert not {job.roll.ids[row] for row in committed} & set(ask.read)
        read += ask.read
    assert sum(read.values()) == 10 + 1  # one was in a part that died with it
    assert files(job, outcome, place) == straight
    assert outcome.answered == 4 and outcome.images == 10


def test_rows_are_shared_among_any_number_of_ranks(tmp_path: Path) -> None:
    parts = Parts(tmp_path, 23)
    for done, share, world in (((), 5, 2), ([(0, 2), (7, 9), (20, 23)], 4, 3), ([(1, 22)], 5, 4), ([(0, 23)], 5, 2)):
        for path in tmp_path.iterdir():
            path.unlink()
        for start, stop in done:
            parts.write(Span(start, stop), Part(np.ones((stop - start, 1)), ["ok"] * (stop - start)))
        gaps = [gap for rank in range(world) for gap in parts.gaps(share, rank, world)]
        answered = [*range(0)] + [row for start, stop in done for row in range(start, stop)]
        assert sorted(answered + [row for gap in gaps for row in range(gap.start, gap.stop)]) == list(range(23))
        assert all(len(gap) <= share for gap in gaps)


def test_two_ranks_one_after_the_other_leave_the_files_of_one(
    models: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "gather", lambda self, piece: [piece])  # nobody waits: one follows the other
    place = tmp_path / "out"
    both = [Ranks(rank, 2, CPU) for rank in (0, 1)]
    jobs = [prepare(models, Wishes(sets=("predict.part=2",)), None, place, ranks) for ranks in both]
    asks = [Reader(), Reader()]
    answer(jobs[1], CPU, ask=asks[1], ranks=both[1])
    outcome = answer(jobs[0], CPU, ask=asks[0], ranks=both[0])
    assert [sum(ask.read.values()) for ask in asks] == [6, 4] and not set(asks[0].read) & set(asks[1].read)
    assert files(jobs[0], outcome, place) == straight


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "overlapping"])
def test_a_damaged_part_is_answered_again(models: Path, tmp_path: Path, straight: dict[str, bytes], harm: str) -> None:
    place = tmp_path / "out"
    job = job_of(models, place, "predict.part=4")
    answer(job, CPU, ask=Reader())
    path = job.parts._path(job.parts.spans[1])
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[:-5])
    elif harm == "flipped":
        at = len(content) // 4
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif harm == "gone":
        path.unlink()
    else:
        path.rename(job.parts._path(Span(2, 6)))
    again, ask = job_of(models, place, "predict.part=4"), Reader()
    assert any("is damaged (" in notice for notice in again.notices) == (harm != "gone")
    outcome = answer(again, CPU, ask=ask)
    assert sorted(ask.read) == [f"TEST_{i:05d}.jpg" for i in range(4, 8)]
    assert files(again, outcome, place) == straight


def test_another_prediction_is_not_mixed_in(models: Path, photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        answer(job_of(models, place, "predict.part=3"), CPU, ask=Reader(4))

    def refused(message: str, folder: Path = models, *sets: str, **wishes: object) -> None:
        with pytest.raises(RecipeError, match=message) as error:
            job_of(folder, place, *sets, **wishes)
        assert "--overwrite" in str(error.value) and str(place) in str(error.value)

    refused(r"predict\.tta: 1 -> 2", views=2)
    refused(r"ensemble\.vote", vote="logit")
    refused(r"models\.1: .* -> null", models / "0")
    refused(r"of other images \(10 -> 1 images; row 1: .TEST_00001.jpg. is gone", data=str(photos / "*0.jpg"))
    job_of(models, place, "predict.batch=3", "predict.part=5", "decode.threads=1")  # changes no answer
    content = (photos / "TEST_00004.jpg").read_bytes()
    (photos / "TEST_00004.jpg").write_bytes(content + b"\0")
    refused("row 4: 'TEST_00004.jpg' has another content")
    assert len(Parts(place / "parts", 10).spans) == 1
    job = job_of(models, place, overwrite=True)
    assert not job.parts.spans and len(job.roll) == 10


def test_a_stop_is_told_with_what_there_is_and_keeps_it(models: Path, tmp_path: Path) -> None:
    job, stops = job_of(models, tmp_path / "out", "predict.part=4"), iter([False] * 7 + [True])
    with pytest.raises(Interrupted, match=r"stopped: 4 of 10 images are answered, in .*parts; the same command"):
        answer(job, CPU, ask=Reader(), stop=lambda: next(stops))
    assert job.parts.spans == [Span(0, 4)]


def test_a_part_ends_by_the_clock(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(i) for i in range(100_000))  # each look at it takes a second
    monkeypatch.setattr(engine.predict.run.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(engine.predict.run, "_FIRST", 2)
    monkeypatch.setattr(engine.predict.run, "PART_S", 0.5)
    job = prepare(models, Wishes())
    answer(job, CPU, ask=Reader())
    assert [len(span) for span in job.parts.spans] == [2] + [1] * 8


def test_progress_counts_what_was_there_before(models: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(job_of(models, tmp_path / "out", "predict.part=3"), CPU, ask=Reader(4))
    told: list[tuple[int, int]] = []
    job = job_of(models, tmp_path / "out", "predict.part=3")
    assert any("going on; 3 of 10 images" in notice for notice in job.notices)
    answer(job, CPU, lambda done, total: told.append((done, total)), ask=Reader())
    assert told[0] == (3, 10) and told[-1] == (10, 10) and told == sorted(told)


def test_answers_can_be_changed_when_all_are_there(models: Path, tmp_path: Path) -> None:
    def towards_the_mean(parts: Parts) -> Callable[[Part], Part]:
        mean_C = np.mean(np.concatenate([part.p_NC for _, part in parts.each()]), axis=0)

        def change(part: Part) -> Part:
            columns = {"before": pa.array(part.p_NC.max(1))}
            return Part((part.p_NC + mean_C) / 2, part.status, part.voters, columns, part.asked)

        return change

    job = job_of(models, tmp_path / "out", "predict.part=3")
    plain = answer(job, CPU, ask=Reader()).answers.probabilities_NC
    outcome = answer(job, CPU, ask=Reader(0), transform=towards_the_mean)
    np.testing.assert_allclose(outcome.answers.probabilities_NC, (plain + plain.mean(0)) / 2)
    write(job, outcome, tmp_path / "out")
    table = pa.parquet.read_table(tmp_path / "out" / "predictions.parquet")
    assert table.column_names == [
        *("id", "path", "prediction", "confidence", "status", "before"),
        *(f"p:{name}" for name in CLASSES),
    ]
    np.testing.assert_allclose(table["before"], plain.max(1))


def test_what_else_is_known_of_an_answer_stands_beside_it_and_is_nothing_where_none_is(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    for number in (0, 1, 4):
        (photos / f"TEST_{number:05d}.jpg").write_bytes(b"")
    job = job_of(models, tmp_path / "out", "predict.part=2")  # nobody of the first part is seen
    outcome = answer(job, CPU, ask=Reader())
    write(job, outcome, tmp_path / "out")
    rows = pa.parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [row["set"] for row in rows] == [None if i in (0, 1, 4) else [row["id"]] for i, row in enumerate(rows)]
    assert outcome.seen == 7 and [path for path, _ in outcome.failed] == [rows[i]["path"] for i in (0, 1, 4)]


def test_labelled_images_are_scored_over_all_parts_and_many_by_a_sample(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("id,label\n" + "".join(f"TEST_{i:05d},{CLASSES[i % 3]}\n" for i in range(9)), "utf-8")
    scores = [
        answer(job_of(models, tmp_path / str(rows), f"predict.part={rows}", truth=str(truth)), CPU, ask=Reader()).scores
        for rows in (2, 10)
    ]
    assert scores[0] == scores[1] and scores[0] is not None and scores[0].images == 9
    assert scores[0].alone["0"] == scores[0].alone["1"] == scores[0].together != scores[0].baseline
    monkeypatch.setattr("engine.predict.scores.MOST_IMAGES", 4)
    fewer = [
        answer(job_of(models, tmp_path / str(rows), truth=str(truth)), CPU, ask=Reader()).scores for rows in ("a", "b")
    ]
    assert fewer[0] == fewer[1] and fewer[0] is not None and 0 < fewer[0].images < 9


def infer(*arguments: object, **options: object) -> Result:
    result = CliRunner().invoke(main, ["infer", *map(str, arguments)], **options)  # type: ignore[arg-type]
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_the_command_goes_on_and_tidies_up(models: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, dies = Counter[str](), [5]
    read_file = engine.loader.source.read_file

    def counted(path: str) -> bytes | Fault:
        if sum(reads.values()) == dies[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        reads[path] += 1
        return read_file(path)

    monkeypatch.setattr(engine.loader.source.files, "available", lambda: False)  # in Python, where it can be counted
    monkeypatch.setattr(engine.loader.source, "read_file", counted)
    arguments = ("--folds", models, "--set", "predict.part=2", "--batch", 1, "--set", "decode.prefetch=1")
    stopped = infer(*arguments)
    assert stopped.exit_code == 3, stopped.output
    assert "images are answered" in stopped.stderr and "goes on" in stopped.stderr
    place = PredictionsFolder(models / "predictions")
    committed = [path.name for path in place.parts.glob("rows-*")]
    assert committed and not place.predictions.exists()
    before, dies[0] = Counter(reads), -1
    done = infer(*arguments)
    assert done.exit_code == 0, done.output
    assert "going on" in done.stderr and f"{10 - 2 * len(committed)} images by 2 models" in done.stdout
    finished = {str(photos / f"TEST_{row:05d}.jpg") for row in range(2 * len(committed))}
    assert all(reads[path] == before[path] for path in finished)
    assert not place.parts.exists() and place.predictions.is_file()
    assert infer("--folds", models).exit_code == 0  # and another one begins afresh


def test_images_are_named_on_standard_input_by_patterns_and_more_than_once(models: Path, photos: Path) -> None:
    listed = "".join(f"{photos}/TEST_{i:05d}.jpg\n" for i in (3, 1))
    done = infer("--folds", models, "--data", photos / "*[5-6].jpg", "--data", "-", input=listed)
    assert done.exit_code == 0, done.output
    found = Predictions.read(models / "predictions" / "predictions.parquet")
    assert found.ids == tuple(f"{photos}/TEST_{i:05d}.jpg" for i in (5, 6, 3, 1))


def test_one_process_at_a_time_predicts_in_a_folder(tmp_path: Path) -> None:
    inside: list[str] = []

    def other() -> None:
        with pytest.raises(EngineError, match="a prediction is going on there") as error, held(tmp_path / "out"):
            pass
        inside.append(str(error.value))

    with held(tmp_path / "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "--out" in inside[0] and not (tmp_path / "out").exists()


def test_ranks_of_torchrun_leave_the_file_of_one(models: Path, tmp_path: Path) -> None:
    arguments = ["infer", "--folds", models, "--set", "predict.part=3", "--batch", 1, "--out"]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*ranks, "-m", "engine.cli.main", *map(str, arguments), str(tmp_path / "two")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images by 2 models") == 1  # one of them speaks
    assert infer(*arguments[1:], tmp_path / "one").exit_code == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two and len(one) == 2
