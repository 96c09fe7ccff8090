"""What is asked: which models, about which images, and in which form the answer is wanted. All that can be refused is
refused here, before the first image is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from engine.data.ids import find_ids
from engine.data.names import ClassNames
from engine.data.roll import Roll
from engine.data.sources.pieces import walk_sources
from engine.data.sources.table import list_labels
from engine.errors import DataError, RecipeError
from engine.predict.begun import ROLL, begin
from engine.predict.models import Models, Wishes, load_models
from engine.predict.parts import Parts
from engine.predict.submission import Sheet
from engine.ranks import Ranks
from engine.recipe.sections import DataSection
from engine.store.run_folder import PredictionsFolder
from engine.text import count, nearest, nfc, some

Listed = Callable[[int], None]

_CELLS = 1 << 23  # probabilities in a part, with those of each model
_LEAST, _MOST = 256, 16_384  # rows


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be predicted, by whom, where the answers are collected, and what the submission will look like."""

    models: Models
    roll: Roll  # the images; labels are classes
    parts: Parts
    sheet: Sheet
    notices: tuple[str, ...] = ()  # how sources were understood, and what cannot be scored, in words
    _own: TemporaryDirectory[str] | None = None  # where no other place was given: goes with the job

    @property
    def part(self) -> int:
        """Rows of a part at most: `predict.part`, or as many as take some ten megabytes."""
        if asked := self.models.recipe.predict.part:
            return asked
        width = len(self.models.classes) * (2 + len(self.models.members))
        return max(_LEAST, min(_MOST, _CELLS // width))

    @property
    def labelled(self) -> bool:
        """Whether any of the images has a label."""
        return any(self.roll.labels)

    @property
    def scored(self) -> bool:
        """Whether any of them has one that the models know."""
        return not set(self.roll.labels).isdisjoint(self.models.classes)


def prepare(
    folders: Path | Sequence[Path],
    wishes: Wishes,
    progress: Listed | None = None,
    place: Path | None = None,
    ranks: Ranks | None = None,
    overwrite: bool = False,
) -> Job:
    """Read what is needed and check that it fits together; `progress(count)` counts images as they are listed.

    `folders` are as for `load_models`. Answers are collected in `place`, where an earlier process may have begun
    with the same; None is a temporary folder. With `overwrite` what that one left is removed. Of several `ranks` each
    calls this: the leading one lists. Raises CheckpointError, RecipeError or DataError, naming the remedy.
    """
    models = load_models(folders, wishes)
    section = models.recipe.data
    sources = wishes.sources(models.recipe)
    if not any(sources):
        raise RecipeError("no images to predict: give --data FOLDER_OR_TABLE, or set data.test in the recipe")
    own = TemporaryDirectory(prefix="engine-") if place is None else None
    parts = Path(own.name) if own is not None else PredictionsFolder(place or Path()).parts
    if ranks is not None and not ranks.leads:
        ranks.gather(None)  # until it is listed
        roll = Roll(parts / ROLL)
        return Job(models, roll, Parts(parts, len(roll)), Sheet.plain(models.classes))
    begun = begin(parts, models, "" if ranks is None else ranks.device.type, overwrite)
    notices = [*models.notices]
    # Not as what was trained on, even if it was: all of it is answered.
    listed = section.model_copy(update={"train": "", "test": sources[0]})
    names = ClassNames.of(section)
    roll = Roll.write(
        begun.listing, _in_classes(walk_sources(sources, listed, parts, notices), names), progress or _unheard
    )
    positive = _positive_class(models, names) if section.sample_submission else ""
    sheet = Sheet.asked(section, models.recipe.predict, roll.ids, models.classes, positive)
    notices += sheet.notices
    if wishes.truth is not None:
        label_of = _labels(wishes.truth, section, roll.ids, notices)
        roll = roll.relabelled({id_: names.class_of(label) for id_, label in label_of.items()})
    notices += _unscored(wishes.truth or " ".join(sources), roll.labels, models.classes)
    roll = begun.settled(roll)
    job = Job(models, roll, Parts(parts, len(roll)), sheet, (*notices, *begun.notices), own)
    if ranks is not None:
        ranks.gather(None)
    return job


def _unheard(count: int) -> None:
    pass


def _in_classes(pieces: Iterator[pa.Table], names: ClassNames) -> Iterator[pa.Table]:
    """The samples with classes in place of labels as found."""
    for piece in pieces:
        labels = pa.array([names.class_of(label) for label in piece["label"].to_pylist()], pa.string())
        yield piece.set_column(piece.schema.get_field_index("label"), "label", labels)


def _positive_class(models: Models, names: ClassNames) -> str:
    """predict.positive_class as the models call it. Raises RecipeError when they do not know it."""
    wanted = models.recipe.predict.positive_class
    found = names.class_of(nfc(wanted))
    if wanted and found not in models.classes:
        near = ", ".join(map(repr, nearest(found, models.classes)))
        raise RecipeError(f"predict.positive_class = {wanted!r}: is no class of the models; nearest: {near}")
    return found


def _unscored(source: str, labels: Mapping[str, int], classes: Sequence[str]) -> list[str]:
    """What labels, of which there are so many, cannot be scored by, in words: those that are no class of the models."""
    strange = {label: number for label, number in sorted(labels.items()) if label not in {"", *classes}}
    scored = sum(number for label, number in labels.items() if label in set(classes))
    if scored:
        told = f"{source}: scored on {count(scored, 'image')}; {sum(strange.values())} more have labels"
        return [f"{told} that are no class of the models: {some(strange, show=str)}"] if strange else []
    told = f"{source}: not scored: none of its labels is a class of the models: "
    return [f"{told}{some(strange, show=str)}; they know {some(classes, show=str)}"] if strange else []


def _labels(truth: str, section: DataSection, ids: Sequence[str], notices: list[str]) -> dict[str, str]:
    """The labels in the table `truth`, by the ids of images; "" or nothing where it has none."""
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
        raise DataError(f"{truth}: none of its ids is an image's: {some(by_id)}; images are like {some(ids[:4], 3)}")
    if strange := [name for name, sample_id in zip(by_id, found, strict=True) if sample_id is None]:
        notices.append(f"{truth}: {len(strange)} of its {len(by_id)} ids are no image's: {some(strange, 3)}")
    if not any(label_of.values()):
        notices.append(f"{truth}: not scored: the labels of all its images are empty")
    elif unlabelled := len(ids) - sum(map(bool, label_of.values())):
        first = [*islice((sample_id for sample_id in ids if not label_of.get(sample_id)), 3)]
        more = f" and {unlabelled - 3} more" if unlabelled > 3 else ""
        notices.append(f"{truth}: has no label for {unlabelled} of {count(len(ids), 'image')}: {some(first)}{more}")
    return label_of
