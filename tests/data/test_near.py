"""Near-duplicates: all pairs within the distance are found, in all eight positions, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.data.near import MOST_BITS, clusters, distances
from engine.data.pixels import HASH_BYTES, perceptual_hash


def same_parts(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, MOST_BITS), st.integers(0, 2**32 - 1))
def test_clusters_are_what_comparing_all_pairs_finds(bits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    hash_NB = random.integers(0, 256, (40, HASH_BYTES), dtype=np.uint8)
    for row in range(1, 30):  # chains of relatives, some just near enough and some just not
        flipped = np.zeros(HASH_BYTES * 8, dtype=np.uint8)
        flipped[random.choice(HASH_BYTES * 8, random.integers(0, 2 * bits + 2), replace=False)] = 1
        hash_NB[row] = hash_NB[random.integers(0, row)] ^ np.packbits(flipped)
    parts = np.arange(40)
    for a in range(40):
        for b in np.flatnonzero(distances(hash_NB[a], hash_NB) <= bits).tolist():
            parts[parts == parts[b]] = parts[a]
    found = clusters(hash_NB, bits)
    assert same_parts(found, parts)
    assert set(found.tolist()) == set(range(found.max() + 1))


def test_a_mirrored_or_turned_picture_is_the_same_one() -> None:
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (12, 12), dtype=np.uint8))
    picture = np.asarray(small.resize((160, 160), Image.Resampling.BICUBIC))
    ways = [np.rot90(side, turn) for side in (picture, picture[:, ::-1]) for turn in range(4)]
    others = [random.integers(0, 256, (64, 64), dtype=np.uint8) for _ in range(4)]
    hashes = np.stack([np.frombuffer(perceptual_hash(np.ascontiguousarray(p)), np.uint8) for p in [*ways, *others]])
    found = clusters(hashes, 8)
    assert len(set(found[:8].tolist())) == 1
    assert len(set(found.tolist())) == 5


def test_a_thousand_equal_hashes_are_one_cluster() -> None:
    hash_NB = np.zeros((1003, HASH_BYTES), dtype=np.uint8)
    hash_NB[1000:] = np.random.default_rng(0).integers(0, 256, (3, HASH_BYTES), dtype=np.uint8)
    found = clusters(hash_NB, 24)
    assert np.unique(found, return_counts=True)[1].max() == 1000 and len(set(found.tolist())) == 4


def test_no_pictures_make_no_clusters() -> None:
    assert clusters(np.zeros((0, HASH_BYTES), dtype=np.uint8), 24).tolist() == []


@pytest.mark.parametrize("bits", [-1, MOST_BITS + 1])
def test_a_distance_that_cannot_be_searched_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 31"):
        clusters(np.zeros((1, HASH_BYTES), dtype=np.uint8), bits)
