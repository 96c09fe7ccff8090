"""Labels that may mean something else than a class are trained as classes, and told."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.data.leave_out import check_labels
from engine.data.sources.doubtful import doubts
from engine.data.sources.listing import list_samples
from engine.data.tables import RowNames
from engine.recipe.sections import DataSection


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["True", "FALSE", "TRUE", "False"], 'data.aliases = [["FALSE", "False"], ["TRUE", "True"]]'),
        (["Cat", "cat", "dog"], "1 class spelt in several ways, each trained as a class of its own. If they are"),
        (["1", "1.0", "one"], 'data.aliases = [["1", "1.0"]]'),
        (["red  fox", "red fox"], 'data.aliases = [["red  fox", "red fox"]]'),
        (["cat", "dog", "cat|dog"], "1 label may name several classes each, such as 'cat|dog'"),
        (["cat", "dog", "dog; cat"], "may name several classes each, such as 'dog; cat'"),
        (["cat", "dog", "cat dog"], "may name several classes each, such as 'cat dog'"),
        (["['cat']", "['cat', 'dog']"], "2 labels may name several classes each"),
        (["0.5", "1.25", "3"], "labels are numbers with fractions, such as '0.5', '1.25'"),
        (["0,5", "1,25", "3"], "labels are numbers with fractions"),
    ],
)
def test_what_may_be_meant_otherwise_is_told(labels: list[str], says: str) -> None:
    assert [says in words for words in doubts(labels)] == [True]


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"],
        ["0", "1"],
        ["1.0", "2.0"],
        ["red fox", "grey fox", "wolf"],
        ["a/b", "c/d"],
        ["AC/DC", "Earth, Wind & Fire"],
        ["v1.5", "v2.5"],
        ["\uc0ac\uacfc", "\ubc30"],
        ["[other]", "cat"],
    ],
)
def test_a_label_that_is_one_is_not_doubted(labels: list[str]) -> None:
    assert doubts(labels) == []


def test_spellings_that_the_recipe_joins_are_told_no_more() -> None:
    def told(**keys: object) -> str:
        names = RowNames("", [1, 2, 3])
        return "".join(check_labels([0, 1, 2], ["Cat", "cat", "dog"], DataSection(**keys), "t.csv", names))  # type: ignore[arg-type]

    assert "t.csv: 1 class spelt in several ways" in told()
    assert told(aliases=[["Cat", "cat"]]) == ""


def test_a_folder_is_looked_at_the_same_way(tmp_path: Path) -> None:
    for name in ("Cat", "cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"not looked at yet")
    assert "spelt in several ways" in list_samples(str(tmp_path), DataSection(train=str(tmp_path))).notices[-1]
