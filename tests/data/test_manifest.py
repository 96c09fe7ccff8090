"""The manifest: what it promises about ids, keys, sizes and fingerprints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.manifest import SCHEMA, Manifest
from engine.errors import DataError

ids_strategy = st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=12, unique=True)


def manifest_of(ids: list[str], **columns: object) -> Manifest:
    return Manifest.build({"id": ids, "path": [f"/photos/{n}.jpg" for n in range(len(ids))], **columns})


def test_columns_that_are_not_given_have_defaults() -> None:
    manifest = manifest_of(["a", "b"], label=["x", ""])
    assert manifest.table.schema == SCHEMA
    assert manifest.labels == ["x", ""]
    assert manifest.groups == ["", ""]
    assert manifest.folds_N.tolist() == [-1, -1]
    assert len(manifest.usable()) == 2


def test_an_id_used_twice_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="'아반떼'"):
        manifest_of(["아반떼", "b", "아반떼"])


def test_taking_a_row_twice_is_refused() -> None:
    with pytest.raises(DataError, match="'b'"):
        manifest_of(["a", "b"]).take([1, 1])


@given(ids_strategy, st.randoms())
def test_a_key_depends_on_the_id_alone(ids: list[str], random: object) -> None:
    manifest = manifest_of(ids)
    rows = np.arange(len(ids))
    random.shuffle(rows)  # type: ignore[attr-defined]
    some = rows[: len(rows) // 2 + 1]
    assert manifest.keys_N.dtype == np.int64
    assert len(set(manifest.keys_N.tolist())) == len(ids)
    assert manifest.take(some).keys_N.tolist() == manifest.keys_N[some].tolist()


def test_keys_are_the_same_on_every_machine() -> None:
    # BLAKE2b with an 8-byte digest of "a.jpg", little-endian, signed: `b2sum -l 64`.
    assert manifest_of(["a.jpg"]).keys_N.tolist() == [int.from_bytes(bytes.fromhex(KEY_OF_A), "little", signed=True)]


KEY_OF_A = "fe47f0026e12a789"


def test_take_keeps_the_order_asked_for() -> None:
    manifest = manifest_of(["a", "b", "c"], label=["x", "y", "z"]).take([2, 0])
    assert manifest.ids == ["c", "a"]
    assert manifest.labels == ["z", "x"]
    assert len(manifest.take([])) == 0


def test_sizes_are_upright() -> None:
    manifest = manifest_of(["a", "b", "c"], height=[10, 10, 10], width=[30, 30, 30], orientation=[1, 3, 6])
    assert manifest.sizes_N2.tolist() == [[10, 30], [10, 30], [30, 10]]


def test_usable_leaves_out_what_could_not_be_read() -> None:
    assert manifest_of(["a", "b"], status=["empty file", "ok"]).usable().ids == ["b"]


def test_the_fingerprint_sees_content_but_not_order() -> None:
    columns = {"label": ["x", "y"], "sha1": ["1", "2"]}
    manifest = manifest_of(["a", "b"], **columns)
    assert manifest.take([1, 0]).fingerprint == manifest.fingerprint
    for name, changed in {"label": ["x", "z"], "sha1": ["1", "3"], "id": ["a", "c"]}.items():
        others = columns | {"ids": ["a", "b"]} | {"ids" if name == "id" else name: changed}
        assert manifest_of(**others).fingerprint != manifest.fingerprint  # type: ignore[arg-type]
    assert manifest.take([0]).fingerprint != manifest.fingerprint
