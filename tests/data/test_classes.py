"""Class names and label indices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.classes import class_names, label_indices
from engine.data.manifest import Manifest
from engine.errors import DataError


def labelled(labels: list[str]) -> Manifest:
    ids = [f"{n}.jpg" for n in range(len(labels))]
    return Manifest.build({"id": ids, "path": ids, "label": labels})


@given(st.lists(st.sampled_from(["b", "a", "아반떼", "K5", "Z"]), min_size=2).filter(lambda names: len(set(names)) > 1))
def test_an_index_leads_back_to_the_label_and_names_are_sorted(labels: list[str]) -> None:
    manifest = labelled(labels)
    names = class_names(manifest)
    assert names == sorted(set(labels))
    assert [names[index] for index in label_indices(manifest, names)] == labels


def test_unlabelled_samples_are_no_class() -> None:
    assert class_names(labelled(["b", "", "a"])) == ["a", "b"]


@pytest.mark.parametrize(("labels", "found"), [(["train", "train"], "one class, 'train'"), (["", ""], "no labels")])
def test_fewer_than_two_classes_are_refused(labels: list[str], found: str) -> None:
    with pytest.raises(DataError, match=found):
        class_names(labelled(labels))


def test_an_unknown_label_is_named_with_its_count_and_the_nearest_class() -> None:
    with pytest.raises(DataError, match=r"'t-shrt' \(2 samples, nearest 't-shirt'\)"):
        label_indices(labelled(["t-shrt", "hat", "t-shrt"]), ["hat", "t-shirt"])


def test_a_sample_without_label_is_named() -> None:
    with pytest.raises(DataError, match=r"1 of 2 samples have no label, such as '1\.jpg'"):
        label_indices(labelled(["hat", ""]), ["hat", "t-shirt"])
