"""The photos of a run, found again by its recipe: where they lie, and which are near-duplicates of each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.near import clusters
from engine.data.pixels import look
from engine.ensemble.runs import saved_recipe
from engine.errors import DataError
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.store.run_folder import RunFolder
from engine.text import some

_MOST_ALIKE = 12  # of a photo; a thousand blank pages are alike, and nobody looks at all


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """All photos that a run's recipe lists."""

    recipe: Recipe
    manifest: Manifest

    @classmethod
    def of(cls, run: RunFolder, progress: Progress | None = None) -> Photos:
        """Raises DataError where they are not to be found any more."""
        recipe = parse_saved(saved_recipe(run))
        return cls(recipe, ingest(recipe.data.train, recipe.data, progress))

    @cached_property
    def path_of(self) -> Mapping[str, str]:
        return dict(zip(self.manifest.ids, self.manifest.paths, strict=True))

    def check(self, ids: Sequence[str]) -> None:
        """Raise DataError where these photos are not there any more."""
        if gone := [id_ for id_ in ids if id_ not in self.path_of]:
            raise DataError(
                f"{self.recipe.data.train}: {len(gone):,} of the run's {len(ids):,} photos are not there any more: "
                f"{some(gone, 3)}. Bring them back, or give the folder of a run on the photos as they are"
            )

    def alike(self, ids: Sequence[str], progress: Progress | None = None) -> tuple[tuple[str, ...], ...]:
        """For each of these photos the others among them that it is a near-duplicate of."""
        data = self.recipe.data
        if data.check != "decode":  # nobody has looked, and it would take as long as an epoch
            return ((),) * len(ids)
        row_of = {id_: row for row, id_ in enumerate(self.manifest.ids)}
        rows_N = np.array([row_of[id_] for id_ in ids], dtype=np.int64)
        seen = look(self.manifest, data.train, data.cache, progress, self.recipe.decode)
        cluster_N = clusters(seen.hash_NB[rows_N], data.near_bits)
        members: dict[int, list[str]] = {}
        for id_, cluster in zip(ids, cluster_N.tolist(), strict=True):
            members.setdefault(cluster, []).append(id_)
        return tuple(
            tuple(one for one in members[cluster][: _MOST_ALIKE + 1] if one != id_)
            for id_, cluster in zip(ids, cluster_N.tolist(), strict=True)
        )
