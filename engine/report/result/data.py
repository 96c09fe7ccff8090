"""The images that a run was trained with, looked at again: where they lie now, what was left out, what a check finds.

A page is often made long after training and elsewhere. So nothing of this is needed: what is gone is said to be gone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from engine.data.checks import Finding, check
from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.data.names import resolved
from engine.errors import EngineError
from engine.quarantine import Quarantine
from engine.recipe.sections import Recipe
from engine.report.preview import Preview, preview
from engine.store.samples import TrainedSamples
from engine.training.prepare import Prepared, prepare

Heard = Callable[[str, int, int | None], None]
"""What is being done, how many of it are done, and of how many if that is known."""

AUGMENTED, EPOCHS = 5, 5  # images, and epochs of each


@dataclasses.dataclass(frozen=True)
class Data:
    """gone: why the images cannot be looked at, "" where they can. groups: of the images, where they have any.
    changed: in words, what has changed since the run was trained. reasons: files that could not be used, by reason.
    findings: of the check; None where that was not made, for the reason `unchecked`. augmented: what a stage made of
    some images."""

    manifest: Manifest | None
    gone: str = ""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changed: str = ""
    notices: Sequence[str] = ()
    left_out: Quarantine = dataclasses.field(default_factory=Quarantine)
    findings: Sequence[Finding] | None = None
    unchecked: str = ""
    augmented: Sequence[Preview] = ()

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(str(entry.fault.kind) for entry in self.left_out.values()).most_common())

    def paths(self, ids: Sequence[str]) -> dict[str, str]:
        """Of these images, where they are known."""
        if self.manifest is None:
            return {}
        table = self.manifest.table
        found = table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))
        return dict(zip(found["id"].to_pylist(), found["path"].to_pylist(), strict=True))


NOTHING_KNOWN = Data(None, gone="The recipe of this run cannot be read, so it is not known where its images lie.")


def look_at(recipe: Recipe, samples: Path, heard: Heard) -> Data:
    """Index the images of a recipe again, from what was kept of them, and see what training made of them. samples: what
    the run noted of its images."""
    try:
        prepared = prepare(recipe, lambda done, total: heard("indexing", done, total))
    except EngineError as error:
        return _without(recipe, str(error), heard)
    manifest = prepared.manifest
    now = TrainedSamples(manifest.ids, manifest.labels, manifest.table["sha1"].to_pylist(), prepared.fold_N.tolist())
    findings, unchecked = _checked(prepared, heard)
    return Data(
        manifest=manifest,
        groups={id_: group for id_, group in zip(manifest.ids, manifest.groups, strict=True) if group},
        changed=now.changes_since(samples) if samples.is_file() else "",
        notices=prepared.notices,
        left_out=prepared.left_out,
        findings=findings,
        unchecked=unchecked,
        augmented=_augmented(prepared, heard),
    )


def _without(recipe: Recipe, why: str, heard: Heard) -> Data:
    """What there is of images that could not be trained on any more."""
    try:
        section = resolved(recipe.data).model_copy(update={"missing": "leave_out"})
        found = ingest(section.train, section, lambda done, total: heard("indexing", done, total))
    except EngineError:
        return Data(None, gone=why, unchecked="Needs the images.")
    return Data(found, gone=why, unchecked="Needs the images as they were.", left_out=found.quarantine)


def _checked(prepared: Prepared, heard: Heard) -> tuple[Sequence[Finding] | None, str]:
    section = prepared.recipe.data
    if section.check != "decode":
        return None, 'Not made, as data.check is "header": `engine data check` looks at every pixel.'
    try:
        found = ingest(section.train, section)
        checked = check(
            found,
            section.train,
            section,
            None,
            lambda done, total: heard("checking", done, total),
            prepared.recipe.decode,
        )
    except EngineError as error:
        return None, f"Could not be made: {error}"
    return checked.findings, ""


def _augmented(prepared: Prepared, heard: Heard) -> list[Preview]:
    """Of the first and the last stage."""
    stages = dict.fromkeys((0, len(prepared.recipe.stage) - 1))
    shown = []
    for done, stage in enumerate(stages):
        heard("augmenting", done, len(stages))
        try:
            shown.append(preview(prepared, stage, AUGMENTED, EPOCHS))
        except EngineError:
            continue  # a file that went since
    return shown
