"""What `engine infer` answered, in short: read a piece at a time, without the probabilities."""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.data.manifest import OK
from engine.store.run_folder import PredictionsFolder

_BINS = 20
_STRANGEST = 24
_COLUMNS = ("id", "path", "prediction", "confidence", "status", "label", "set", "abstain", "strange", "strangeness")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """images: all of them; unread: those that could not be read, by reason. answers: by class. crowd_B: how many have
    a confidence in each of equal ranges. withheld, strange: shares, None where not asked for. set_sizes: how many sets
    are of each size. strangest: (id, label, answer, confidence, share of ordinary images at least as strange), the
    strangest first. paths: of these. metrics: where labels are known."""

    images: int
    unread: Mapping[str, int]
    answers: Mapping[str, int]
    crowd_B: NDArray[np.int64]
    withheld: float | None
    strange: float | None
    set_sizes: Mapping[int, int]
    strangest: tuple[tuple[str, str, str, float, float], ...]
    paths: Mapping[str, str]
    metrics: Mapping[str, float]


def read_predicted(folder: PredictionsFolder) -> Predicted | None:
    """None where nothing was predicted, or that cannot be read."""
    try:
        return _read(folder)
    except (OSError, pa.ArrowException, KeyError):
        return None


def _read(folder: PredictionsFolder) -> Predicted:
    file = pq.ParquetFile(folder.predictions)
    columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
    unread, answers, sizes = Counter[str](), Counter[str](), Counter[int]()
    crowd_B = np.zeros(_BINS, dtype=np.int64)
    withheld = strange = images = seen = 0
    heap: list[tuple[float, int, tuple[str, str, str, float, float], str]] = []
    for batch in file.iter_batches(columns=columns):
        row = batch.to_pydict()
        count = batch.num_rows
        for at in range(count):
            if row["status"][at] != OK:
                unread[row["status"][at]] += 1
                continue
            seen += 1
            answers[row["prediction"][at]] += 1
            crowd_B[min(_BINS - 1, int(row["confidence"][at] * _BINS))] += 1
            withheld += bool(row["abstain"][at]) if "abstain" in row else 0
            strange += bool(row["strange"][at]) if "strange" in row else 0
            if "set" in row and row["set"][at] is not None:
                sizes[len(row["set"][at])] += 1
            p = row["strangeness"][at] if "strangeness" in row else None
            if p is not None:
                label = (row["label"][at] or "") if "label" in row else ""
                shot = (row["id"][at], label, row["prediction"][at], float(row["confidence"][at]), float(p))
                entry = (-float(p), images + at, shot, row["path"][at] or "")
                (heapq.heappush if len(heap) < _STRANGEST else heapq.heappushpop)(heap, entry)
        images += count
    heap.sort(key=lambda entry: (-entry[0], entry[1]))
    return Predicted(
        images=images,
        unread=dict(unread.most_common()),
        answers=dict(answers.most_common()),
        crowd_B=crowd_B,
        withheld=withheld / seen if seen and "abstain" in columns else None,
        strange=strange / seen if seen and "strange" in columns else None,
        set_sizes=dict(sorted(sizes.items())),
        strangest=tuple(entry[2] for entry in heap),
        paths={entry[2][0]: entry[3] for entry in heap},
        metrics=_metrics(folder),
    )


def _metrics(folder: PredictionsFolder) -> dict[str, Any]:
    try:
        return dict(json.loads(folder.scores.read_text("utf-8"))["together"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def drift(counts: Mapping[str, int], predicted: Predicted | None) -> list[dict[str, Any]]:
    """Classes by how far their share among answers is from that among the `counts` of training, the farthest first."""
    if predicted is None or not predicted.answers or not counts:
        return []
    trained, answered = sum(counts.values()), sum(predicted.answers.values())
    shares = {
        name: (predicted.answers.get(name, 0) / answered, counts.get(name, 0) / trained)
        for name in {**counts, **predicted.answers}
    }
    farthest = sorted(shares, key=lambda name: (-abs(shares[name][0] - shares[name][1]), name))
    return [{"name": name, "answered": shares[name][0], "trained": shares[name][1]} for name in farthest[:12]]
