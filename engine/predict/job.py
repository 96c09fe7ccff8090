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
from engine.text import count, nearest, nfc, some


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be predicted, by whom, and what the submission will look like."""

    models: Models
    manifest: Manifest
    labels: tuple[str, ...]  # of the manifest's images; "" where unknown
    sheet: Sheet
    notices: tuple[str, ...] = ()  # how tables were understood, and what cannot be scored, in words


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
    positive = _positive_class(models, names) if section.sample_submission else ""
    sheet = Sheet.asked(section, models.recipe.predict, manifest.ids, models.classes, positive)
    notices = [*sheet.notices]
    labels = manifest.labels if wishes.truth is None else _labels(wishes.truth, section, manifest.ids, notices)
    labels = [names.class_of(label) for label in labels]
    notices += _unscored(wishes.truth or section.test, labels, models.classes)
    return Job(models, manifest, tuple(labels), sheet, tuple(notices))


def _positive_class(models: Models, names: ClassNames) -> str:
    """predict.positive_class as the models call it. Raises RecipeError when they do not know it."""
    wanted = models.recipe.predict.positive_class
    found = names.class_of(nfc(wanted))
    if wanted and found not in models.classes:
        near = ", ".join(map(repr, nearest(found, models.classes)))
        raise RecipeError(f"predict.positive_class = {wanted!r}: is no class of the models; nearest: {near}")
    return found


def _unscored(source: str, labels: Sequence[str], classes: Sequence[str]) -> list[str]:
    """What labels cannot be scored by, in words: those that are no class of the models."""
    strange = sorted(set(labels) - {"", *classes})
    scored = sum(label in set(classes) for label in labels)
    if scored:
        told = (
            f"{source}: scored on {count(scored, 'image')}; {len(labels) - labels.count('') - scored} more have labels"
        )
        return [f"{told} that are no class of the models: {some(strange, show=str)}"] if strange else []
    told = f"{source}: not scored: none of its labels is a class of the models: "
    return [f"{told}{some(strange, show=str)}; they know {some(classes, show=str)}"] if strange else []


def _labels(truth: str, section: DataSection, ids: Sequence[str], notices: list[str]) -> list[str]:
    """For each id its label in the table `truth`, "" where it has none."""
    if not Path(truth).is_file():
        raise DataError(f"{truth}: no such table of labels")
    by_id = list_labels(truth, section)
    if not by_id:
        raise DataError(f"{truth}: no rows below the header")
    found = find_ids(list(by_id), ids, truth)
    label_of = {
        sample_id: label for sample_id, label in zip(found, by_id.values(), strict=True) if sample_id is not None
    }
    if not label_of:
        raise DataError(f"{truth}: none of its ids is an image's: {some(by_id)}; images are like {some(ids, 3)}")
    if strange := [name for name, sample_id in zip(by_id, found, strict=True) if sample_id is None]:
        notices.append(f"{truth}: {len(strange)} of its {len(by_id)} ids are no image's: {some(strange, 3)}")
    if not any(label_of.values()):
        notices.append(f"{truth}: not scored: the labels of all its images are empty")
    elif unlabelled := [sample_id for sample_id in ids if not label_of.get(sample_id)]:
        notices.append(f"{truth}: has no label for {len(unlabelled)} of {count(ids, 'image')}: {some(unlabelled, 3)}")
    return [label_of.get(sample_id, "") for sample_id in ids]
