"""A court in session: the suspects of a run in order, what is decided about them, and what follows from that.

Whoever shows it (a page, a list) asks here and knows nothing of arrays or files. Decisions are read from their file
whenever it has grown, since somebody else may be deciding, too.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.court import decisions
from engine.court.corrections import Corrections
from engine.court.decisions import DROP, RELABEL, UNDO, Decision
from engine.court.evidence import Evidence
from engine.court.photos import Photos
from engine.court.ranking import Ranking, rank
from engine.court.reasons import reasons
from engine.court.signals import Signals
from engine.data.ingest import Progress
from engine.data.sources.litter import tidy
from engine.errors import DataError
from engine.files import write_text
from engine.store.run_folder import RunFolder

_NEAREST = 8  # training photos shown beside a suspect
_TWINS = 4


@dataclasses.dataclass(frozen=True)
class Beside:
    """A photo that is shown beside a suspect."""

    id: str
    label: str


@dataclasses.dataclass(frozen=True)
class Case:
    """A suspect. wrong: about how likely its label is wrong. instead: classes that it may be, with probabilities."""

    id: str
    label: str
    wrong: float
    instead: tuple[tuple[str, float], ...]
    reasons: tuple[str, ...]
    nearest: tuple[Beside, ...]
    twins: tuple[Beside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Court:
    """The court of a run: suspects in order, the likeliest wrong label first."""

    run: RunFolder
    ranking: Ranking
    photos: Photos
    alike: tuple[tuple[str, ...], ...]

    @classmethod
    def open(cls, run: RunFolder, progress: Progress | None = None) -> Court:
        """Rank a run's labels. Raises DataError where the run or its photos lack what that takes."""
        evidence = Evidence.read(run)
        photos = Photos.of(run, progress)
        ids, label_N = evidence.answers.ids, evidence.answers.labels_N
        photos.check(ids)
        alike = photos.alike(ids, progress)
        label_of = dict(zip(ids, label_N.tolist(), strict=True))
        twins = tuple(tuple(label_of[one] for one in of_photo) for of_photo in alike)
        return cls(run, rank(Signals.of(evidence, twins)), photos, alike)

    # -- suspects

    def __len__(self) -> int:
        return len(self.ranking.evidence)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.ranking.evidence.answers.classes

    @cached_property
    def order(self) -> list[int]:
        return [int(row) for row in self.ranking.order_N]

    def case(self, place: int) -> Case:
        """The suspect at a place in the order, from 0."""
        row = self.order[place]
        answers = self.ranking.evidence.answers
        nearby = self.ranking.evidence.nearby
        nearest = []
        if nearby is not None:
            pairs = zip(nearby.ids[row], nearby.labels_NK[row].tolist(), strict=True)
            nearest = [Beside(id_, self.classes[label]) for id_, label in pairs if label >= 0][:_NEAREST]
        twins = [Beside(one, self.label_of[one]) for one in self.alike[row][:_TWINS]]
        said = reasons(self.ranking, row)
        if others := sorted({one.label for one in twins} - {answers.labels[row]}):
            said.insert(0, f"a near-duplicate of it is labelled {', '.join(others)}")
        return Case(
            id=answers.ids[row],
            label=answers.labels[row],
            wrong=float(self.ranking.wrong_N[row]),
            instead=tuple(self.ranking.suggested(row)),
            reasons=tuple(said),
            nearest=tuple(nearest),
            twins=tuple(twins),
        )

    @cached_property
    def label_of(self) -> dict[str, str]:
        """The given label of each photo, by id."""
        answers = self.ranking.evidence.answers
        return dict(zip(answers.ids, answers.labels, strict=True))

    def path(self, id_: str) -> str:
        """Where one of the run's photos lies. Raises KeyError for any other."""
        if id_ not in self.label_of:
            raise KeyError(id_)
        return self.photos.path_of[id_]

    # -- decisions

    @property
    def file(self) -> Path:
        """Where decisions are kept."""
        return self.run.court

    def decided(self) -> dict[str, Decision]:
        """What counts, by id, of the run's photos with the labels that they have; see `still_counts`."""
        return {id_: one for id_, one in self._all().items() if id_ in self.label_of and self._still_counts(one)}

    def _all(self) -> dict[str, Decision]:
        return decisions.standing(decisions.read(self.file))

    def _still_counts(self, one: Decision) -> bool:
        """A photo that has got another label since, but the one that it was to get, has to be judged again."""
        label = self.label_of[one.id]
        return label == one.given or (one.kind == RELABEL and label == one.new) or one.kind == DROP

    def decide(self, id_: str, kind: str, new: str = "", who: str = "") -> Decision:
        """Write down a decision about a photo of the run. Raises KeyError for another photo, ValueError for what is no
        decision, StorageError."""
        label = self.label_of[id_]
        made = Decision(id_, label, kind, tidy(new), " ".join(who.split()), decisions.now())
        if kind == UNDO and id_ not in self._all():
            raise ValueError(f"nothing is decided about {id_!r}")
        decisions.add(self.file, [made])
        return made

    def merge(self, path: Path) -> int:
        """Take in decisions that were made elsewhere, as a page wrote them; how many are new. Raises DataError."""
        if not path.is_file():
            raise DataError(f"{path}: no such file; give what the court's page has downloaded")
        found = decisions.read(path)
        if strange := [one.id for one in found if one.id not in self.label_of]:
            raise DataError(f"{path}: {strange[0]!r} is no photo of {self.run.path}; the decisions are of another run")
        new = decisions.merged(decisions.read(self.file), found)
        if new:
            decisions.add(self.file, new)
        return len(new)

    def corrections(self) -> Corrections:
        """What all that counts comes to, and what was decided about photos that have left the run."""
        decided = {id_: one for id_, one in self._all().items() if id_ not in self.label_of or self._still_counts(one)}
        return Corrections.of(decided, self.photos.recipe.data, self.photos.manifest)

    # -- a list

    def write_list(self, path: Path) -> None:
        """Write the whole ranking as CSV: every photo with its signals, its reasons and what was decided."""
        signals = self.ranking.signals
        values_NF = signals.about(signals.label_N)
        decided = self.decided()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        head = ("place", "id", "label", "wrong", "suggestion", "probability", "decision", "new", "who", "reasons")
        writer.writerow((*head, *signals.names))
        for place in range(len(self)):
            row, case = self.order[place], self.case(place)
            one = decided.get(case.id)
            made = (one.kind, one.new, one.who) if one else ("", "", "")
            suggestion, p = case.instead[0] if case.instead else ("", 0.0)
            facts = (place + 1, case.id, case.label, f"{case.wrong:.4f}", suggestion, f"{p:.4f}", *made)
            writer.writerow((*facts, "; ".join(case.reasons), *(f"{value:.4f}" for value in values_NF[row])))
        write_text(path, text.getvalue())


def places(court: Court, most: int, label: str = "") -> Sequence[int]:
    """The places of the first `most` suspects, of one given label where asked."""
    labels = court.ranking.evidence.answers.labels
    found = (place for place, row in enumerate(court.order) if not label or labels[row] == label)
    return [place for _, place in zip(range(most), found, strict=False)]
