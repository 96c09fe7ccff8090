"""What is asked: which models, about which images, and in which form the answer is wanted. All that can be refused is
refused here, before the first image is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from engine.data.ids import find_ids
from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.names import ClassNames
from engine.data.sources.table import list_labels
from engine.errors import DataError, RecipeError
from engine.predict.models import Models, Wishes, load_models
from engine.predict.submission import Sheet
from engine.recipe.sections import DataSection
from engine.text import some


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be predicted, by whom, and what the submission will look like."""

    models: Models
    manifest: Manifest
    labels: tuple[str, ...]  # of the manifest's images; "" where unknown
    sheet: Sheet


def prepare(folder: Path, wishes: Wishes, progress: Progress | None = None) -> Job:
    """Read what is needed and check that it fits together; `progress(done, total)` counts files indexed.

    `folder` is a run's, or one fold's own. Raises CheckpointError, RecipeError or DataError, naming the remedy.
    """
    models = load_models(folder, wishes)
    section = models.recipe.data
    if not section.test:
        raise RecipeError("no images to predict: give --data FOLDER_OR_TABLE, or set data.test in the recipe")
    # Not as what was trained on, even if it was: all of it is answered.
    manifest = ingest(section.test, section.model_copy(update={"train": ""}), progress)
    names = ClassNames.of(section)
    if section.sample_submission:
        sheet = Sheet.like(Path(section.sample_submission), manifest.ids, models.classes, names)
    else:
        sheet = Sheet.plain(manifest.ids, models.classes, names)
    labels = manifest.labels if wishes.truth is None else _labels(wishes.truth, section, manifest.ids)
    return Job(models, manifest, tuple(map(names.class_of, labels)), sheet)


def _labels(truth: str, section: DataSection, ids: Sequence[str]) -> list[str]:
    """For each id its label in the table `truth`, "" where it has none."""
    if not Path(truth).is_file():
        raise DataError(f"{truth}: no such table of labels")
    by_id = list_labels(truth, section)
    found = find_ids(list(by_id), ids)
    label_of = {
        sample_id: label for sample_id, label in zip(found, by_id.values(), strict=True) if sample_id is not None
    }
    if not label_of:
        raise DataError(f"{truth}: none of its ids is an image's: {some(by_id)}; images are like {some(ids, 3)}")
    return [label_of.get(sample_id, "") for sample_id in ids]
