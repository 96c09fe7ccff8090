"""What a file costs beside the run that it was made of: how far its answers are off, how often it says another class,
the score of both where labels are known, and how many photos a second each answers about."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.data.names import ClassNames
from engine.data.sources.listing import list_samples
from engine.errors import DataError
from engine.export.runner import Exported
from engine.metrics import log_loss
from engine.pictures import RGB, WHITE, read_pixels
from engine.quarantine import Fault, read_file
from engine.recipe.sections import DataSection

Pixels = NDArray[np.uint8]
Ask = Callable[[Sequence[Pixels]], NDArray[np.floating]]

_SEED = 5
_MOST_BYTES = 1 << 28  # of pixels; they are copied once or twice when they are asked about


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """Upright RGB pixels (H, W, 3) with the class of each, "" where it is not known, and where they come from."""

    pixels: Sequence[Pixels]
    labels: Sequence[str]
    source: str


@dataclasses.dataclass(frozen=True)
class Parity:
    """difference: the highest of probabilities. agreement: share of photos with the same likeliest class. log_loss: of
    the run and of the file, where labels are known. a_second: photos, of the run and of the file."""

    photos: int
    difference: float
    agreement: float
    log_loss: tuple[float, float] | None
    a_second: tuple[float, float]


def photos_at_hand(section: DataSection, source: str = "", count: int = 64, background: RGB = WHITE) -> Photos:
    """At most `count` photos, spread over a folder or table; over the training data where `source` is "". Fewer of
    large ones, which are held in memory all at once. None where there are none any more. background: over which
    transparent ones lie.

    Raises DataError where a `source` was named and has none.
    """
    names, asked = ClassNames.of(section), source or section.train
    try:
        columns = list_samples(asked, section if not source else section.model_copy(update={"test": source})).columns
    except (DataError, OSError):
        if source:
            raise
        return Photos((), (), asked)
    paths, labels = ([*map(str, columns.get(name, ()))] for name in ("path", "label"))
    found: list[tuple[Pixels, str]] = []
    for row in np.random.default_rng(_SEED).permutation(len(paths)).tolist():
        content = read_file(paths[row])
        pixels = content if isinstance(content, Fault) else read_pixels(content, background)
        if not isinstance(pixels, Fault):
            found.append((pixels, names.class_of(labels[row]) if labels else ""))
        if len(found) == count or sum(pixels.nbytes for pixels, _ in found) > _MOST_BYTES:
            break
    if source and not found:
        raise DataError(f"--photos {source}: none of its {len(paths)} files can be decoded")
    return Photos([pixels for pixels, _ in found], [label for _, label in found], asked)


def parity(exported: Exported, run: Ask, photos: Photos) -> Parity:
    """What the file answers about these photos, beside the run."""
    run(photos.pixels[:1]), exported.probabilities(photos.pixels[:1])  # what is done once is not counted
    run_NC, run_s = _timed(run, photos.pixels)
    file_NC, file_s = _timed(exported.probabilities, photos.pixels)
    count = len(photos.pixels)
    known = [row for row, label in enumerate(photos.labels) if label in exported.classes]
    y_N = np.array([exported.classes.index(photos.labels[row]) for row in known], dtype=np.int64)
    return Parity(
        photos=count,
        difference=float(np.abs(file_NC - run_NC).max()),
        agreement=float((file_NC.argmax(1) == run_NC.argmax(1)).mean()),
        log_loss=(log_loss(run_NC[known], y_N), log_loss(file_NC[known], y_N)) if known else None,
        a_second=(count / run_s, count / file_s),
    )


def _timed(ask: Ask, photos: Sequence[Pixels]) -> tuple[NDArray[np.floating], float]:
    began = time.perf_counter()
    return ask(photos), time.perf_counter() - began
