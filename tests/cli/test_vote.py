"""`engine vote` from the outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.main import main
from engine.predictions import Predictions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("id,cat,dog\n1,0.9,0.1\n2,0.6,0.4\n3,0.2,0.8\n4,0.3,0.7\n", encoding="utf-8")
    Path("b.csv").write_text("id,dog,cat\n4,0.9,0.1\n3,0.3,0.7\n2,0.7,0.3\n1,0.2,0.8\n", encoding="utf-8")
    Path("c.csv").write_text("id,label\n1,cat\n2,dog\n3,dog\n4,dog\n", encoding="utf-8")
    Path("truth.csv").write_text("id,label,who\n1,cat,x\n2,dog,x\n3,dog,y\n4,dog,z\n", encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["vote", *arguments])
    return result.exit_code, result.output


def test_files_of_labels_and_of_probabilities_vote_by_first_answers(here: Path) -> None:
    code, told = run("a.csv", "b.csv", "c.csv", "--vote", "hard", "--truth", "truth.csv", "--out", "out.csv")
    assert code == 0, told
    assert Predictions.read_csv(here / "out.csv").answers == ["cat", "dog", "dog", "dog"]
    assert "4 labelled samples" in told and "hard vote" in told and "4 samples answered by 3 files" in told


def test_weights_are_fitted_and_scored_by_samples_of_other_groups(here: Path) -> None:
    code, told = run("a.csv", "b.csv", "--weights", "fit", "--truth", "truth.csv", "--group", "who")
    assert code == 0, told
    assert "in sample" in told and "held out" in told and "log loss against the best file" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.csv", "b.csv"], "nothing to do: give --out"),
        (["a.csv", "b.csv", "--weights", "best"], "expected a number for each file, such as 2,1, or one of score"),
        (["a.csv", "b.csv", "--stack", "logistic", "--vote", "hard"], "leave --vote out"),
        (["a.csv", "b.csv", "--fit-on", "a.csv,b.csv"], "nothing is fitted"),
        (["a.csv", "b.csv", "--group", "who", "--out", "o.csv"], "add --truth"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(here: Path, arguments: list[str], told: str) -> None:
    code, said = run(*arguments)
    assert code == 2 and told in said.replace("\n", " ")


def test_what_does_not_match_is_named_and_common_joins_the_rest(here: Path) -> None:
    Path("d.csv").write_text("id,cat,dog\n1,1,0\n9,1,0\n", encoding="utf-8")
    code, told = run("a.csv", "d.csv", "--out", "out.csv")
    assert code == 1 and "d.csv lacks 3 samples of a.csv" in told and "only d.csv has 1 sample: '9'" in told
    code, told = run("a.csv", "d.csv", "--out", "out.csv", "--common")
    assert code == 0, told
    assert Predictions.read_csv(here / "out.csv").ids == ("1",)
