"""Files of answers are read as they are clearly meant, and what does not fit together is named."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.ensemble.prediction_files import known_labels, read_candidates, with_labels
from engine.errors import DataError
from engine.predictions import LabelledPredictions, Predictions

IDS, CLASSES = ("1.jpg", "2.jpg", "3.jpg"), ("cat", "dog")
P_NC = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    Predictions(IDS, CLASSES, P_NC).labelled(["cat", "dog", "dog"], [0, 1, 2]).write(tmp_path / "ours.parquet")
    return tmp_path / "ours.parquet"


@pytest.mark.parametrize(
    "text",
    [
        "id,dog,cat\n3.jpg,.75,.25\n1.jpg,0.25,0.75\n2.jpg,0.5,0.5\n",
        "image;cat;dog\n1;0,75;0,25\n2;0,5;0,5\n3;0,25;0,75\n",
        ",id,p:cat,p:dog\n0,1.jpg,0.75,0.25\n1,2.jpg,0.5,0.5\n2,3.jpg,0.25,0.75\n",
        "id,label,cat,dog\n1.jpg,cat,0.75,0.25\n2.jpg,cat,0.5,0.5\n3.jpg,dog,0.25,0.75\n",
        "id,label,cat,dog\n1.jpg,0,0.75,0.25\n2.jpg,0,0.5,0.5\n3.jpg,1,0.25,0.75\n",
        "id\tpath\tcat\tdog\nx/1.jpg\ta\t0.75\t0.25\nx/2.jpg\tb\t0.5\t0.5\nx/3.jpg\tc\t0.25\t0.75\n",
    ],
)
def test_other_tools_tables_of_probabilities(tmp_path: Path, ours: Path, text: str) -> None:
    read = read_candidates([ours, write(tmp_path / "theirs.csv", text)])
    for one in read.answers:
        assert (one.ids, one.classes) == (IDS, CLASSES)
        np.testing.assert_allclose(one.probabilities_NC, P_NC)


def test_labels_alone_are_votes(tmp_path: Path, ours: Path) -> None:
    theirs = write(tmp_path / "theirs.csv", "ID,target\n3,dog\n1,dog\n2,cat\n")
    named = write(tmp_path / "named.csv", "id,path,prediction,confidence\n3,a,cat,.9\n1,b,dog,.4\n2,c,cat,.7\n")
    read = read_candidates([ours, theirs, named])
    np.testing.assert_array_equal(read.answers[1].probabilities_NC, [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(read.answers[2].probabilities_NC, [[0, 1], [1, 0], [1, 0]])


def test_labels_in_all_files_are_votes_over_all_that_are_named(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.csv", "ID,target\n1,10\n2,2\n"), write(tmp_path / "b.csv", "ID,target\n2,7\n1,2\n")]
    first, second = read_candidates(files).answers
    assert first.ids == second.ids == ("1", "2") and first.classes == second.classes
    assert first.answers == ["10", "2"] and second.answers == ["2", "7"]


def test_names_in_any_unicode_form_and_text_in_any_encoding(tmp_path: Path) -> None:
    def form(name: str) -> str:
        return unicodedata.normalize("NFD", name)

    one = write(tmp_path / "a.csv", "id,고양이,개\n사진,0.75,0.25\n")
    other = write(tmp_path / "b.csv", f"id,{form('개')},{form('고양이')}\n{form('사진')},0.5,0.5\n", "utf-16")
    first, second = read_candidates([one, other]).answers
    assert first.ids == second.ids and first.classes == second.classes == ("고양이", "개")


def test_a_parquet_table_of_another_tool(tmp_path: Path, ours: Path) -> None:
    pq.write_table(pa.table({"id": IDS, "cat": P_NC[:, 0], "dog": P_NC[:, 1]}), tmp_path / "theirs.parquet")
    np.testing.assert_allclose(read_candidates([ours, tmp_path / "theirs.parquet"]).answers[1].probabilities_NC, P_NC)


def test_rows_that_were_rounded_sum_to_one_again_and_that_is_told(tmp_path: Path) -> None:
    read = read_candidates([write(tmp_path / "a.csv", "id,a,b,c\n1,0.33,0.33,0.33\n")])
    np.testing.assert_allclose(read.answers[0].probabilities_NC, 1 / 3)
    assert "made to sum to 1" in read.notices[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,cat,dog\n1,0.5,0.5\n2,0.5,0.5\n", r"theirs.csv lacks 1 sample of .*ours.parquet: '3.jpg'.*--common"),
        (
            "id,cat,cow\n1,1,0\n2,1,0\n3,1,0\n",
            r"lacks 1 class of .*: 'dog'; only .*theirs.csv has 1 class: 'cow'.*--com",
        ),
        ("id,label\n1,cat\n2,cow\n3,dog\n", "only .*theirs.csv has 1 class: 'cow'"),
        ("id,cat,dog\n1,2.5,-1\n2,0.3,0\n3,1,0\n", "'1': not a probability distribution.*not logits"),
        ("id,cat\n1,0.5\n2,0.25\n3,0.1\n", "a probability of one class only"),
        ("id,cat,dog\n1,0.5,0.5\n1,0.5,0.5\n", "ids that stand there twice: '1'"),
        ("id,label\n1,cat\n2,\n3,dog\n", "no answer for '2'"),
        ("id\n1\n", "expected the id first"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, ours: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_candidates([ours, write(tmp_path / "theirs.csv", text)])


def test_common_takes_what_all_have_and_tells_what_is_left_out(tmp_path: Path, ours: Path) -> None:
    theirs = write(tmp_path / "theirs.csv", "id,cow,dog\n9,0.5,0.5\n3,0.4,0.6\n1,0.9,0.1\n")
    read = read_candidates([ours, theirs], shared=True)
    assert all((one.ids, one.classes) == (("1.jpg", "3.jpg"), ("dog",)) for one in read.answers)
    told = " ".join(read.notices)
    assert "ours.parquet: 1 sample left out" in told and "theirs.csv: 1 sample" in told and "'cat', 'cow'" in told
    with pytest.raises(DataError, match="nothing in common"):
        read_candidates([ours, write(tmp_path / "others.csv", "id,cat,dog\n7,1,0\n")], shared=True)


def test_labels_of_the_files_are_known_and_those_that_differ_are_named(tmp_path: Path, ours: Path) -> None:
    read = read_candidates([ours, write(tmp_path / "b.csv", "id,cat,dog\n1,1,0\n2,1,0\n3,1,0\n")])
    labelled = with_labels(read, known_labels(read))
    assert all(isinstance(one, LabelledPredictions) and one.fold_N.tolist() == [0, 1, 2] for one in labelled)
    assert labelled[1].labels == ("cat", "dog", "dog")
    Predictions(IDS, CLASSES, P_NC).labelled(["cat", "dog", "cat"]).write(tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"different labels for '3.jpg'.*--truth"):
        known_labels(read_candidates([ours, tmp_path / "c.parquet"]))
