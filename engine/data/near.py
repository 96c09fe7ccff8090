"""Near-duplicates: pictures whose perceptual hashes differ in few bits, also when mirrored or turned by quarters.

Comparing all pairs is quadratic. Two hashes that differ in at most 31 of 256 bits have, among 16 parts of 16 bits, one
that differs in at most one bit (of 31 differences no more than 15 parts can hold two); so the candidates are those that
share a part up to one bit, found by direct look-up in a table of 65,536 entries. Nothing is missed (Norouzi et al.
2012, "Fast search in Hamming space with multi-index hashing").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from engine.data.cache import cache_places, load_table, save_table
from engine.data.pixels import HASH_BYTES, HASH_SIDE

MOST_BITS = 31
_PARTS, _PART_BITS = 16, 16
_AT_ONCE = 1 << 21  # candidate pairs compared together: some 100 MB

_SCHEMA = pa.schema([("cluster", pa.int64())])
_FORMAT = "1"

Hashes = NDArray[np.uint8]  # (N, HASH_BYTES)
Numbers = NDArray[np.int64]


def clusters(hash_NB: Hashes, bits: int) -> Numbers:
    """cluster_N: samples of one number are near-duplicates of each other, directly or through others.

    `bits` (0 to 31) is how many of 256 may differ. Numbers are from 0, without gaps. Raises ValueError for other bits.
    """
    if not 0 <= bits <= MOST_BITS:
        raise ValueError(f"bits: {bits}, expected 0 to {MOST_BITS} of {8 * HASH_BYTES}")
    # Equal hashes (blank pages, by the thousand) would each be compared with all the others.
    unique_UB, number_N = np.unique(hash_NB, axis=0, return_inverse=True)
    pairs = [np.zeros((2, 0), dtype=np.int64), *_pairs(unique_UB, bits)]
    a, b = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(unique_UB), len(unique_UB)))
    _, cluster_U = connected_components(graph, directed=False)
    return cluster_U.astype(np.int64)[number_N.reshape(-1)]


def kept_clusters(hash_NB: Hashes, bits: int, source: str, cache: str) -> Numbers:
    """`clusters`, kept in the cache of a source for the next time that the same hashes are asked for: searching costs a
    quarter of what looking at the files does (`benchmarks/results/data_cpu.json`)."""
    places = cache_places(str(Path(source).absolute()), cache, "near")
    digest = hashlib.blake2b(hash_NB.tobytes() + bytes([bits]), digest_size=16).hexdigest()
    found = load_table(places, _SCHEMA, _FORMAT)
    if found is not None and found[1]["digest"] == digest:
        return np.asarray(found[0]["cluster"].to_numpy())
    cluster_N = clusters(hash_NB, bits)
    save_table(pa.table([cluster_N], schema=_SCHEMA), places, _FORMAT, {"digest": digest})
    return cluster_N


def distances(one_B: Hashes, hash_NB: Hashes) -> Numbers:
    """distance_N: in how many bits each hash differs from the one, in the best of the eight positions."""
    turned_8B = np.concatenate(list(_turns(one_B[None])))
    return np.bitwise_count(turned_8B[:, None] ^ hash_NB).sum(2, dtype=np.int64).min(0)


def _turns(hash_NB: Hashes) -> Iterator[Hashes]:
    """The hashes of the pictures as they are, then mirrored and turned by quarters, all eight ways.

    Mirroring a picture changes the sign of every odd frequency along that axis; transposing it transposes them.
    """
    bits_NVU = np.unpackbits(hash_NB, axis=1).reshape(-1, HASH_SIDE, HASH_SIDE)
    odd_U = (np.arange(HASH_SIDE) % 2).astype(np.uint8)
    for laid_NVU in (bits_NVU, bits_NVU.swapaxes(1, 2)):
        for flip_y in (0, 1):
            for flip_x in (0, 1):
                flipped_NVU = laid_NVU ^ (flip_x * odd_U) ^ (flip_y * odd_U[:, None])
                yield np.packbits(flipped_NVU.reshape(len(hash_NB), HASH_SIDE**2), axis=1)


def _pairs(hash_NB: Hashes, bits: int) -> Iterator[Numbers]:
    """(2, P) indices of hashes that differ in at most `bits`, the smaller first; a pair may come more than once."""
    words_N4, parts_NP = _words(hash_NB), _parts(hash_NB)
    first_N = np.ascontiguousarray(words_N4[:, 0])
    flips_F = np.array([0] if bits < _PARTS else [0, *(1 << bit for bit in range(_PART_BITS))])
    turned = [(_words(t), _parts(t)) for t in _turns(hash_NB)]
    for part in range(_PARTS):
        order_N = np.argsort(parts_NP[:, part], kind="stable")
        counts = np.bincount(parts_NP[:, part], minlength=1 << _PART_BITS)
        starts = np.concatenate([[0], np.cumsum(counts)])
        for turned_words_N4, turned_parts_NP in turned:
            first_turned_N = np.ascontiguousarray(turned_words_N4[:, 0])
            wanted = (turned_parts_NP[:, part, None] ^ flips_F).ravel()
            for at, b in _candidates(order_N, starts[wanted], counts[wanted]):
                a = at // len(flips_F)
                # A quarter of the bits is enough to tell nearly all apart, at a quarter of the memory read.
                a, b = _where(np.bitwise_count(first_turned_N[a] ^ first_N[b]) <= bits, a, b)
                a, b = _where(a < b, a, b)  # the other way round it is the same pair
                a, b = _where(np.bitwise_count(turned_words_N4[a] ^ words_N4[b]).sum(1) <= bits, a, b)
                yield np.stack([a, b])


def _where(kept: NDArray[np.bool_], a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
    at = np.flatnonzero(kept)
    return a[at], b[at]


def _candidates(order_N: Numbers, start_N: Numbers, count_N: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Each n with each of order_N[start_n : start_n + count_n], a bounded number at a time."""
    upto_N = np.cumsum(count_N)
    first = 0
    while first < len(count_N):
        done = upto_N[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(upto_N, done + _AT_ONCE, side="right")))
        counts = count_N[first:last]
        rows = np.repeat(np.arange(first, last), counts)
        within = np.arange(len(rows)) - np.repeat(upto_N[first:last] - counts - done, counts)
        yield rows, order_N[np.repeat(start_N[first:last], counts) + within]
        first = last


def _words(hash_NB: Hashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hash_NB).view(np.uint64)


def _parts(hash_NB: Hashes) -> Numbers:
    """The 16 parts of each hash, as whole numbers; each takes a bit of every row of frequencies, so that none is made
    of the fine ones alone, which change first."""
    bits_NVU = np.unpackbits(hash_NB, axis=1).reshape(-1, _PART_BITS, _PARTS)
    rolled = np.stack([np.roll(bits_NVU[:, v], v, axis=1) for v in range(_PART_BITS)], axis=1)
    return np.einsum("nvp,v->np", rolled, 1 << np.arange(_PART_BITS, dtype=np.int64))
