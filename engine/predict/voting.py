"""Files of answers become one, without a model: `engine vote`.

What is fitted (weights, a stack) is fitted on samples whose truth is known, and is scored on parts that it was not
fitted on, beside the score on all of them, which flatters. Which join is worth it is said against the best single file,
by a bootstrap that pairs the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.ensemble.join import How, Join
from engine.ensemble.nested import honest
from engine.ensemble.prediction_files import Read, known_labels, read_candidates, with_labels
from engine.ensemble.vote import Rule
from engine.errors import DataError, RecipeError
from engine.intervals import Difference, compare
from engine.metrics import evaluate
from engine.predict.answers import read_truth
from engine.predict.submission import Sheet, write_submission
from engine.predictions import LabelledPredictions, Predictions
from engine.text import count, some

_SUFFIXES = (".parquet", ".csv")


@dataclasses.dataclass(frozen=True)
class Ballot:
    """Which files vote, and how.

    how: as in `Join.fit`; `weights`, one a file, instead. truth: a table of ids and labels, where the files do not have
    them, and `group` its column of what belongs together. fit_on: files of the same candidates, in the same order,
    about other samples, whose labels are fitted on. shared: samples and classes that all files have are enough.
    """

    files: tuple[Path, ...]
    how: How = "equal"
    weights: tuple[float, ...] = ()
    rule: Rule = "soft"
    truth: Path | None = None
    group: str = ""
    fit_on: tuple[Path, ...] = ()
    shared: bool = False


@dataclasses.dataclass(frozen=True)
class Scored:
    """How good the files and their join are, over `images` whose truth is known. alone: each file's metrics, by name.
    together: the join's; of what was fitted on these very images the nested ones, None where they cannot be divided
    into parts. in_sample: the same of what was fitted on all of them; None where nothing was. best: the file of the
    lowest log loss, and `difference` what the join (as in `together`) is against it."""

    images: int
    alone: dict[str, dict[str, float]]
    together: dict[str, float] | None
    in_sample: dict[str, float] | None
    best: str
    difference: Difference | None


@dataclasses.dataclass(frozen=True)
class Voted:
    """The one answer about all samples, how it was made, and how good it is where the truth is known."""

    join: Join
    answer: Predictions
    scored: Scored | None
    notices: tuple[str, ...]


def vote_files(ballot: Ballot) -> Voted:
    """Read the files, fit what is to be fitted, and join. Raises RecipeError for what cannot be asked for, DataError
    for files that do not fit together or have no labels to fit on."""
    if len(set(ballot.files)) < len(ballot.files):
        raise RecipeError("a file is named twice; to give it more weight, use --weights")
    read = read_candidates(ballot.files, ballot.shared)
    notices = [*read.notices]
    labelled = _labelled(read, ballot.truth, ballot.group)
    if ballot.truth and labelled is None:
        notices.append(f"{ballot.truth}: not scored: none of its labels is a class of {read.names[0]}")
    made = _joined(ballot, read, labelled, notices)
    answer = made.join.apply(read.answers if labelled is None else labelled)
    return Voted(made.join, answer, None if labelled is None else _scored(made, labelled), tuple(notices))


def check_place(out: Path | None, files: Sequence[Path], sample: Path | None) -> None:
    """Refuse a file for the answer that is of no known kind, one of those read, or of no kind for a sample's shape."""
    if out is None:
        if sample is not None:
            raise RecipeError("--sample says how --out is to look: add --out FILE.csv")
        return
    if out.suffix.lower() not in _SUFFIXES:
        raise RecipeError(f"--out {out}: call it .parquet or .csv, by which its form is chosen")
    if sample is not None and out.suffix.lower() != ".csv":
        raise RecipeError(f"--out {out}: a file in the shape of a sample submission is .csv")
    taken = {one.resolve() for one in (*files, *([sample] if sample else []))}
    if out.resolve() in taken:
        raise RecipeError(f"--out {out}: is one of the files that are read; name another")


def write_answer(voted: Voted, out: Path, sample: Path | None = None) -> tuple[str, ...]:
    """Write the answer as the name of `out` says, or in the shape of the submission `sample`; what there is to tell of
    that comes back. Raises DataError when the answer does not fit the sample."""
    out.parent.mkdir(parents=True, exist_ok=True)
    answer = voted.answer
    if sample is not None:
        sheet = Sheet.like(sample, answer.ids, answer.classes)
        write_submission(out, sheet, answer)
        left = f"{count(sheet.left_out, 'sample')} are not asked for by {sample}, such as {some(sheet.left_out, 1)}"
        return (*sheet.notices, *([left] if sheet.left_out else []))
    if out.suffix.lower() == ".csv":
        answer.write_csv(out)
    else:
        content = voted.join.to_dict()
        content.pop("stack")  # how it was made, and not the means to do it again
        answer.write(out, about={"join": content})
    return ()


