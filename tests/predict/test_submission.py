"""A submission has the sample file's columns, rows and order, whatever order the predictions were made in."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.names import ClassNames
from engine.errors import DataError, RecipeError
from engine.predict.submission import Sheet, write_submission
from engine.predictions import Predictions
from engine.recipe.sections import DataSection, PredictSection

CLASSES = ("K5_3세대", "아반떼_N", "GLE, 클래스")
IDS = ("test/TEST_00002.jpg", "test/TEST_00000.jpg", "test/TEST_00001.jpg")
PROBABILITIES = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])


@pytest.fixture
def answers() -> Predictions:
    return Predictions(IDS, CLASSES, PROBABILITIES)


def sample_file(folder: Path, *lines: list[str]) -> Path:
    path = folder / "sample_submission.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def submission(folder: Path, sample: Path, answers: Predictions) -> list[list[str]]:
    path = folder / "submission.csv"
    write_submission(path, Sheet.like(sample, answers.ids, answers.classes), answers)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_columns_and_rows_follow_the_sample_file(tmp_path: Path, answers: Predictions) -> None:
    sample = sample_file(
        tmp_path,
        ["ID", "GLE, 클래스", "K5_3세대", "아반떼_N"],
        *([f"TEST_0000{i}", "0", "0", "0"] for i in range(3)),
    )
    assert submission(tmp_path, sample, answers) == [
        ["ID", "GLE, 클래스", "K5_3세대", "아반떼_N"],
        ["TEST_00000", "0.1", "0.7", "0.2"],
        ["TEST_00001", "0.25", "0.25", "0.5"],
        ["TEST_00002", "0.5", "0.2", "0.3"],
    ]


@pytest.mark.parametrize("target", ["target", "label", "which car"])
def test_a_sample_with_one_column_beside_the_id_gets_the_label(
    tmp_path: Path, answers: Predictions, target: str
) -> None:
    sample = sample_file(tmp_path, ["ID", target], ["TEST_00002.jpg", "0"], ["TEST_00000.jpg", "0"])
    assert submission(tmp_path, sample, answers) == [
        ["ID", target],
        ["TEST_00002.jpg", "GLE, 클래스"],
        ["TEST_00000.jpg", "K5_3세대"],
    ]


def test_without_a_sample_file_every_prediction_is_written(tmp_path: Path, answers: Predictions) -> None:
    write_submission(tmp_path / "submission.csv", Sheet.plain(CLASSES), answers)
    with (tmp_path / "submission.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["id", "label", *CLASSES]
    assert lines[1] == ["test/TEST_00002.jpg", "GLE, 클래스", "0.2", "0.3", "0.5"]
    assert [line[0] for line in lines[1:]] == list(IDS)


def test_ids_are_text_and_keep_their_leading_zeros(tmp_path: Path) -> None:
    answers = Predictions(("7", "007"), ("a", "b"), np.array([[0.9, 0.1], [0.2, 0.8]]))
    sample = sample_file(tmp_path, ["id", "target"], ["007", ""], ["7", ""])
    assert submission(tmp_path, sample, answers)[1:] == [["007", "b"], ["7", "a"]]


def test_names_decomposed_by_macos_are_the_same_names(tmp_path: Path) -> None:
    decomposed = [unicodedata.normalize("NFD", name) for name in (*CLASSES, "사진.jpg")]
    assert decomposed[0] != CLASSES[0]
    sample = sample_file(tmp_path, ["ID", *decomposed[:3]], [decomposed[3], "0", "0", "0"])
    answers = Predictions(("test/사진.jpg",), CLASSES, PROBABILITIES[:1])
    assert submission(tmp_path, sample, answers)[1] == [decomposed[3], "0.2", "0.3", "0.5"]


def test_predictions_that_the_sample_does_not_ask_for_are_named(tmp_path: Path, answers: Predictions) -> None:
    sample = sample_file(tmp_path, ["ID", "target"], ["TEST_00000", ""], ["TEST_00001", ""])
    assert Sheet.like(sample, answers.ids, answers.classes).left_out == ("test/TEST_00002.jpg",)


def test_ids_without_an_image_are_named(tmp_path: Path, answers: Predictions) -> None:
    sample = sample_file(tmp_path, ["ID", "target"], ["TEST_00000", ""], ["TEST_00009", ""])
    with pytest.raises(DataError, match=r"sample_submission.csv: 1 of its 2 ids have no image.*'TEST_00009'"):
        Sheet.like(sample, answers.ids, answers.classes)


def test_file_names_that_two_images_share_are_not_guessed(tmp_path: Path) -> None:
    sample = sample_file(tmp_path, ["ID", "target"], ["1.jpg", ""])
    with pytest.raises(DataError, match=r"'1.jpg'"):
        Sheet.like(sample, ["red/1.jpg", "blue/1.jpg"], CLASSES)
    full = sample_file(tmp_path, ["ID", "target"], ["blue/1.jpg", ""])
    assert Sheet.like(full, ["red/1.jpg", "blue/1.jpg"], CLASSES).sample_ids == ("blue/1.jpg",)


def test_columns_that_are_not_the_classes_are_named(tmp_path: Path, answers: Predictions) -> None:
    sample = sample_file(tmp_path, ["ID", "K5_3세대", "아반떼_N", "truck"], ["TEST_00000", "0", "0", "0"])
    with pytest.raises(DataError, match=r"no class: 'truck'.*; classes without a column: 'GLE, 클래스'"):
        Sheet.like(sample, answers.ids, answers.classes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["ID", "target"]], "no rows below the header"),
        ([["ID"], ["TEST_00000"]], "at least one further column"),
        ([["ID", "a", "a"], ["TEST_00000", "0", "0"]], "2 columns are called 'a'"),
        ([["ID", "target"], ["TEST_00000", ""], ["TEST_00000", ""]], "ids that stand there twice: 'TEST_00000'"),
    ],
)
def test_a_sample_file_that_makes_no_sense_is_refused(
    tmp_path: Path, answers: Predictions, lines: list[list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Sheet.like(sample_file(tmp_path, *lines), answers.ids, answers.classes)


def test_a_sample_file_that_is_not_there_or_not_utf8_is_refused(tmp_path: Path, answers: Predictions) -> None:
    with pytest.raises(DataError, match="no such sample submission"):
        Sheet.like(tmp_path / "none.csv", answers.ids, answers.classes)
    korean = tmp_path / "cp949.csv"
    korean.write_bytes("ID,차종\nTEST_00000,0\n".encode("cp949"))
    with pytest.raises(DataError, match="UTF-8"):
        Sheet.like(korean, answers.ids, answers.classes)


@pytest.mark.parametrize(
    "data",
    [
        b"ID;target\r\nTEST_00000;\r\nTEST_00002;\r\n",
        "\ufeffID,target\nTEST_00000,0\nTEST_00002,0\n".encode(),
        "ID\ttarget\r\nTEST_00000\t0\r\nTEST_00002\t0\r\n".encode("utf-16"),
        b"sep=;\nID;target\nTEST_00000;0\nTEST_00002;0\n",
    ],
)
def test_a_sample_file_is_read_like_any_table_and_answered_as_csv(
    tmp_path: Path, answers: Predictions, data: bytes
) -> None:
    sample = tmp_path / "sample_submission.csv"
    sample.write_bytes(data)
    told = [["ID", "target"], ["TEST_00000", "K5_3세대"], ["TEST_00002", "GLE, 클래스"]]
    assert submission(tmp_path, sample, answers) == told
    assert (tmp_path / "submission.csv").read_bytes().decode().startswith("ID,target\nTEST_00000,")


def test_a_decimal_comma_asks_for_a_probability(tmp_path: Path) -> None:
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("id;defect\n1.jpg;0,5\n2.jpg;0,5\n")
    assert submission(tmp_path, sample, TWO) == [["id", "defect"], ["1.jpg", "0.1"], ["2.jpg", "0.75"]]


def test_the_header_is_given_back_letter_for_letter(tmp_path: Path, answers: Predictions) -> None:
    header = [" ID", unicodedata.normalize("NFD", "차종 ")]
    assert submission(tmp_path, sample_file(tmp_path, header, ["TEST_00000", "0"]), answers)[0] == header


def test_numbers_that_pandas_puts_before_the_ids_are_told(tmp_path: Path, answers: Predictions) -> None:
    sample = sample_file(tmp_path, ["", "ID", "target"], ["0", "TEST_00000", ""], ["1", "TEST_00002", ""])
    with pytest.raises(DataError, match=r"numbers of the rows, as pandas writes them.*index=False.*'ID' comes first"):
        Sheet.like(sample, answers.ids, answers.classes)
    ids = sample_file(tmp_path, ["", "target"], ["0", ""], ["1", ""])  # here they are the ids
    assert Sheet.like(ids, ["0.jpg", "1.jpg"], answers.classes).sample_ids == ("0.jpg", "1.jpg")


def test_a_workbook_is_no_sample_file(tmp_path: Path, answers: Predictions) -> None:
    sample = tmp_path / "sample_submission.xlsx"
    sample.write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(DataError, match=r"a workbook of a spreadsheet.* Save it as CSV"):
        Sheet.like(sample, answers.ids, answers.classes)


# One column: a label, or a probability and of what

TWO = Predictions(("1.jpg", "2.jpg"), ("0", "1"), np.array([[0.9, 0.1], [0.25, 0.75]]))


def one_column(
    folder: Path, column: str, values: tuple[str, str], classes: tuple[str, ...], positive: str = ""
) -> tuple[str | None, tuple[str, ...]]:
    sample = sample_file(folder, ["id", column], ["1", values[0]], ["2", values[1]])
    sheet = Sheet.like(sample, TWO.ids, classes, positive=positive)
    return sheet.contents[0], sheet.notices


@pytest.mark.parametrize(
    ("column", "values", "classes", "content"),
    [
        # what the column is called after, where its values are numbers
        ("1", ("0.5", "0.5"), ("0", "1"), "1"),
        ("0", ("0.5", "0.5"), ("0", "1"), "0"),
        ("1", ("0", "0"), ("0", "1"), "1"),
        ("1", ("", ""), ("0", "1"), "1"),
        ("cat", ("0.0", "1.0"), ("cat", "dog"), "cat"),
        ("CAT", ("0.5", "0.5"), ("cat", "dog"), "cat"),
        ("is_cat", ("0", "0"), ("cat", "dog"), "cat"),
        ("p_cat", ("0.5", "0.5"), ("cat", "dog", "eel"), "cat"),
        ("has_cactus", ("0.5", "0.5"), ("cactus", "no_cactus"), "cactus"),
        ("prob(no cactus)", ("0.5", "0.5"), ("cactus", "no_cactus"), "no_cactus"),
        ("class_0", ("0.5", "0.5"), ("0", "1"), "0"),
        (unicodedata.normalize("NFD", "é"), ("0.5", "0.5"), ("e", "é"), "é"),
        # the positive class of two
        ("target", ("0.5", "0.5"), ("0", "1"), "1"),
        ("has_cactus", ("0.5", "nan"), ("0", "1"), "1"),
        ("target", ("1e-3", "1"), ("no", "yes"), "yes"),
        ("target", ("0.0", "0.0"), ("false", "True"), "True"),
        ("target", ("0.5", "0.5"), ("Positive", "zero"), "Positive"),
        ("target", ("0.5", "0.5"), ("cat", "negative"), "cat"),
        ("target", ("0.5", "0.5"), ("cat", "dog"), "dog"),
        # labels
        ("target", ("0", "1"), ("0", "1"), None),
        ("has_cactus", ("0", "0"), ("0", "1"), None),
        ("target", ("0", "0"), ("cat", "dog"), None),
        ("target", ("", "nan"), ("cat", "dog"), None),
        ("target", ("0", "0"), ("cat", "dog", "eel"), None),
        ("label", ("cat", "cat"), ("cat", "dog"), None),
        ("cat", ("dog", "cat"), ("cat", "dog"), None),
        ("aperture", ("1.4", "2.8"), ("1.4", "2.8"), None),
        ("grade", ("0.5", "1"), ("0.5", "1", "1.5"), None),
    ],
)
def test_one_column_holds_what_its_values_ask_for(
    tmp_path: Path, column: str, values: tuple[str, str], classes: tuple[str, ...], content: str | None
) -> None:
    found, notices = one_column(tmp_path, column, values, classes)
    assert found == content
    assert bool(notices) == (content is not None)
    if content is not None:
        assert f"column {column!r} gets the probability of {content!r}" in notices[0]


def test_a_probability_is_written_where_one_is_asked_for_and_the_other_class_can_be_named(tmp_path: Path) -> None:
    sample = sample_file(tmp_path, ["id", "target"], ["2", "0.5"], ["1", "0.5"])
    assert submission(tmp_path, sample, TWO) == [["id", "target"], ["2", "0.75"], ["1", "0.1"]]
    _, (notice,) = one_column(tmp_path, "target", ("0.5", "0.5"), TWO.classes)
    assert "for that of '0' add --set predict.positive_class=0" in notice
    assert one_column(tmp_path, "target", ("0.5", "0.5"), TWO.classes, "0")[0] == "0"
    assert one_column(tmp_path, "target", ("0", "0"), ("a", "b", "c"), "b")[0] == "b"


@pytest.mark.parametrize(
    ("column", "values", "classes", "message"),
    [
        ("target", ("0.5", "0.5"), ("a", "b", "c"), "not of which of the 3 classes.*predict.positive_class=CLASS"),
        ("age", ("3.7", "41.0"), ("a", "b"), "holds numbers such as 3.7, which are neither probabilities nor classes"),
        ("CAT", ("0.5", "0.5"), ("Cat", "cat"), "column 'CAT' may be any of the classes 'Cat', 'cat'"),
    ],
)
def test_one_column_that_could_mean_several_things_is_refused(
    tmp_path: Path, column: str, values: tuple[str, str], classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        one_column(tmp_path, column, values, classes)


def test_columns_are_classes_in_any_case_and_with_words_around_them(tmp_path: Path, answers: Predictions) -> None:
    sample = sample_file(tmp_path, ["ID", "p_아반떼_n", "Prob: K5 3세대", "gle 클래스"], ["TEST_00000", "0", "0", "0"])
    assert Sheet.like(sample, answers.ids, CLASSES).contents == (CLASSES[1], CLASSES[0], CLASSES[2])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["cat", "dgo", "eel"], "columns that are no class: 'dgo' (nearest 'dog'); classes without a column: 'dog'"),
        (["cat", "dog"], "classes without a column: 'eel'"),
        (["cat", "dog", "", "eel"], "columns that are no class: one without a name"),
        (["cat", "Cat", "dog", "eel"], "columns 'cat', 'Cat' all stand for the class 'cat'"),
        (["p_cat", "Cat", "dog", "eel"], "columns 'p_cat', 'Cat' all stand for the class 'cat'"),
    ],
)
def test_columns_that_are_missing_strange_or_there_twice_are_named(
    tmp_path: Path, columns: list[str], message: str
) -> None:
    sample = sample_file(tmp_path, ["id", *columns], ["1", *("0" for _ in columns)])
    with pytest.raises(DataError, match=re.escape(message)):
        Sheet.like(sample, ["1.jpg"], ("cat", "dog", "eel"))


# Several labels in a column, labels alone, digits

KINDS = ("cat", "dog", "eel")
THREE = Predictions(("1.jpg", "2.jpg"), KINDS, np.array([[0.2, 0.3, 0.5], [0.7, 0.15, 0.15]]))


def asked(folder: Path, answers: Predictions, lines: list[list[str]] | None = None, **keys: Any) -> list[list[str]]:
    data = DataSection(sample_submission=str(sample_file(folder, *lines)) if lines else "")
    sheet = Sheet.asked(data, PredictSection(**keys), answers.ids, answers.classes)
    write_submission(folder / "submission.csv", sheet, answers)
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_several_classes_in_a_cell_ask_for_so_many_the_likeliest_first(tmp_path: Path) -> None:
    lines = [["id", "label"], ["2", "dog cat"], ["1", "cat"]]
    assert Sheet.like(sample_file(tmp_path, *lines), THREE.ids, KINDS).top == 1  # one of them is a class: a label
    lines = [["id", "label"], ["2", "dog cat"], ["1", "eel dog"]]
    assert asked(tmp_path, THREE, lines) == [["id", "label"], ["2", "cat dog"], ["1", "eel dog"]]


@pytest.mark.parametrize(
    ("form", "cells"),
    [("labels", "cat"), ("top2", "cat dog"), ("top5", "cat dog eel")],
)
def test_the_recipe_says_how_many_labels_where_the_sample_does_not(tmp_path: Path, form: str, cells: str) -> None:
    lines = [["id", "label"], ["2", "0"]]
    assert asked(tmp_path, THREE, lines, submission=form) == [["id", "label"], ["2", cells]]
    assert asked(tmp_path, THREE, submission=form)[2] == ["2.jpg", cells]


def test_probabilities_alone_are_written_without_a_label(tmp_path: Path) -> None:
    assert asked(tmp_path, THREE, submission="probabilities")[:2] == [["id", *KINDS], ["1.jpg", "0.2", "0.3", "0.5"]]


def test_a_probability_can_be_asked_for_where_the_sample_holds_nothing(tmp_path: Path) -> None:
    lines = [["id", "p_dog"], ["2", ""]]
    assert asked(tmp_path, THREE, lines, submission="probabilities") == [["id", "p_dog"], ["2", "0.15"]]
    with pytest.raises(DataError, match="not of which of the 3 classes"):
        asked(tmp_path, THREE, [["id", "label"], ["2", "cat"]], submission="probabilities")


def test_labels_do_not_fit_a_sample_of_many_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 columns beside the id, and predict.submission = 'top3' fills one"):
        asked(tmp_path, THREE, [["id", *KINDS], ["2", "0", "0", "0"]], submission="top3")


def test_classes_with_blanks_cannot_stand_beside_each_other(tmp_path: Path, answers: Predictions) -> None:
    with pytest.raises(RecipeError, match="so have the names of the classes 'GLE, 클래스'"):
        asked(tmp_path, answers, submission="top2")
    asked(tmp_path, answers, submission="labels")


@pytest.mark.parametrize("form", ["top0", "top", "label", "5"])
def test_a_form_that_is_none_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="top and a number"):
        PredictSection(submission=form)


@pytest.mark.parametrize("digits", ["%.8", "%d", "8", "%.8g ", "%(id)s", "%.999f"])
def test_a_format_that_is_none_is_refused(digits: str) -> None:
    with pytest.raises(ValueError, match=r"such as %\.8g"):
        PredictSection(float_format=digits)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 40), st.booleans())
def test_rows_sum_to_one_in_the_digits_that_are_written(seed: int, digits: int, width: int, halved: bool) -> None:
    rng = np.random.default_rng(seed)
    classes = tuple(f"c{i}" for i in range(width))
    p = rng.dirichlet(np.full(width, 0.3), 4).astype(np.float32)
    names = ClassNames.of(DataSection(aliases=(("c0", "other"),) if halved else ()))
    sheet = dataclasses.replace(Sheet.plain(classes, names, "probabilities"), digits=f"%.{digits}f")
    rows = sheet.rows(Predictions(tuple("abcd"), classes, p))
    for row, exact in zip(rows.itertuples(index=False), p, strict=True):
        cells = [Decimal(f"%.{digits}f" % value) for value in row[1:]]
        assert sum(cells) == 1 and min(cells) >= 0
        assert abs(float(cells[-1]) - exact[-1] / (1 + (halved and width == 1))) <= 1.01 * 10**-digits


def test_rows_of_float32_sum_to_one_in_many_digits(tmp_path: Path) -> None:
    classes = tuple(f"c{i}" for i in range(300))
    p = np.random.default_rng(0).dirichlet(np.ones(300), 5).astype(np.float32) * np.float32(1.0004)
    written = asked(tmp_path, Predictions(tuple("abcde"), classes, p), submission="probabilities", float_format="%.12g")
    for row in written[1:]:
        assert math.fsum(map(float, row[1:])) == pytest.approx(1, abs=1e-9)


# In parts


@pytest.mark.parametrize("sampled", [False, True])
def test_parts_in_any_order_make_the_file_that_the_whole_makes(tmp_path: Path, sampled: bool) -> None:
    ids = tuple(f'{n},"\n{n}' if n % 3 else str(n) for n in range(23))  # ids of several lines and with quotes
    answers = Predictions(ids, KINDS, np.random.default_rng(0).dirichlet(np.ones(3), 23))
    order = np.random.default_rng(1).permutation(23)
    if sampled:
        sheet = Sheet.like(sample_file(tmp_path, ["id", *KINDS], *([ids[n], "0", "0", "0"] for n in order)), ids, KINDS)
    else:
        sheet = Sheet.plain(KINDS)
    write_submission(tmp_path / "whole.csv", sheet, answers)
    write_submission(tmp_path / "parts.csv", sheet, (answers.take(rows) for rows in np.array_split(np.arange(23), 4)))
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2 + sampled


def test_a_row_without_an_answer_or_with_two_is_no_submission(tmp_path: Path) -> None:
    sheet = Sheet.like(sample_file(tmp_path, ["id", "label"], ["1", "0"], ["2", "0"]), THREE.ids, KINDS)
    for parts, message in (([THREE.take([0])], "no answer for '2.jpg'"), ([THREE, THREE.take([1])], "'2.jpg'.*twice")):
        with pytest.raises(ValueError, match=message):
            write_submission(tmp_path / "submission.csv", sheet, parts)
    assert not (tmp_path / "submission.csv").exists()


# Several names of one class


@pytest.mark.parametrize(
    ("rule", "columns"),
    [("split", ["0.35", "0.35"]), ("each", ["0.7", "0.7"]), ("first", ["0", "0.7"])],
)
def test_an_alias_has_a_column_of_its_own(
    tmp_path: Path, answers: Predictions, rule: Literal["split", "each", "first"], columns: list[str]
) -> None:
    names = ClassNames.of(DataSection(aliases=((CLASSES[0], "3세대_K5"),), alias_columns=rule))
    header = ["ID", "3세대_K5", "아반떼_N", "K5_3세대", "GLE, 클래스"]
    if rule == "first":
        columns = columns[::-1]  # of the sample file's columns, not of the names
    sample = sample_file(tmp_path, header, ["TEST_00000", "0", "0", "0", "0"])
    sheet = Sheet.like(sample, answers.ids, answers.classes, names)
    write_submission(tmp_path / "submission.csv", sheet, answers)
    with (tmp_path / "submission.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.reader(file))
    assert written[0] == header
    assert [f"{float(value):g}" for value in (written[1][1], written[1][3])] == columns
    if rule != "each":
        assert sum(map(float, written[1][1:])) == pytest.approx(1)


def test_without_a_sample_file_aliases_have_columns_too(answers: Predictions) -> None:
    sheet = Sheet.plain(CLASSES, ClassNames.of(DataSection(aliases=((CLASSES[1], "N"),))))
    assert sheet.columns == ("id", "label", CLASSES[0], CLASSES[1], "N", CLASSES[2])
    assert sheet.shares == (1, 1, 0.5, 0.5, 1)


def test_labels_are_given_back_as_they_were_found(tmp_path: Path, answers: Predictions) -> None:
    names = ClassNames.of(DataSection(label_names=tuple((str(n), name) for n, name in enumerate(CLASSES))))
    sample = sample_file(tmp_path, ["ID", "target"], ["TEST_00002", "0"], ["TEST_00000", "0"])
    sheet = Sheet.like(sample, answers.ids, answers.classes, names)
    write_submission(tmp_path / "submission.csv", sheet, answers)
    assert (tmp_path / "submission.csv").read_text("utf-8") == "ID,target\nTEST_00002,2\nTEST_00000,0\n"
    wide = sample_file(tmp_path, ["ID", "1", "0", "2"], ["TEST_00000", "0", "0", "0"])
    assert Sheet.like(wide, answers.ids, answers.classes, names).contents == (CLASSES[1], CLASSES[0], CLASSES[2])
