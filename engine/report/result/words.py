"""What the scores and the files of a run say, in sentences: for somebody who decides and does not train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.ensemble.ensemble import Ensemble
from engine.intervals import Interval
from engine.report.result.answers import Answers
from engine.report.result.confused import worst_pairs
from engine.report.result.headline import Figure
from engine.report.result.told import Told
from engine.report.result.trust import Curve
from engine.text import count


def summary(told: Told, shown: Sequence[Figure], risk: Curve | None) -> list[str]:
    """Two or three sentences for somebody who decides and does not train."""
    answers = told.answers
    if answers is None or not shown:
        return [_nothing(told)]
    accuracy, calibration = shown[0], shown[3]
    said = [
        f"Of {count(len(answers), 'photo')} that the answering models had never seen, {share(accuracy.score.value)} "
        f"are answered rightly{_between(accuracy.score)}; {accuracy.about} would be right for "
        f"{share(accuracy.shares)}.",
        _honesty(answers, calibration),
    ]
    wrong = int((~answers.right_N).sum())
    if pairs := worst_pairs(answers)[:1]:
        pair = pairs[0]
        part = (pair.there + pair.back) / wrong
        said.append(
            f"Most mistakes between two classes are made between {pair.first} and {pair.second}: "
            f"{count(pair.there + pair.back, 'photo')}, {share(part)} of all that is wrong."
        )
    else:
        said.append("Nothing is answered wrongly.")
    if risk is not None and wrong:
        without = 1 - float(risk.y_K[int(np.abs(risk.x_K - 0.8).argmin())])
        gains = "If the fifth of the photos that the models are least sure of goes to a person"
        if without > accuracy.score.value + 0.005:
            said.append(f"{gains}, {share(without)} of the others are right.")
        else:
            said.append(f"{gains}, nothing is won: how sure the models are tells nothing of whether they are right.")
    return said


def _nothing(told: Told) -> str:
    if not told.finished:
        return (
            f"This run is not finished: {count(len(told.records), 'epoch')} trained so far, and nothing scored over "
            "all folds yet. The same `engine train` goes on with it."
        )
    return (
        "All images were trained on, so there is nothing that these models had not seen to judge them by. With "
        "`data.folds.count` at 2 or more, each photo is answered by models that were not trained on it."
    )


def _honesty(answers: Answers, error: Figure) -> str:
    says, right = float(answers.confidence_N.mean()), float(answers.right_N.mean())
    gap = says - right
    said = f"on average it says {share(says)} and is right in {share(right)}"
    if error.score.value < max(0.03, 1.5 * error.shares):
        return f"Its confidence can be taken at its word: {said}."
    if abs(gap) < 0.01:
        return f"Its confidence is right on average and not everywhere ({said}); see the reliability plot."
    word = "surer than it should be" if gap > 0 else "less sure than it could be"
    return f"It is {word}: {said}. `ensemble.calibrate` mends that."


def settled(told: Told) -> list[str]:
    """How answers are made, in words: who answers, and what was kept of all that was tried."""
    if told.ensemble is None:
        return []
    said = [_who(told, told.ensemble)]
    kept = told.ensemble.parts.names
    tried = [*dict.fromkeys(str(gain["part"]) for gain in told.scores.get("ensemble", []))]
    left = [name for name in tried if name not in kept and not (name in ("weights", "stack") and "join" in kept)]
    if kept:
        said.append(
            f"Fitted afterwards and kept, because it gained on photos that it was not fitted on: {_list(kept)}."
        )
    if left:
        said.append(f"Tried and not kept, because no gain could be told from chance: {_list(left)}.")
    hedges = told.ensemble.hedges
    if hedges.risk is not None:
        said.append(
            f"Beside each answer stands a set of classes that holds the truth in {share(hedges.risk.level)} of cases."
        )
    if hedges.threshold is not None:
        said.append(
            f"Below a confidence of {share(hedges.threshold.threshold)} no answer is given, so that "
            f"{share(hedges.threshold.target)} of those given are right."
        )
    if hedges.strange is not None:
        said.append("Photos that are like nothing in training are marked as strange.")
    return said


def _who(told: Told, ensemble: Ensemble) -> str:
    if told.parts:
        return f"{count(len(told.parts), 'run')} answer together: {_list([run.path.name for run in told.parts])}."
    models = count(told.models, "model") if told.models else "Models that are not in this folder any more"
    views = count(len(ensemble.views), "view") if ensemble.views else "one view"
    rule = ensemble.keys.get("ensemble.vote", "soft")
    each = told.models / told.folds if told.folds else 1
    of = f" ({count(told.folds, 'fold')}, {each:g} kept epochs each)" if each > 1 else f" ({count(told.folds, 'fold')})"
    verb = "answers" if told.models == 1 else "answer"
    who = f"{models}{of if told.models else ''} {verb}{' together' if told.models > 1 else ''}"
    return f"{who}, by {views} of each photo ({', '.join(ensemble.views)}), joined by the {rule} vote."


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _between(score: Interval) -> str:
    if score.low is None or score.high is None:
        return ""
    return f" (95% interval {share(score.low)} to {share(score.high)})"


def share(value: float) -> str:
    """A share in per cent, with one decimal where that says something."""
    per_cent = 100 * value
    return f"{per_cent:.0f}%" if per_cent >= 99.95 or abs(per_cent - round(per_cent)) < 0.05 else f"{per_cent:.1f}%"
