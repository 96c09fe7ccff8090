"""Answers of any file are scored by the truth of any table, and compared with others about the same images."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.metrics import LABEL_METRICS, METRICS, evaluate
from engine.predict.answers import labelled, read_answers, read_truth
from engine.predict.judge import judge
from engine.predictions import Predictions

CLASSES = ("cat", "dog", "eel")


def made(samples: int = 60, seed: int = 0, power: float = 1.0) -> tuple[Predictions, list[str]]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(3), samples)
    labels = [CLASSES[min(c, 2)] for c in (rng.random((samples, 1)) > p.cumsum(1)).sum(1)]
    p = p**power / (p**power).sum(1, keepdims=True)
    return Predictions(tuple(f"test/{n:03}.jpg" for n in range(samples)), CLASSES, p), labels


def written(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def truth_of(folder: Path, one: Predictions, labels: list[str], **columns: list[str]) -> str:
    """A table of the truth that calls images by their bare names, in another order."""
    rows = [(Path(id_).stem, *rest) for id_, *rest in zip(one.ids, *columns.values(), labels, strict=True)]
    return str(written(folder / "truth.csv", ("id", *columns, "label"), *rows[::-1]))


def table_of(path: Path, one: Predictions, digits: str = "%.10g") -> Path:
    rows = [(id_, *(digits % value for value in row)) for id_, row in zip(one.ids, one.probabilities_NC, strict=True)]
    return written(path, ("image", *one.classes), *rows)


def test_a_file_is_scored_by_its_own_labels(tmp_path: Path) -> None:
    one, labels = made()
    one.labelled(labels, groups=["a", "b"] * 30).write(tmp_path / "p.parquet")
    found = judge(read_answers(tmp_path / "p.parquet"), None)
    assert found.scores.metrics == pytest.approx(evaluate(one.labelled(labels)).metrics, abs=1e-6)
    assert (found.scores.images, found.groups, set(found.of_groups)) == (60, 2, {"a", "b"})
    assert found.intervals.keys() == METRICS.keys()
    one.write(tmp_path / "bare.parquet")
    with pytest.raises(DataError, match="holds no labels; give a table"):
        judge(read_answers(tmp_path / "bare.parquet"), None)


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "with a label", "with numbers for labels"])
def test_whoever_wrote_them_probabilities_are_scored_alike(tmp_path: Path, kind: str) -> None:
    one, labels = made()
    path = tmp_path / "answers.csv"
    if kind == "parquet":
        path = tmp_path / "answers.parquet"
        one.write(path)
    elif kind.startswith("with"):
        extra = [7] * 60 if "numbers" in kind else one.answers
        rows = [(id_, one_, *p) for id_, one_, p in zip(one.ids, extra, one.probabilities_NC.tolist(), strict=True)]
        written(path, ("id", "label", *CLASSES), *rows)
    else:
        table_of(path, one)
        if kind == "tsv":
            path = tmp_path / "answers.tsv"
            path.write_text((tmp_path / "answers.csv").read_text().replace(",", "\t"))
    found = judge(read_answers(path), read_truth(truth_of(tmp_path, one, labels)))
    assert found.scores.metrics == pytest.approx(evaluate(one.labelled(labels)).metrics, abs=1e-6)


def test_labels_alone_are_scored_by_what_asks_for_no_more(tmp_path: Path) -> None:
    one, labels = made()
    path = written(tmp_path / "a.csv", ("id", "target"), *zip(one.ids, one.answers, strict=True))
    found = judge(read_answers(path), read_truth(truth_of(tmp_path, one, labels)))
    expected = evaluate(one.labelled(labels)).metrics
    assert found.scores.metrics == {name: expected[name] for name in LABEL_METRICS}
    assert found.brier is None and found.chance is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_label_that_is_never_answered_counts_as_wrong(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", ("id", "label"), ("1", "0"), ("2", "0"), ("3", "1"))
    truth = read_truth(str(written(tmp_path / "t.csv", ("id", "label"), ("1", "0"), ("2", "7"), ("3", "1"))))
    assert judge(read_answers(path), truth).scores.metrics["accuracy"] == pytest.approx(2 / 3)


def test_groups_of_the_truth_widen_the_intervals(tmp_path: Path) -> None:
    one, labels = made(200)
    table_of(tmp_path / "a.csv", one)
    truth = truth_of(tmp_path, one, labels, sender=[f"s{n % 10}" for n in range(200)])
    apart, together = (
        judge(read_answers(tmp_path / "a.csv"), read_truth(truth, "", "", group)) for group in ("", "sender")
    )
    assert (apart.groups, together.groups, len(together.of_groups)) == (0, 10, 10)
    assert together.intervals["log_loss"] != apart.intervals["log_loss"]
    assert not apart.of_groups
    with pytest.raises(DataError, match="no column 'town'"):
        read_truth(truth, "", "", "town")


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    one, labels = made(6)
    table_of(tmp_path / "a.csv", one.take(range(5)))
    truth = read_truth(truth_of(tmp_path, one.take(range(1, 6)), [*labels[1:5], "fox"]))
    answered, told = labelled(read_answers(tmp_path / "a.csv"), truth)
    assert len(answered.known) == 4
    assert "1 label without an answer: '005'" in told[0] and "1 answer without a label: 'test/000.jpg'" in told[1]
    other = dataclasses.replace(truth, labels={"x": "cat"})
    with pytest.raises(DataError, match="none of its ids is one of"):
        labelled(read_answers(tmp_path / "a.csv"), other)
    strange = dataclasses.replace(truth, labels={"001": "Cat"})
    with pytest.raises(DataError, match=r"none of its classes is a label.*Is 'Cat' called 'cat'\?"):
        labelled(read_answers(tmp_path / "a.csv"), strange)


# -- against others


def test_better_is_said_of_the_first_file_and_only_when_it_is(tmp_path: Path) -> None:
    sharp, labels = made(400)
    flat, _ = made(400, power=0.3)
    table_of(tmp_path / "sharp.csv", sharp)
    flat.take(range(399, -1, -1)).write(tmp_path / "flat.parquet")
    truth = read_truth(truth_of(tmp_path, sharp, labels))
    files = [read_answers(tmp_path / name) for name in ("sharp.csv", "flat.parquet")]
    found = {one.metric: one.verdict for one in judge(*files[:1], truth, files[1]).against}
    assert found["log_loss"] == "better" and found["accuracy"] == "not told apart"
    found = {one.metric: one.verdict for one in judge(files[1], truth, files[0]).against}
    assert found["log_loss"] == "worse"


def test_the_labels_of_one_file_do_for_both(tmp_path: Path) -> None:
    sharp, labels = made(400)
    sharp.labelled(labels).write(tmp_path / "sharp.parquet")
    flat, _ = made(400, power=0.3)
    flat.take(range(100, 400)).write(tmp_path / "flat.parquet")
    found = judge(read_answers(tmp_path / "sharp.parquet"), None, read_answers(tmp_path / "flat.parquet"))
    assert found.against[0].verdict == "better"
    assert any("compared on the 300 samples that both files answer" in notice for notice in found.notices)


def test_labels_and_probabilities_are_compared_as_labels(tmp_path: Path) -> None:
    one, labels = made(100)
    table_of(tmp_path / "p.csv", one)
    right = written(tmp_path / "right.csv", ("id", "label"), *zip(one.ids, labels, strict=True))
    truth = read_truth(truth_of(tmp_path, one, labels))
    found = judge(read_answers(right), truth, read_answers(tmp_path / "p.csv")).against
    assert [each.metric for each in found] == list(LABEL_METRICS)
    assert {each.verdict for each in found} == {"better"}


def test_files_about_other_images_or_classes_are_not_compared(tmp_path: Path) -> None:
    one, labels = made(20)
    table_of(tmp_path / "a.csv", one)
    table_of(tmp_path / "b.csv", one.take(range(10)))
    table_of(tmp_path / "c.csv", one.take(range(10, 20)))
    truth = read_truth(truth_of(tmp_path, one, labels))
    a, b, c = (read_answers(tmp_path / f"{name}.csv") for name in "abc")
    with pytest.raises(DataError, match="no labelled sample in common"):
        judge(b, truth, c)
    other = dataclasses.replace(a, predictions=dataclasses.replace(a.predictions, classes=("cat", "dog", "fox")))
    with pytest.raises(DataError, match="different classes"):
        judge(a, truth, other)
