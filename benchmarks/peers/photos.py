"""Photos that nobody trains on, with their labels and groups: what every side of a comparison is scored by."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from engine.data.ids import find_ids
from engine.data.ingest import ingest
from engine.data.names import ClassNames
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.sections import DataSection


@dataclasses.dataclass(frozen=True)
class Photos:
    """By id (the file's name, behind its folder's where names are not unique): the file, the label, and the group of
    photos that it belongs to."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def labelled(self, answers: Predictions) -> LabelledPredictions:
        """Answers about all of these photos, in their order, with what is true."""
        return answers.in_order(self.ids, sorted(answers.classes)).labelled(self.labels, None, self.groups)


def labelled_photos(table: str, truth: str, section: DataSection, classes: Collection[str]) -> Photos:
    """The photos of `table` with the labels of the table `truth` and, where `section` names their column, groups.
    Photos whose label is none of `classes` are left out."""
    plain = section.model_copy(update={"train": "", "drop_classes": (), "group_column": ""})
    manifest = ingest(table, plain)
    known = ingest(truth, section.model_copy(update={"train": "", "drop_classes": ()}))
    names = ClassNames.of(section)
    row_of = {found: row for row, found in enumerate(find_ids(known.ids, manifest.ids, truth)) if found is not None}
    kept = []
    for id_, path in zip(manifest.ids, manifest.paths, strict=True):
        label = names.class_of(known.labels[row_of[id_]]) if id_ in row_of else ""
        if label in classes:
            kept.append((path, label, known.groups[row_of[id_]]))
    paths, labels, groups = (tuple(column) for column in zip(*kept, strict=True))
    ids = [Path(path).name for path in paths]
    if len(set(ids)) < len(ids):
        ids = ["__".join(Path(path).parts[-2:]) for path in paths]
    return Photos(tuple(ids), paths, labels, groups)
