"""Labels become classes and find their way back; groups and Latin names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.classes import groups_of
from engine.data.manifest import Manifest
from engine.data.names import ClassNames, latin_names, resolved, with_classes
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection

PAIR = ("718_박스터_2017_2024", "박스터_718_2017_2024")


def meta(tmp_path: Path, text: str = "target,class_name\n0,statement\n1,passport\n2,licence\n") -> str:
    path = tmp_path / "meta.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_table_names_the_labels_and_aliases_join_them(tmp_path: Path) -> None:
    section = DataSection(label_table=meta(tmp_path), aliases=(("identity", "1", "licence"),))
    names = ClassNames.of(section)
    labels = ("0", "1", "2", "3", "")
    assert [names.class_of(label) for label in labels] == ["statement", "identity", "identity", "3", ""]
    manifest = Manifest.build({"id": ["a", "b"], "path": ["a", "b"], "label": ["2", "0"]})
    assert with_classes(manifest, names).labels == ["identity", "statement"]
    assert names.found_as("statement") == ("0",)
    assert set(names.known_as("identity")) >= {"identity", "1", "2", "passport", "licence"}


def test_what_is_written_into_the_recipe_needs_no_table(tmp_path: Path) -> None:
    section = DataSection(label_table=meta(tmp_path), label_names=(("2", "permit"),))
    kept = resolved(section)
    Path(section.label_table).unlink()
    names = ClassNames.of(kept)
    assert kept.label_table == ""
    assert [names.class_of(label) for label in "012"] == ["statement", "passport", "permit"]  # the recipe's own counts


def test_names_are_the_same_in_either_unicode_form() -> None:
    decomposed = tuple(unicodedata.normalize("NFD", name) for name in PAIR)
    assert ClassNames.of(DataSection(aliases=(decomposed,))).class_of(PAIR[1]) == PAIR[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=3, unique=True), max_size=4))
def test_what_a_class_is_known_as_leads_back_to_it(groups: list[list[str]]) -> None:
    section = DataSection(aliases=tuple(map(tuple, groups)))
    try:
        names = ClassNames.of(section)
    except RecipeError:
        assert len({name for group in groups for name in group}) < sum(map(len, groups))
        return
    for name in "abcd":
        assert name in names.known_as(names.class_of(name))
        assert all(names.class_of(label) == names.class_of(name) for label in names.known_as(names.class_of(name)))


@pytest.mark.parametrize(
    ("rule", "shares"),
    [("split", (0.5, 1.0, 0.5, 1.0)), ("each", (1.0, 1.0, 1.0, 1.0)), ("first", (1.0, 1.0, 0.0, 1.0))],
)
def test_columns_of_one_class_share_its_probability(rule: str, shares: tuple[float, ...]) -> None:
    names = ClassNames.of(DataSection(aliases=(PAIR,), alias_columns=rule))  # type: ignore[arg-type]
    assert names.shares([PAIR[0], None, PAIR[0], "other"]) == shares


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"aliases": (("a", "b"), ("c", "b"))}, "'b' stands in two lists"),
        ({"label_table": "nowhere.csv"}, "nowhere.csv: cannot be read"),
        ({"label_names": (("1", ""),)}, "'1' has no class name"),
    ],
)
def test_names_that_contradict_each_other_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises((RecipeError, DataError), match=message):
        ClassNames.of(DataSection(**keys))  # type: ignore[arg-type]


def test_a_table_of_one_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two columns"):
        ClassNames.of(DataSection(label_table=meta(tmp_path, "target\n0\n")))


def test_groups_are_found_by_pattern() -> None:
    section = DataSection(class_groups=(("BMW", "BMW_*", "X5"), ("Kia", "K[35]*", "니로")))
    classes = ["BMW_3", "K5", "Polo", "X5", "니로"]
    assert groups_of(classes, section) == ["BMW", "Kia", "others", "BMW", "Kia"]
    assert groups_of(classes, DataSection()) == []


@pytest.mark.parametrize(
    ("groups", "message"),
    [((("A", "a*"), ("B", "ab")), "'ab' is in groups 'A' and 'B'"), ((("A", "z*"),), "no class is in group 'A'")],
)
def test_groups_that_do_not_fit_are_refused(groups: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        groups_of(["ab", "b"], DataSection(class_groups=groups))


def test_latin_names_are_plain_and_distinct() -> None:
    pairs = latin_names(["더_뉴_가람_4세대", "Größe", "가나", "가-나", "GaNa", "???", "!!!"])
    latin = [name for _, name in pairs]
    assert latin[:3] == ["Deo_Nyu_GaLam_4SeDae", "Grosse", "GaNa"]
    assert len({name.lower() for name in latin}) == len(latin)
    assert all(name.isascii() and name and not set(name) - set("_-.") - set(map(chr, range(48, 123))) for name in latin)


def test_a_label_with_two_names_in_its_table_is_refused(tmp_path: Path) -> None:
    table = meta(tmp_path, "label,name\n0,cat\n1,dog\n0,cat\n1,wolf\n")
    with pytest.raises(DataError, match="label '1' has two names: 'dog', 'wolf'"):
        ClassNames.of(DataSection(label_table=table))
