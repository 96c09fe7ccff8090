"""Predictions are known by sample id and class name: whatever these are called, in files and when they are joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.predictions import NO_FOLD, LabelledPredictions, Predictions, joined

# Names that files and libraries give a meaning to, and any other text (a file system knows no NUL).
LOADED = [
    "id",
    "fold",
    "label",
    "path",
    "status",
    "prediction",
    "features",
    "p:",
    "p:id",
    "logit:id",
    "",
    " ",
    "nan",
    "0",
]
AWKWARD = ["a,b", '"', "a\nb", "\r", "\r\n", "\ufeffid", "NULL", "가방", "\u1100\u1161", "-", "1e5", "#", "'", "\\N"]
texts = st.sampled_from(LOADED + AWKWARD) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
names = st.lists(texts, unique=True, max_size=5)
files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def predictions(draw: st.DrawFn, ids: st.SearchStrategy[list[str]] = names) -> Predictions:
    """Of any ids and classes, at least one class, with or without logits and features."""
    rows, classes = draw(ids), draw(st.lists(texts, unique=True, min_size=1, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (len(rows), len(classes))
    return Predictions(
        tuple(rows),
        tuple(classes),
        random.dirichlet(np.ones(shape[1]), shape[0]).astype(np.float32).reshape(shape),
        logits_NC=random.normal(size=shape).astype(np.float32) if draw(st.booleans()) else None,
        features_NE=random.normal(size=(shape[0], 3)).astype(np.float32) if draw(st.booleans()) else None,
    )


def labelled(one: Predictions, seed: int) -> LabelledPredictions:
    random = np.random.default_rng(seed)
    known = [*one.classes, "", "another"]
    groups = random.choice(["", "sender 1", "sender 2"], len(one)).tolist() if seed % 2 else ()
    return one.labelled(random.choice(known, len(one)).tolist(), random.integers(NO_FOLD, 5, len(one)), groups)


def shuffled(one: Predictions, seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    ids, classes = random.permutation(len(one.ids)), random.permutation(len(one.classes))
    return one.in_order([one.ids[i] for i in ids], [one.classes[i] for i in classes])


def assert_same(a: Predictions, b: Predictions) -> None:
    assert type(a) is type(b)
    assert (a.ids, a.classes) == (b.ids, b.classes)
    for name in ("probabilities_NC", "logits_NC", "features_NE"):
        mine, others = getattr(a, name), getattr(b, name)
        assert (mine is None) == (others is None), name
        if mine is not None:
            np.testing.assert_array_equal(mine, others)
    if isinstance(a, LabelledPredictions) and isinstance(b, LabelledPredictions):
        assert (a.labels, a.groups) == (b.labels, b.groups)
        np.testing.assert_array_equal(a.fold_N, b.fold_N)


# -- files


@files
@given(one=predictions(), seed=st.integers(0, 99), with_labels=st.booleans())
def test_whatever_ids_and_classes_are_called_they_come_back_from_parquet(
    tmp_path: Path, one: Predictions, seed: int, with_labels: bool
) -> None:
    one = labelled(one, seed) if with_labels else one
    one.write(tmp_path / "p.parquet", about={"views": ["plain"]})
    again = Predictions.read(tmp_path / "p.parquet")
    assert_same(again, one)
    assert again.probabilities_NC.dtype == np.float32  # as it was
    assert Predictions.read_about(tmp_path / "p.parquet") == {"views": ["plain"]}


@files
@given(one=predictions())
def test_whatever_ids_and_classes_are_called_they_come_back_from_csv(tmp_path: Path, one: Predictions) -> None:
    one.write_csv(tmp_path / "p.csv")
    again = Predictions.read_csv(tmp_path / "p.csv")
    assert (again.ids, again.classes) == (one.ids, one.classes)
    np.testing.assert_allclose(again.probabilities_NC, one.probabilities_NC, rtol=1e-7)


def test_a_file_can_hold_more_about_the_samples_beside_the_probabilities(tmp_path: Path) -> None:
    one = Predictions(("a", "b"), ("path", "id"), np.array([[0.25, 0.75], [1.0, 0.0]]))
    one.write(tmp_path / "p.parquet", {"path": pa.array(["/a.jpg", "/b.jpg"]), "label": pa.array(["path", ""])})
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["id", "path", "label", "p:path", "p:id"]
    assert table["path"].to_pylist() == ["/a.jpg", "/b.jpg"]
    again = Predictions.read(tmp_path / "p.parquet")
    assert isinstance(again, LabelledPredictions)
    assert again.labels == ("path", "") and again.fold_N.tolist() == [NO_FOLD, NO_FOLD]
    with pytest.raises(ValueError, match="'p:more': such names are for probabilities"):
        one.write(tmp_path / "p.parquet", {"p:more": pa.array([1, 2])})


def test_what_is_no_file_of_predictions_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    for read in (Predictions.read, Predictions.read_about):
        with pytest.raises(DataError, match=r"other\.parquet: not a Parquet file"):
            read(path)
    path.write_text("none")
    with pytest.raises(DataError, match=r"other\.parquet: not a Parquet file"):
        Predictions.read(path)
    pq.write_table(pa.table({"id": ["a"], "p:x": [1.0]}), path)
    for read in (Predictions.read, Predictions.read_about):
        with pytest.raises(DataError, match="not of this engine's predictions; make it again"):
            read(path)
    newer = pa.table({"id": ["a"], "p:x": [1.0]}).replace_schema_metadata(
        {b"engine.predictions": b'{"format": 99, "about": {}}'}
    )
    pq.write_table(newer, path)
    with pytest.raises(DataError, match="format 99"):
        Predictions.read(path)
    ours = {b"engine.predictions": b'{"format": 1, "about": {}}'}
    for odd in (
        {"id": ["a", "a"], "p:x": [1.0, 1.0]},
        {"id": ["a"], "p:x": [0.3]},
        {"id": ["a"], "p:x": ["much"]},
        {"id": ["a"], "p:x": [1.0], "features": [3]},
        {"id": ["a"], "p:x": [1.0], "label": ["x"], "fold": [None]},
    ):
        pq.write_table(pa.table(odd).replace_schema_metadata(ours), path)
        with pytest.raises(DataError, match=r"contradict themselves \(.*make the file again"):
            Predictions.read(path)


def test_probabilities_of_another_tool_may_have_any_name_for_the_id_and_any_digits(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("\ufeffImageId,b,a\r\n007,1,0\r\n\r\n7,0.25,0.75\r\n", encoding="utf-8")
    read = Predictions.read_csv(path)
    assert read.ids == ("007", "7") and read.classes == ("b", "a")
    np.testing.assert_array_equal(read.probabilities_NC, [[1, 0], [0.25, 0.75]])


def test_names_that_macos_has_written_are_those_of_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,cafe\u0301,b\nte\u0301.jpg,1,0\n", encoding="utf-8")
    read = Predictions.read_csv(path).in_order(("té.jpg",), ("b", "café"))
    assert (read.ids, read.classes, read.probabilities_NC.tolist()) == (("té.jpg",), ("b", "café"), [[0, 1]])
    path.write_text("id,a\nte\u0301.jpg,1\nté.jpg,1\n", encoding="utf-8")  # two files, told apart by this alone
    both = Predictions.read_csv(path)
    assert both.in_order(("té.jpg", "te\u0301.jpg"), ("a",)).ids == ("té.jpg", "te\u0301.jpg")
    for strange in (("té.jpg",), ("té.jpg", "té.jpg")):
        with pytest.raises(ValueError, match="different sample ids"):
            both.in_order(strange, ("a",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id\na\n", "then one column a class"),
        (b"", "then one column a class"),
        (b"id,a,b\n1,0.5\n", "expected a CSV file"),
        (b"id,a,b\n1,0.5,much\n", "much"),
        (b"id,a,b\n1,0.5,\n", "'1': not a probability distribution"),
        (b"id,a,b\n1,3,-2\n", "not logits"),
        (b"id,a,a\n1,0.5,0.5\n", "class named twice: 'a'"),
        (b"id,a\n1,1\n1,1\n", "sample id named twice: '1'"),
        ("id,가,나\n1,0.5,0.5\n".encode("cp949"), "UTF-8"),
    ],
)
def test_a_csv_file_that_makes_no_sense_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        Predictions.read_csv(path)
    assert str(path) in str(error.value)


def test_a_csv_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        Predictions.read_csv(tmp_path / "none.csv")


def test_a_frame_has_ids_for_rows_and_classes_for_columns() -> None:
    frame = Predictions(("a", "b"), ("id", "fold"), np.array([[0.25, 0.75], [1.0, 0.0]])).to_pandas()
    assert frame.loc["a", "fold"] == 0.75 and frame.index.name == "id"


# -- order


@given(predictions(), st.integers(0, 99), st.integers(0, 99), st.booleans())
def test_another_order_of_samples_and_classes_changes_nothing_and_comes_back(
    one: Predictions, seed: int, order: int, with_labels: bool
) -> None:
    one = labelled(one, seed) if with_labels else one
    other = shuffled(one, order)
    frames = [p.to_pandas() for p in (one, other)]
    for id_ in one.ids:
        for name in one.classes:
            assert frames[0].loc[id_, name] == frames[1].loc[id_, name]
    assert_same(other.in_order(one.ids, one.classes), one)


@given(predictions(), st.integers(0, 99))
def test_what_is_taken_keeps_everything_that_belongs_to_a_row(one: Predictions, seed: int) -> None:
    whole = labelled(one, seed)
    rows = np.random.default_rng(seed).permutation(len(one))[: len(one) // 2]
    taken = whole.take(rows)
    assert taken.ids == tuple(whole.ids[row] for row in rows)
    assert taken.labels == tuple(whole.labels[row] for row in rows)
    assert taken.groups == (tuple(whole.groups[row] for row in rows) if whole.groups else ())
    np.testing.assert_array_equal(taken.probabilities_NC, whole.probabilities_NC[rows])
    np.testing.assert_array_equal(taken.fold_N, whole.fold_N[rows])


@pytest.mark.parametrize(
    ("ids", "classes", "words"),
    [
        (["a", "c"], ["x", "y"], "different sample ids: one lacks 'c'; only one has 'b'"),
        (["a", "b"], ["x", "z"], "different classes: one lacks 'z'; only one has 'y'"),
        (["a"], ["x", "y"], "only one has 'b'"),
        (["a", "b", "b"], ["x", "y"], "a name is asked for twice"),
    ],
)
def test_other_names_than_these_cannot_be_put_in_order(ids: list[str], classes: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Predictions(("a", "b"), ("x", "y"), np.full((2, 2), 0.5)).in_order(ids, classes)


# -- labels


def test_a_label_is_a_column_where_it_is_known() -> None:
    one = Predictions(("a", "b", "c"), ("x", "y"), np.array([[0.2, 0.8], [0.5, 0.5], [1, 0]])).labelled(["y", "", "z"])
    assert one.labels_N.tolist() == [1, -1, -1] and one.fold_N.tolist() == [NO_FOLD] * 3
    assert one.known.ids == ("a",) and one.known.labels == ("y",)
    assert one.answers == ["y", "x", "x"]


@given(predictions(), st.integers(0, 99), st.integers(0, 4))
def test_parts_about_different_samples_become_one_whatever_order_their_classes_have(
    one: Predictions, seed: int, cut: int
) -> None:
    whole = labelled(one, seed)
    rows = np.arange(len(whole))
    first, second = whole.take(rows[:cut]), whole.take(rows[cut:])
    back = np.random.default_rng(seed).permutation(len(whole.classes))
    second = second.in_order(second.ids, [whole.classes[i] for i in back])
    assert_same(joined([first, second]), whole)


def test_parts_that_share_a_sample_or_answer_otherwise_are_not_joined() -> None:
    one = Predictions(("a",), ("x", "y"), np.array([[0.2, 0.8]])).labelled(["y"])
    with pytest.raises(ValueError, match="sample id named twice: 'a'"):
        joined([one, one])
    with pytest.raises(ValueError, match="different classes"):
        joined([one, Predictions(("b",), ("x", "z"), np.array([[0.2, 0.8]])).labelled(["z"])])
    with pytest.raises(ValueError, match="nothing to join"):
        joined([])


# -- what are no predictions


@pytest.mark.parametrize(
    ("ids", "classes", "values_NC", "words"),
    [
        (("a",), ("x", "y"), [[3.0, -1.0]], "'a': not a probability distribution .*not logits"),
        (("a", "b"), ("x", "y"), [[0.5, 0.5], [np.nan, 1.0]], "'b': not a probability distribution"),
        (("a",), ("x", "y"), [[1.5, -0.5]], "'a': not a probability distribution"),
        (("a", "a"), ("x",), [[1.0], [1.0]], "sample id named twice: 'a'"),
        (("a",), ("x", "x"), [[0.5, 0.5]], "class named twice: 'x'"),
        (("a",), ("x",), [[0.5, 0.5]], "shape"),
    ],
)
def test_what_are_no_probabilities_of_these_names_is_refused(
    ids: tuple[str, ...], classes: tuple[str, ...], values_NC: list[list[float]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Predictions(ids, classes, np.array(values_NC))


def test_logits_features_and_labels_are_of_the_same_rows() -> None:
    values_NC = np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"logits have shape \(2, 2\)"):
        Predictions(("a",), ("x", "y"), values_NC, logits_NC=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"features have shape \(2, 3\)"):
        Predictions(("a",), ("x", "y"), values_NC, features_NE=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="2 labels and 1 folds for 1 ids"):
        Predictions(("a",), ("x", "y"), values_NC).labelled(["x", "y"])
