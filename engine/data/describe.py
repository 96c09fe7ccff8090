"""What is in a manifest, in figures."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.data.manifest import Manifest

_QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
_BAD_SHOWN = 20


def describe(manifest: Manifest) -> dict[str, Any]:
    """What is in a manifest, as plain values fit for JSON; all but `notices`, `samples`, `status` and `unusable` of
    usable files only.

    notices: what was passed over or guessed when they were listed; samples, usable, unlabelled: counts; classes: {name:
    count}, by name; height, width, bytes: {min, 5%, median, 95%, max} (pixels, upright); total_bytes; orientation:
    {EXIF value: count}; exact_duplicates: files that repeat another's content; status: {"ok" or kind of fault: count};
    unusable: the first [path, fault in words] pairs.
    """
    usable = manifest.usable()
    classes = class_counts(usable)
    height_N, width_N = usable.sizes_N2.T
    bytes_N = usable.table["bytes"].to_numpy()
    bad = islice(manifest.quarantine.values(), _BAD_SHOWN)
    return {
        "notices": list(manifest.notices),
        "samples": len(manifest),
        "usable": len(usable),
        "unlabelled": len(usable) - sum(classes.values()),
        "classes": classes,
        "height": _quantiles(height_N),
        "width": _quantiles(width_N),
        "bytes": _quantiles(bytes_N),
        "total_bytes": int(bytes_N.sum()),
        "orientation": {str(value): count for value, count in _counts(usable, "orientation").items()},
        "exact_duplicates": len(usable) - pc.count_distinct(usable.table["sha1"]).as_py(),
        "status": _counts(manifest, "status"),
        "unusable": [[entry.where, str(entry.fault)] for entry in bad],
    }


def class_counts(manifest: Manifest) -> dict[str, int]:
    """Samples of each class, by name; unlabelled ones are in none."""
    return {name: count for name, count in _counts(manifest, "label").items() if name}


def _counts(manifest: Manifest, column: str) -> dict[Any, int]:
    counts = pc.value_counts(manifest.table[column])
    return dict(sorted(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def _quantiles(values_N: NDArray[np.int64]) -> dict[str, int]:
    if not len(values_N):
        return {}
    return {name: int(np.quantile(values_N, q, method="nearest")) for name, q in _QUANTILES.items()}
