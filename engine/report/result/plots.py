"""The two plots of trust, and the numbers behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.risk import Threshold
from engine.report.result.answers import Answers
from engine.report.result.plot import Axis, Band, Bars, Line, Mark, Plot, fitting, percent
from engine.report.result.predictions import Predicted
from engine.report.result.trust import Curve, Reliability
from engine.report.result.words import share

_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


def reliability_plot(found: Reliability) -> Plot:
    """How often answers of each confidence are right, with its band, and where the answers are."""
    curve = found.curve
    at = int(np.abs(curve.x_K - 0.8).argmin())
    says = (
        f"Of answers that say {share(float(curve.x_K[at]))}, {share(float(curve.y_K[at]))} are right. Miscalibration "
        f"{found.miscalibration:.4f} of a Brier score of {found.score:.4f}."
    )
    x, y = (Axis(word, 0.0, 1.0, percent) for word in ("confidence", "right"))
    bars = Bars([value / max(1, found.crowd_B.max()) for value in found.crowd_B.tolist()])
    return Plot(
        "Reliability: how often an answer of each confidence is right",
        says,
        x,
        y,
        [Line(_points(curve), "main mean")],
        _bands(curve),
        bars=bars,
        diagonal=True,
    )


def risk_plot(curve: Curve, threshold: Threshold | None) -> Plot:
    """Which share is wrong when only the surest answers are given."""
    highest = [*curve.y_K.tolist(), *([] if curve.high_K is None else curve.high_K.tolist())]
    marks = [Mark(threshold.coverage, f"threshold {share(threshold.threshold)}")] if threshold else []
    at = int(np.abs(curve.x_K - 0.8).argmin())
    answered, wrong = share(float(curve.x_K[at])), share(float(curve.y_K[at]))
    says = f"Answering {answered} of the photos, {wrong} of the answers are wrong."
    return Plot(
        "Risk and coverage: what is wrong when only the surest are answered",
        says,
        Axis("answered", 0.0, 1.0, percent),
        fitting("wrong", highest, percent, zero=True),
        [Line(_points(curve), "main mean")],
        _bands(curve),
        marks,
    )


def risk_rows(curve: Curve) -> list[dict[str, Any]]:
    """For the table: coverage, the share that is wrong, and its band."""
    rows = []
    for coverage in _COVERAGES:
        at = int(np.abs(curve.x_K - coverage).argmin())
        low = None if curve.low_K is None else float(curve.low_K[at])
        high = None if curve.high_K is None else float(curve.high_K[at])
        rows.append({"coverage": float(curve.x_K[at]), "risk": float(curve.y_K[at]), "low": low, "high": high})
    return rows


def confidence_plot(predicted: Predicted, answers: Answers | None) -> Plot:
    """How sure the answers to new photos are, beside those to what was held out."""
    seen = predicted.crowd_B / max(1, predicted.crowd_B.sum())
    lines = [Line(_steps(seen), "main mean", "predicted")]
    says = f"Predicted: {share(float(seen[-4:].sum()))} have a confidence of 80% or more"
    highest = seen.max()
    if answers is not None:
        held = np.histogram(answers.confidence_N, bins=len(seen), range=(0, 1))[0] / len(answers)
        lines.insert(0, Line(_steps(held), "soft", "held out"))
        says += f"; held out: {share(float(held[-4:].sum()))}"
        highest = max(highest, held.max())
    y = fitting("photos", [0.0, float(highest)], percent)
    return Plot(
        "How sure: of predicted photos, and of those held out (dashed)",
        says,
        Axis("confidence", 0, 1, percent),
        y,
        lines,
    )


def _steps(shares_B: NDArray[np.floating]) -> list[tuple[float, float]]:
    """The outline of bars of equal width from 0 to 1."""
    edges = np.linspace(0, 1, len(shares_B) + 1).tolist()
    return [
        (x, y)
        for left, right, y in zip(edges, edges[1:], shares_B.tolist(), strict=False)
        for x, y in ((left, y), (right, y))
    ]


def _points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.x_K.tolist(), curve.y_K.tolist(), strict=True))


def _bands(curve: Curve) -> list[Band]:
    if curve.low_K is None or curve.high_K is None:
        return []
    return [Band(list(zip(curve.x_K.tolist(), curve.low_K.tolist(), curve.high_K.tolist(), strict=True)))]
