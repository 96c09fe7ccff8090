"""What checking and splitting data costs, the first time and every time after.

    python benchmarks/bench_data.py --data DIR [--images 10000] [--json FILE]

Photos below DIR are copied into a temporary folder until there are `--images` of them, each with other bytes at its
end, so that no two files are equal. Then, in one run: indexing (list, hash, read headers), one look at every file
(decode at low resolution, perceptual hash), the search for near-duplicates among as many hashes that are all unlike,
all of `clean`; indexing and `clean` again with the caches there; DALI decoding the same files whole, as the yardstick;
and the split of a set with a few groups by this engine and by scikit-learn's StratifiedGroupKFold. Ends with one line
of JSON.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

import frame
from engine.data.clean import clean
from engine.data.folds import split_groups
from engine.data.ingest import ingest
from engine.data.near import clusters
from engine.data.pixels import HASH_BYTES, look
from engine.loader.source import Files
from engine.loader.stream import ImageStream
from engine.recipe.sections import DataSection, DecodeSection

FOLDS = {"samples": 33_000, "classes": 396, "pairs": 600, "count": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEGs, a sub-folder a class")
    parser.add_argument("--images", type=int, default=10_000)
    frame.json_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "photos"
        _copy(arguments.data, source, arguments.images)
        seconds = _data(source)
    rows = [{"work": work, "images": arguments.images, "seconds": taken} for work, taken in seconds.items()]
    rows += [{"work": work, "images": FOLDS["samples"], "seconds": taken} for work, taken in _folds(**FOLDS).items()]
    frame.finish(frame.result(rows, {"images": arguments.images, "folds": FOLDS}), arguments.json)


def _copy(data: Path, to: Path, count: int) -> None:
    files = sorted(data.glob("*/*.jpg"))
    for n in range(count):
        file = files[n % len(files)]
        copy = to / file.parent.name / f"{file.stem}_{n // len(files)}.jpg"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        with copy.open("ab") as end:
            end.write(f"copy {n}".encode())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 3)


def _data(source: Path) -> dict[str, float]:
    """Seconds by what was done to all the photos."""
    section = DataSection(train=str(source))
    ingest(str(source), section)  # reads every file once, so that the drive is not what is measured
    shutil.rmtree(source / ".engine")
    index_s = _seconds(lambda: ingest(str(source), section))
    manifest = ingest(str(source), section)
    unlike = np.random.default_rng(0).integers(0, 256, (len(manifest), HASH_BYTES), dtype=np.uint8)
    look_s = _seconds(lambda: look(manifest, str(source), ""))
    near_s = _seconds(lambda: clusters(unlike, section.near_bits))  # the copies' own are equal, which is quick
    clean(manifest, section)
    again_s = _seconds(lambda: clean(ingest(str(source), section), section))
    index_again_s = _seconds(lambda: ingest(str(source), section))
    shutil.rmtree(source / ".engine")
    first_s = _seconds(lambda: clean(ingest(str(source), section), section))
    batches = np.array_split(np.arange(len(manifest)), -(-len(manifest) // 64))
    dali = DecodeSection(device="cpu", decoder="dali")
    whole_s = _seconds(lambda: [None for _ in ImageStream(Files(manifest.paths), batches, dali, torch.device("cpu"))])
    return {
        "index": index_s,
        "index, again": index_again_s,
        "look": look_s,
        "near": near_s,
        "clean": first_s,
        "clean, again": again_s,
        "DALI, whole photos": whole_s,
    }


def _folds(samples: int, classes: int, pairs: int, count: int) -> dict[str, float]:
    """Seconds of splitting `samples` into `count` folds, when `pairs` of them belong together, by who does it."""
    random = np.random.default_rng(0)
    index_N = np.arange(samples) % classes
    index_N.sort()
    group_N = np.arange(samples)
    for row in random.choice(samples - 1, pairs, replace=False):
        group_N[row + 1] = group_N[row]
    group_N = np.unique(group_N, return_inverse=True)[1]
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs_s = _seconds(lambda: list(splitter.split(group_N, index_N, group_N)))
    ours_s = _seconds(lambda: split_groups(index_N, group_N, count, np.random.default_rng(0)))
    return {"folds, engine": ours_s, "folds, scikit-learn": theirs_s}


if __name__ == "__main__":
    main()
