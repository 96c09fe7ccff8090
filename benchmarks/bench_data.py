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
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from engine.bench.timers import machine
from engine.data.clean import clean
from engine.data.folds import _split_groups
from engine.data.ingest import ingest
from engine.data.near import clusters
from engine.data.pixels import HASH_BYTES, look
from engine.loader.source import Files
from engine.loader.stream import ImageStream
from engine.recipe.sections import DataSection, DecodeSection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEGs, a sub-folder a class")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "photos"
        _copy(arguments.data, source, arguments.images)
        found = {"machine": machine(torch.device("cpu")), "images": arguments.images}
        found |= _data(source) | {"folds": _folds()}
    text = json.dumps(found)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(text)


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


def _data(source: Path) -> dict[str, object]:
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
        "index_s": index_s,
        "index_again_s": index_again_s,
        "look_s": look_s,
        "near_s": near_s,
        "clean_first_s": first_s,
        "clean_again_s": again_s,
        "clean_saved": round(1 - again_s / first_s, 3),
        "index_saved": round(1 - index_again_s / index_s, 3),
        "dali_whole_s": whole_s,
        "look_images_a_second": round(len(manifest) / look_s),
    }


def _folds(samples: int = 33_000, classes: int = 396, pairs: int = 600, count: int = 5) -> dict[str, object]:
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
    ours_s = _seconds(lambda: _split_groups(index_N, group_N, count, np.random.default_rng(0)))
    return {"samples": samples, "classes": classes, "ours_s": ours_s, "scikit_learn_s": theirs_s}


if __name__ == "__main__":
    main()
