"""The photos of a run that stay decoded: one cache for its folds and specialists, which learn from the same photos."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

from engine.loader.decoded_cache import DecodedCache, decoded_cache
from engine.loader.decoded_files import Whose
from engine.ranks import Ranks
from engine.system import library_versions
from engine.training.memory import local_processes
from engine.training.prepare import Prepared

_CHANGES_NO_PIXEL = {"threads", "prefetch", "prefetch_mb", "cache", "cache_mb", "cache_dir"}  # of the decode section


def cache_of(prepared: Prepared, ranks: Ranks) -> AbstractContextManager[DecodedCache | None]:
    """For as long as the run is trained; None where the recipe asks for none."""
    recipe = prepared.recipe
    # Of the folder's path, since runs may have one name.
    place = hashlib.blake2b(str(Path(recipe.output).absolute()).encode(), digest_size=4).hexdigest()
    folder = f"{Path(recipe.name).name or 'run'}-{place}"
    content = json.dumps(_content(prepared)) if recipe.decode.cache == "disk" else ""
    whose = Whose(ranks.rank, content, leads=int(os.environ.get("LOCAL_RANK", ranks.rank)) == 0)
    rows = len(prepared.samples.ids)
    return decoded_cache(recipe.decode, rows, ranks.device, folder, whose, local_processes(ranks))


def _content(prepared: Prepared) -> list[object]:
    """What the pixels of each row depend on."""
    decode, samples = prepared.recipe.decode, prepared.samples
    photos = len(prepared.manifest.paths)
    later = [Path(samples.source.where(row)).stat() for row in range(photos, len(samples.ids))]  # without a fingerprint
    return [
        prepared.fingerprint,
        hashlib.blake2b(samples.keys_N.tobytes(), digest_size=16).hexdigest(),
        [(one.st_size, one.st_mtime_ns) for one in later],
        decode.model_dump(mode="json", exclude=_CHANGES_NO_PIXEL),
        library_versions(),
    ]
