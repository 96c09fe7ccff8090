"""A submission is checked against its sample, and everything that is wrong with it is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.predict.check import check, labels_in
from engine.predict.submission import Sheet, write_submission
from engine.predictions import Predictions

SAMPLE = "id,cat,dog\n1,0,0\n2,0,0\n3,0,0\n"
GOOD = "id,cat,dog\n1,0.5,0.5\n2,1,0\n3,1e-3,0.999\n"


def findings(folder: Path, submission: str, sample: str = SAMPLE, known: tuple[str, ...] = ()) -> list[str]:
    for name, text in (("submission.csv", submission), ("sample.csv", sample)):
        (folder / name).write_text(text, "utf-8")
    return check(folder / "submission.csv", folder / "sample.csv", known)


def test_what_fits_has_no_findings(tmp_path: Path) -> None:
    assert findings(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("id,cat", "ID,cat", "the first column is called 'ID', in the sample 'id'"),
        ("cat,dog", "dog,cat", "columns in another order: 'dog' where the sample has 'cat'"),
        ("cat,dog", "cat,Dog", "1 column missing: 'dog'"),
        ("cat,dog", "cat,Dog", "1 column that the sample does not have: 'Dog'"),
        ("\n2,1,0", "", "1 id missing: '2'"),
        ("\n2,1,0", "\n02,1,0", "1 id that the sample does not ask for: '02'"),
        ("\n2,1,0", "\n2,1,0\n2,1,0", "1 id more than once: '2'"),
        ("1,0.5,0.5\n2,1,0\n", "2,1,0\n1,0.5,0.5\n", "rows in another order: '2' where the sample has '1'"),
        ("2,1,0", "2,0.9,0", "1 row that do not sum to 1, farthest '2': 0.9"),
        ("2,1,0", "2,nan,0", "1 value empty or NaN: 'nan' ('2', column 'cat')"),
        ("2,1,0", "2,1,", "1 value empty or NaN: '' ('2', column 'dog')"),
        ("2,1,0", "2,1.25,-0.25", "1 value below 0: '-0.25' ('2', column 'dog')"),
        ("2,1,0", "2,1.25,-0.25", "1 value above 1: '1.25' ('2', column 'cat')"),
        ("2,1,0", '2,"0,9",0.1', "1 value with a decimal comma (write a point): '0,9' ('2', column 'cat')"),
        ("2,1,0", "2,90%,0.1", "1 value that are no numbers: '90%' ('2', column 'cat')"),
        ("2,1,0", "2,inf,0", "1 value that are no numbers: 'inf' ('2', column 'cat')"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, old: str, new: str, finding: str) -> None:
    assert old in GOOD
    assert finding in findings(tmp_path, GOOD.replace(old, new))


def test_another_sign_between_columns_is_named(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, GOOD.replace(",", ";"))
    assert found == "the file is unlike the sample: read with semicolons between its columns"


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    assert len(findings(tmp_path, "id,dog,cat\n1,0.5,0.4\n7,1,-1\n")) == 5


@pytest.mark.parametrize(
    ("submission", "finding"),
    [
        ("id,label\n1,cat\n2,dog\n", None),
        ("id,label\n1,cat\n2,\n", "1 label empty: '2'"),
        ("id,label\n1,cat\n2,fox\n", "1 label that nobody knows: 'fox'; known are 'cat', 'dog'"),
    ],
)
def test_labels_are_known_ones(tmp_path: Path, submission: str, finding: str | None) -> None:
    found = findings(tmp_path, submission, "id,label\n1,0\n2,0\n", ("cat", "dog"))
    assert found == ([finding] if finding else [])


@pytest.mark.parametrize(
    ("cell", "finding"),
    [
        ("cat dog", None),
        ("cat", None),
        ("cat dog eel fox", "1 row with more than 3 labels: '2'"),
        ("cat cat", "1 row with a label twice: '2'"),
        ("cat hen", "1 label that nobody knows: 'hen'; known are 'cat', 'dog', 'eel', 'fox'"),
    ],
)
def test_several_labels_in_a_cell_are_as_many_as_the_sample_has(tmp_path: Path, cell: str, finding: str | None) -> None:
    found = findings(
        tmp_path, f"id,label\n1,cat\n2,{cell}\n", "id,label\n1,cat dog eel\n2,cat\n", ("cat", "dog", "eel", "fox")
    )
    assert found == ([finding] if finding else [])


def test_a_single_probability_needs_no_sum(tmp_path: Path) -> None:
    assert findings(tmp_path, "id,cat\n1,0.2\n2,1\n", "id,cat\n1,0.5\n2,0.5\n") == []
    assert findings(tmp_path, "id,cat\n1,0.2\n2,cat\n", "id,cat\n1,0.5\n2,0.5\n") == [
        "1 value that are no numbers: 'cat' ('2', column 'cat')"
    ]


@pytest.mark.parametrize("digits", ["%.8g", "%.3f", "%.1f", "%.6e"])
def test_what_we_write_fits(tmp_path: Path, digits: str) -> None:
    classes = tuple(f"c{n}" for n in range(40))
    p = np.random.default_rng(0).dirichlet(np.ones(40), 20).astype(np.float32)
    answers = Predictions(tuple(f"test/{n}.jpg" for n in range(20)), classes, p)
    sample = tmp_path / "sample.csv"
    rows = "".join(f"{n}{',0' * 40}\n" for n in range(19, -1, -1))
    sample.write_text(",".join(("ID", *classes[::-1])) + f"\n{rows}")
    sheet = Sheet.like(sample, answers.ids, classes)
    object.__setattr__(sheet, "digits", digits)
    write_submission(tmp_path / "submission.csv", sheet, answers)
    assert check(tmp_path / "submission.csv", sample) == []


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        check(tmp_path / "none.csv", tmp_path / "none.csv")
    with pytest.raises(DataError, match="no such table of labels"):
        labels_in(tmp_path / "none.csv")
    (tmp_path / "train.csv").write_text("id,label\n1,dog\n2,cat\n3,dog\n")
    assert labels_in(tmp_path / "train.csv") == ["cat", "dog"]