def _labelled(read: Read, truth: Path | None, group: str) -> list[LabelledPredictions] | None:
    """The answers with what is known of the samples' truth; None where nothing is."""
    labels, groups = known_labels(read), []
    if truth is not None:
        table, ids = read_truth(str(truth), group_column=group), read.answers[0].ids
        named = table.about(ids, read.names[0])
        labels = [table.labels[named[id_]] if id_ in named else "" for id_ in ids]
        groups = [table.groups.get(named.get(id_, ""), "") for id_ in ids] if group else []
    labelled = with_labels(read, labels, groups) if labels else None
    return labelled if labelled is not None and (labelled[0].labels_N >= 0).any() else None


class _Made(NamedTuple):
    """A join; whether it was fitted on the very samples that it is scored by; and then its nested answers about them,
    unless they cannot be divided into parts."""

    join: Join
    fitted_here: bool = False
    nested: LabelledPredictions | None = None


def _joined(ballot: Ballot, read: Read, labelled: list[LabelledPredictions] | None, notices: list[str]) -> _Made:
    names, how, rule = read.names, ballot.how, ballot.rule
    try:
        if ballot.weights:
            return _Made(Join.given(names, ballot.weights, rule))
    except ValueError as error:
        raise RecipeError(f"--weights: {error}; the files are {some(names, show=str)}") from None
    if how == "equal":
        return _Made(Join.equal(names, rule))
    if how not in ("score", "logistic", "boosting") and rule == "median":
        raise RecipeError(
            f"--weights {how} has nothing to fit for --vote median; take --weights score, or another rule"
        )
    if ballot.fit_on:
        return _Made(_fitted(_to_fit_on(ballot, names, labelled, notices), names, how, rule))
    if labelled is None:
        raise DataError(
            f"{how} is fitted, and no labels are known: give --truth TABLE, or --fit-on with the out-of-fold files of "
            "the same candidates"
        )
    join = _fitted(labelled, names, how, rule)
    known = [one.known for one in labelled]
    try:
        return _Made(join, True, honest(known, lambda taught: Join.fit(taught, names, how, rule).apply))
    except ValueError as error:
        notices.append(f"the join is not scored honestly: {error}")
        return _Made(join, True)


def _fitted(labelled: Sequence[LabelledPredictions], names: Sequence[str], how: How, rule: Rule) -> Join:
    try:
        return Join.fit(labelled, names, how, rule)
    except ValueError as error:
        raise DataError(f"{how} cannot be fitted: {error}") from None


def _to_fit_on(
    ballot: Ballot, names: Sequence[str], scored: list[LabelledPredictions] | None, notices: list[str]
) -> list[LabelledPredictions]:
    if len(ballot.fit_on) != len(names):
        raise RecipeError(
            f"--fit-on: {len(ballot.fit_on)} files for {len(names)} that vote; give one for each, in the same order"
        )
    read = read_candidates(ballot.fit_on, ballot.shared)
    notices += read.notices
    labelled = _labelled(read, None, "")
    if labelled is None:
        raise DataError(
            f"--fit-on: none of {some(read.names, show=str)} has labels; give oof.parquet of `engine train`"
        )
    if scored is not None and (same := set(labelled[0].ids) & set(scored[0].known.ids)):
        notices.append(
            f"{count(same, 'sample')} that are scored were fitted on (--fit-on), so the score of the join flatters"
        )
    return labelled


def _scored(made: _Made, labelled: list[LabelledPredictions]) -> Scored:
    join, known = made.join, [one.known for one in labelled]
    alone = {name: evaluate(one).metrics for name, one in zip(join.names, known, strict=True)}
    best = min(alone, key=lambda name: alone[name]["log_loss"])
    plain = join.apply(known)
    judged = made.nested if made.fitted_here else plain
    return Scored(
        images=len(known[0]),
        alone=alone,
        together=None if judged is None else evaluate(judged).metrics,
        in_sample=evaluate(plain).metrics if made.fitted_here else None,
        best=best,
        difference=None if judged is None else compare(known[join.names.index(best)], judged),
    )
