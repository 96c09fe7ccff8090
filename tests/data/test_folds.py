"""Folds: stratified, grouped, fixed; the same whatever the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.folds import Divided, Folds, divide, held_out, trained_on
from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection, FoldsSection


def samples(labels: list[str], groups: list[str] | None = None, folds: list[int] | None = None) -> Manifest:
    ids = [f"{n:04}.jpg" for n in range(len(labels))]
    columns = {"id": ids, "path": ids, "label": labels}
    if groups is not None:
        columns["group"] = groups
    return Manifest.build(columns | ({} if folds is None else {"fold": folds}))


def assign_folds(manifest: Manifest, folds: FoldsSection, seed: int) -> Folds:
    """The folds of all samples, of which none may be too rare."""
    return divide(manifest, DataSection(folds=folds), seed).fold_N


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(6, 25), min_size=2, max_size=5), st.integers(2, 6), st.integers(0, 2**31 - 1), st.randoms())
def test_every_fold_holds_its_share_of_every_class_whatever_the_row_order(
    counts: list[int], folds: int, seed: int, random: object
) -> None:
    labels = [f"class {c}" for c, count in enumerate(counts) for _ in range(count)]
    manifest = samples(labels)
    fold_N = assign_folds(manifest, FoldsSection(count=folds), seed)
    assert set(fold_N.tolist()) == set(range(folds))
    for name, count in zip(sorted(set(labels)), counts, strict=True):
        share_F = np.bincount(fold_N[np.array(labels) == name], minlength=folds)
        assert share_F.min() >= count // folds - 1
        assert share_F.max() <= -(-count // folds) + 1
    rows = np.arange(len(labels))
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert assign_folds(manifest.take(rows), FoldsSection(count=folds), seed).tolist() == fold_N[rows].tolist()


def test_the_seed_of_the_section_comes_before_that_of_the_recipe() -> None:
    manifest = samples(["a", "b"] * 30)
    drawn = assign_folds(manifest, FoldsSection(count=3), 7)
    assert drawn.tolist() == assign_folds(manifest, FoldsSection(count=3, seed=7), 1).tolist()
    assert drawn.tolist() != assign_folds(manifest, FoldsSection(count=3), 1).tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(0, 1000), st.randoms())
def test_a_group_is_never_split_whatever_the_row_order(folds: int, seed: int, random: object) -> None:
    # 3 photos of every car; the last 12 samples are in no group.
    labels = [f"class {n % 3}" for n in range(24) for _ in range(3)] + ["class 0", "class 1", "class 2"] * 4
    groups = [f"car {n}" for n in range(24) for _ in range(3)] + [""] * 12
    manifest = samples(labels, groups)
    fold_N = assign_folds(manifest, FoldsSection(count=folds), seed)
    assert set(fold_N.tolist()) == set(range(folds))
    for group in set(groups) - {""}:
        assert len(set(fold_N[np.array(groups) == group].tolist())) == 1
    assert len(set(fold_N[np.array(groups) == ""].tolist())) > 1  # samples without a group do not stick together
    rows = np.arange(len(labels))
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert assign_folds(manifest.take(rows), FoldsSection(count=folds), seed).tolist() == fold_N[rows].tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(10, 30), min_size=2, max_size=4), st.integers(2, 5), st.integers(0, 99), st.randoms())
def test_a_few_pairs_kept_together_do_not_unbalance_the_folds(
    counts: list[int], folds: int, seed: int, random: object
) -> None:
    labels = [f"class {c}" for c, count in enumerate(counts) for _ in range(count)]
    groups = [f"pair {n // 2}" if n % 10 < 2 else "" for n in range(len(labels))]  # a fifth of the samples
    fold_N = assign_folds(samples(labels, groups), FoldsSection(count=folds), seed)
    for name in set(labels):
        share_F = np.bincount(fold_N[np.array(labels) == name], minlength=folds)
        assert share_F.max() - share_F.min() <= 2
    sizes_F = np.bincount(fold_N, minlength=folds)
    assert sizes_F.max() - sizes_F.min() <= len(counts) + 1
    for group in set(groups) - {""}:
        assert len(set(fold_N[np.array(groups) == group].tolist())) == 1


def test_one_fold_holds_nothing_out() -> None:
    manifest = samples(["a", "b", "b"])
    fold_N = assign_folds(manifest, FoldsSection(count=1), 0)
    assert held_out(manifest, fold_N, 0).tolist() == []
    assert trained_on(manifest, fold_N, 0, DataSection()).tolist() == [0, 1, 2]


def test_a_hold_out_of_the_users_needs_one_fold_alone() -> None:
    manifest = samples(["a", "b", "a", "b", "a", "b"], folds=[0, 0, -1, -1, -1, -1])
    fold_N = assign_folds(manifest, FoldsSection(run=(0,)), 0)
    assert held_out(manifest, fold_N, 0).tolist() == [0, 1]
    assert trained_on(manifest, fold_N, 0, DataSection()).tolist() == [2, 3, 4, 5]


def test_a_hold_out_of_the_users_is_the_only_fold_where_the_recipe_names_none() -> None:
    manifest = samples(["a", "b", "a", "b", "a", "b"], folds=[0, 0, -1, -1, -1, -1])
    divided = divide(manifest, DataSection(), 0)
    assert divided.run == (0,) and divided.fold_N.tolist() == [0, 0, -1, -1, -1, -1]
    assert "fold 0, the only one" in divided.notices[0]
    with pytest.raises(RecipeError, match=r"has the folds 0\. Set data\.folds\.run to \[0\]"):
        divide(manifest, DataSection(folds=FoldsSection(run=(0, 1))), 0)


def test_more_folds_than_samples_of_a_class_are_refused_with_the_largest_count_allowed() -> None:
    with pytest.raises(
        RecipeError, match=r"data\.folds\.count: 5 .* 1 class has fewer samples: 'rare' \(3\)\. .* set it to 3"
    ):
        assign_folds(samples(["common"] * 20 + ["rare"] * 3), FoldsSection(count=5), 0)


def test_a_class_with_one_sample_cannot_be_split_at_all() -> None:
    with pytest.raises(RecipeError, match=r"'rare' \(1\)\. .* or add images$"):
        assign_folds(samples(["common"] * 20 + ["rare"]), FoldsSection(count=2), 0)


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"only 2 groups\. Set it to 2 at most"):
        assign_folds(samples(["a", "b"] * 8, ["left"] * 8 + ["right"] * 8), FoldsSection(count=4), 0)


def test_a_class_that_is_one_group_is_refused_because_one_fold_could_not_learn_it() -> None:
    with pytest.raises(
        DataError, match=r"1 class would lie in one fold as a whole .*: 'b' \(4\); the samples are one group"
    ):
        assign_folds(samples(["a"] * 12 + ["b"] * 4, [""] * 12 + ["one car"] * 4), FoldsSection(count=3), 0)


def test_the_users_own_folds_are_taken_as_they_are() -> None:
    folds = [0, 1, 0, 1, -1, 1]
    manifest = samples(["a", "a", "b", "b", "a", "b"], folds=folds)
    assert assign_folds(manifest, FoldsSection(count=2), 0).tolist() == folds


@pytest.mark.parametrize(
    ("folds", "remedy"),
    [
        ([0, 1, 2, 0, 1, 2], r"has the folds 0, 1, 2\. Set data\.folds\.count to 3"),
        ([1, 2, 1, 2, 1, 2], "Number them from 0"),
        ([1, -1, 1, -1, 1, -1], "Number them from 0"),
    ],
)
def test_own_folds_that_are_not_those_of_the_recipe_are_refused(folds: list[int], remedy: str) -> None:
    with pytest.raises(RecipeError, match=remedy):
        assign_folds(samples(["a", "a", "b", "b", "a", "b"], folds=folds), FoldsSection(count=2), 0)


RARE = ["a"] * 12 + ["b"] * 12 + ["p"] + ["q"] * 2 + ["r"] * 3


def divided(manifest: Manifest, count: int = 4, **keys: object) -> Divided:
    return divide(manifest, DataSection(folds=FoldsSection(count=count), **keys), 0)  # type: ignore[arg-type]


def test_all_classes_that_are_too_rare_are_named_at_once_with_the_keys() -> None:
    with pytest.raises(RecipeError) as raised:
        divided(samples(RARE))
    text = str(raised.value)
    assert "4 folds are asked for, but 3 classes have fewer samples: 'p' (1), 'q' (2), 'r' (3)." in text
    assert 'data.rare_classes = "drop"' in text and 'data.rare_classes = "train"' in text and "data.aliases" in text


def test_rare_classes_are_dropped() -> None:
    result = divided(samples(RARE), rare_classes="drop")
    assert set(result.manifest.labels) == {"a", "b"} and len(result.fold_N) == 24
    assert result.notices == ("left out, too rare to be divided (data.rare_classes): 'p' (1), 'q' (2), 'r' (3)",)
    same = divided(samples(["a"] * 12 + ["b"] * 12))
    assert result.fold_N.tolist() == same.fold_N.tolist() and same.notices == ()


def test_rare_classes_are_trained_on_in_every_fold() -> None:
    manifest = samples(RARE)
    result = divided(manifest, rare_classes="train")
    assert result.manifest is manifest and result.fold_N[24:].tolist() == [-1] * 6
    assert result.fold_N[:24].tolist() == divided(samples(["a"] * 12 + ["b"] * 12)).fold_N.tolist()
    for fold in range(4):
        assert {24, 25, 26, 27, 28, 29} <= set(trained_on(manifest, result.fold_N, fold, DataSection()).tolist())
    assert "trained on in every fold and validated in none: 'p' (1), 'q' (2), 'r' (3)" in result.notices


@pytest.mark.parametrize("mode", ["drop", "train"])
def test_a_class_that_is_one_group_is_rare_too(mode: str) -> None:
    manifest = samples(["a"] * 12 + ["b"] * 12 + ["c"] * 6 + ["p"], [""] * 24 + ["one car"] * 6 + [""])
    with pytest.raises(RecipeError, match=r"1 class has fewer samples: 'p' \(1\)\. 1 class would lie .*: 'c' \(6\);"):
        divided(manifest)
    result = divided(manifest, rare_classes=mode)
    assert len(result.manifest) == (24 if mode == "drop" else 31)
    assert result.fold_N[24:].tolist() == ([] if mode == "drop" else [-1] * 7)


def test_what_shares_a_group_with_a_rare_class_is_never_on_the_other_side() -> None:
    labels = ["a"] * 16 + ["b"] * 16 + ["p"]
    groups = [f"car {n // 2}" for n in range(32)] + ["car 3"]
    result = divided(samples(labels, groups), rare_classes="train")
    assert result.fold_N[[6, 7, 32]].tolist() == [-1] * 3 and (result.fold_N == -1).sum() == 3
    assert "with 2 images of other classes in their groups: 'p' (1)" in result.notices[0]


def test_a_class_that_the_users_folds_hold_in_one_is_treated_alike() -> None:
    manifest = samples(["a", "a", "b", "b", "c", "c"], folds=[0, 1, 0, 1, 1, 1])
    with pytest.raises(DataError, match=r"1 class would lie in one fold as a whole .*: 'c' \(2\)"):
        divided(manifest, count=2)
    assert divided(manifest, count=2, rare_classes="train").fold_N.tolist() == [0, 1, 0, 1, -1, -1]
    assert divided(manifest, count=2, rare_classes="drop").fold_N.tolist() == [0, 1, 0, 1]


def test_dropping_may_not_leave_a_single_class() -> None:
    with pytest.raises(DataError, match=r'data\.rare_classes = "drop" leaves fewer than two classes'):
        divided(samples(["a"] * 12 + ["p"]), rare_classes="drop")


def test_classes_that_are_not_rare_are_divided_the_same_whatever_the_key_says() -> None:
    manifest = samples(["a", "b", "c"] * 8)
    folds = {mode: divided(manifest, rare_classes=mode).fold_N.tolist() for mode in ("error", "drop", "train")}
    assert folds["error"] == folds["drop"] == folds["train"]
