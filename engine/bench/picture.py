"""Where an image's time goes, stage by stage, as a picture: what feeds the model beside what the model does.

Both go on at the same time, so the higher of the two bars is what training takes, and the mark of the measured training
lies on it or, where they are in each other's way, above.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.bench.envelope import Envelope, Row
from engine.errors import EngineError
from engine.files import atomic_write

KINDS = (".svg", ".png", ".pdf")
_BARS = {  # by bar: its parts, from the bottom, and their colours
    "feed": {"decode": "tab:blue", "pass": "tab:cyan", "transfer": "tab:gray"},
    "model": {"forward": "tab:orange", "backward": "tab:red", "optimiser": "tab:pink"},
}
_WIDTH = 0.38
_DPI = 120


def check_picture(path: Path) -> None:
    """Raise EngineError when a picture cannot be of this kind."""
    if path.suffix.lower() not in KINDS:
        raise EngineError(f"--picture {path.name}: a picture ends in {', '.join(KINDS)}")


def draw(found: Envelope, path: Path) -> None:
    """The stages of a result of `engine bench`, as SVG, PNG or PDF by the file's name. Raises EngineError else."""
    from matplotlib.figure import Figure  # only here: a machine may measure without being able to draw

    check_picture(path)
    stages = sorted({row["stage"] for row in found.rows})
    figure = Figure(figsize=(1.6 * len(stages) + 4, 4.5), layout="constrained")
    axes = figure.add_subplot(title=f"{found.settings['backbone']} on {found.machine['device']}", ylabel="ms an image")
    for side, (name, parts) in enumerate(_BARS.items()):
        bottom = [0.0] * len(stages)
        for phase, color in parts.items():
            heights = [_ms(found.rows, stage, phase) for stage in stages]
            places = [at + (side - 0.5) * _WIDTH for at in range(len(stages))]
            axes.bar(places, heights, _WIDTH * 0.95, bottom=bottom, color=color, label=f"{name}: {phase}")
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    training = [_ms(found.rows, stage, "training") for stage in stages]
    axes.plot(range(len(stages)), training, "k_", markersize=60, markeredgewidth=2)
    axes.plot([], [], "k-", label="training, measured")
    axes.set_xticks(range(len(stages)), [_stage(found.rows, stage) for stage in stages])
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format=path.suffix[1:].lower())


def _ms(rows: Sequence[Row], stage: int, phase: str) -> float:
    return sum(row["ms"] or 0.0 for row in rows if row["stage"] == stage and row["phase"] == phase)


def _stage(rows: Sequence[Row], stage: int) -> str:
    row = next(row for row in rows if row["stage"] == stage)
    height, width = row["size"]
    return f"{height} x {width}\nbatch {row['batch']}"
