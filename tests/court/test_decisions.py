"""What people decide is kept line by line, and can be taken back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.court import decisions
from engine.court.decisions import Decision
from engine.errors import DataError

WHEN = "2026-11-26T04:00:00Z"


def made(id_: str, kind: str, new: str = "", who: str = "minji") -> Decision:
    return Decision(id_, "가방", kind, new, who, WHEN)


def test_a_later_line_counts_and_undo_gives_the_one_before_it_back(tmp_path: Path) -> None:
    path = tmp_path / "court.csv"
    lines = [made("a", "relabel", "모자"), made("b", "drop"), made("a", "keep", who="jun"), made("c", "unsure")]
    for one in lines:
        decisions.add(path, [one])
    assert decisions.read(path) == lines
    found = decisions.standing(decisions.read(path))
    assert {id_: (one.kind, one.who) for id_, one in found.items()} == {
        "a": ("keep", "jun"),
        "b": ("drop", "minji"),
        "c": ("unsure", "minji"),
    }
    decisions.add(path, [made("a", "undo"), made("b", "undo"), made("b", "undo")])
    found = decisions.standing(decisions.read(path))
    assert set(found) == {"a", "c"} and found["a"].new == "모자"


def test_ids_and_labels_of_any_letters_come_back(tmp_path: Path) -> None:
    path = tmp_path / "court.csv"
    one = Decision('사진/a, "b".jpg', "=1+1", "relabel", "a;b,'c'", "이 민지", WHEN)
    decisions.add(path, [one])
    assert decisions.read(path) == [one]


def test_a_line_that_a_crash_cut_short_is_no_decision_and_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "court.csv"
    decisions.add(path, [made("a", "keep"), made("b", "drop")])
    whole = path.read_text("utf-8")
    for cut in range(len(whole) - len("b,가방,drop,,minji,2026-11-26T04:00:00Z\n") + 1, len(whole) - len(WHEN)):
        path.write_text(whole[:cut], "utf-8")
        decisions.add(path, [made("c", "keep")])
        assert [one.id for one in decisions.read(path)] == ["a", "c"]


def test_a_crash_at_any_byte_harms_no_line_before_or_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # a hundred of them take seconds
    path = tmp_path / "court.csv"
    first, last = made("a", "keep"), Decision('나, "b".jpg', "가방", "relabel", '큰 "가방"', "이, 민지", WHEN)
    decisions.add(path, [first])
    before = len(path.read_bytes())
    decisions.add(path, [last])
    whole = path.read_bytes()
    for cut in range(before + 1, len(whole)):
        path.write_bytes(whole[:cut])
        complete = cut > len(whole) - len(WHEN) - 1
        assert [one.id for one in decisions.read(path)][:1] == ["a"]
        decisions.add(path, [made("c", "keep"), last])
        ids = [one.id for one in decisions.read(path)]
        assert ids == ["a", *([last.id] if complete else []), "c", last.id], cut
    for cut in range(before):
        path.write_bytes(whole[:cut])
        decisions.read(path)
        decisions.add(path, [made("c", "keep")])
        assert [one.id for one in decisions.read(path)][-1] == "c"


def test_a_file_that_another_program_wrote_again_is_read(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    lines = ["id,given,decision,new,who,when", f'"a, b",가방,keep,,minji,{WHEN}', f"c,가방,drop,,jun,{WHEN}"]
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert [one.id for one in decisions.read(path)] == ["a, b", "c"]
    decisions.add(path, [made("d", "keep")])
    assert [one.id for one in decisions.read(path)] == ["a, b", "c", "d"]


def test_many_decide_at_once_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "court.csv"

    def decide(who: int) -> None:
        for number in range(20):
            decisions.add(path, [made(f"{who}/{number}", "keep", who=str(who))])

    threads = [threading.Thread(target=decide, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decisions.standing(decisions.read(path))) == 80


@pytest.mark.parametrize(
    ("kind", "new"), [("relabel", ""), ("keep", "모자"), ("relabel", "가방"), ("guilty", ""), ("relabel", "a\nb")]
)
def test_what_is_no_decision_is_refused(kind: str, new: str) -> None:
    with pytest.raises(ValueError, match=r"decision|label|already|breaks"):
        made("a", kind, new)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "court.csv").write_text("id,label\na,b\n", "utf-8")
    with pytest.raises(DataError, match=r"court\.csv.*given"):
        decisions.read(tmp_path / "court.csv")


def test_the_same_decisions_are_taken_in_once() -> None:
    have = [made("a", "keep")]
    assert decisions.merged(have, [made("a", "keep"), made("b", "drop"), made("b", "drop")]) == [made("b", "drop")]
