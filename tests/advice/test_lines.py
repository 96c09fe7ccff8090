"""Whatever a name holds, it is read back as it was, and a comment stays one."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from engine.advice.lines import WIDTH, Lines, toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.one_of(TEXT, st.integers(-(2**53), 2**53), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))


@given(st.one_of(VALUES, st.lists(TEXT), st.fixed_dictionaries({"kind": TEXT, "p": VALUES})))
def test_a_value_is_read_back(value: object) -> None:
    assert tomllib.loads(f"key = {toml(value)}") == {"key": value}


@given(TEXT, TEXT)
def test_a_comment_stays_one(value: str, why: str) -> None:
    lines = Lines()
    lines.say(why)
    lines.key("key", value, why)
    lines.key("other", value, why, off=True)
    assert tomllib.loads(str(lines)) == {"key": value}


def test_a_long_comment_stands_above_its_key() -> None:
    lines = Lines()
    lines.section("data")
    lines.key("key", 1, "why " * 60)
    above = str(lines).splitlines()
    assert above[-1] == "key = 1" and all(line.startswith("# why") and len(line) <= WIDTH for line in above[2:-1])
    assert len(above) == 6


def test_a_list_in_a_comment_stays_set_in() -> None:
    lines = Lines()
    lines.say("  " + "word " * 40)
    first, *rest = str(lines).splitlines()
    assert first.startswith("#   word") and all(line.startswith("#     word") for line in rest) and rest
