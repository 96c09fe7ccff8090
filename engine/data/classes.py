"""Class names and their indices. Sorted names, so that the same classes always have the same indices, whatever the
order or number of the files; from a checkpoint on, the names travel with the weights and are never derived again.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection
from engine.text import count, nfc, similar, some

OTHERS = "others"  # the group of classes that are in none
_SHOWN = 5  # labels named in an error


def class_names(manifest: Manifest) -> list[str]:
    """The distinct labels, sorted by code point. Raises DataError for fewer than two classes."""
    names = sorted(set(manifest.labels) - {""})
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no labels"
        raise DataError(
            f"{found} among {len(manifest)} samples, at least two classes are needed. Is data.train the folder whose "
            "sub-folders are the classes, or data.label_column the column with the labels?"
        )
    return names


def label_indices(manifest: Manifest, names: Sequence[str]) -> NDArray[np.int64]:
    """For each sample, the position of its label in `names`.

    Raises DataError naming the samples without a label, or the labels that are not in `names` and the nearest that are.
    """
    matched = pc.index_in(manifest.table["label"], value_set=pa.array(names, pa.string()))
    index_N = pc.fill_null(matched, -1).to_numpy().astype(np.int64)
    bad_rows = np.flatnonzero(index_N < 0)
    if not len(bad_rows):
        return index_N
    bad = manifest.take(bad_rows)
    if "" in bad.labels:
        ids = [id_ for id_, label in zip(bad.ids, bad.labels, strict=True) if not label]
        raise DataError(
            f"{len(ids)} of {len(manifest)} samples have no label, such as {some(ids)}. Label them or leave them out"
        )
    unknown = sorted(set(bad.labels))
    shown = []
    for label in unknown[:_SHOWN]:
        near = "".join(f", nearest {name!r}" for name in similar(label, names, most=1))
        shown.append(f"{label!r} ({count(bad.labels.count(label), 'sample')}{near})")
    raise DataError(
        f"{len(unknown)} labels are not among the {len(names)} classes known: {'; '.join(shown)}. "
        "Correct the labels, or leave those samples out"
    )


def groups_of(classes: Sequence[str], section: DataSection) -> list[str]:
    """For each class the name of its group in `data.class_groups`; OTHERS for none, and [] when there are no groups.

    Raises RecipeError for a class in two groups, or a group without classes.
    """
    if not section.class_groups:
        return []
    group_of: dict[str, str] = {}
    for group, *patterns in section.class_groups:
        members = [c for c in classes if any(fnmatch.fnmatchcase(c, nfc(pattern)) for pattern in patterns)]
        if not members:
            raise RecipeError(f"data.class_groups: no class is in group {group!r}; its names are {', '.join(patterns)}")
        for name in members:
            if group_of.setdefault(name, group) != group:
                raise RecipeError(f"data.class_groups: class {name!r} is in groups {group_of[name]!r} and {group!r}")
    return [group_of.get(name, OTHERS) for name in classes]
