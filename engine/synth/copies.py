"""Augmented copies on disk: named kinds of change, several copies of each, and a table that trains without leaking.

Everything is drawn and run as in training (policy, extras, one pass), addressed by (seed, number of the copy, id of the
source), so the same command makes the same files whatever else is in the folder. The table lists the originals where
they lie and the copies with what they were made from; training then holds a copy back whenever its original is
validated, which a folder of copies sorted by class could not say.

A mixed copy is mixed with another image of its class, because a table holds one label a row; it is held back with
either of the two.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from engine.augment.rng import hashes, uniforms
from engine.data.clean import clean
from engine.data.ids import without_suffix
from engine.data.ingest import Progress
from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.files import write_text
from engine.kernels import Ragged
from engine.loader.neighbourhood import apply_extras
from engine.loader.passes import execute
from engine.loader.source import Files
from engine.loader.stream import ImageStream
from engine.quarantine import Quarantine
from engine.recipe.sections import DataSection, DecodeSection
from engine.recipe.sections.decode import DEFAULT_DECODE
from engine.store.claim import Claim, claim
from engine.synth.kinds import KINDS, SEPARATOR, Change
from engine.system import cores

TABLE, MARKER, PICTURES = "train.csv", "augment.json", "images"
QUALITY = 92  # of the JPEG files
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class CopySpec:
    """What is to be made of every image.

    kinds: names of KINDS; several joined by "+" are done to one image. copies: of each kind and image. longest: the
    copies' longer side in pixels at most; 0: the original's. border: what shows beyond the image.

    Raises RecipeError for an unknown kind, or impossible numbers.
    """

    kinds: tuple[str, ...]
    copies: int = 1
    longest: int = 0
    seed: int = 0
    border: Literal["reflect", "edge", "constant"] = "reflect"

    def __post_init__(self) -> None:
        for name in (name for kind in self.kinds for name in kind.split(SEPARATOR)):
            if name not in KINDS:
                known = ", ".join(KINDS)
                raise RecipeError(f"there is no kind {name!r}; the kinds are {known}, or several joined by +")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or self.copies < 1:
            raise RecipeError("give at least one kind, each once, and at least one copy")


@dataclasses.dataclass(frozen=True)
class CopiesWritten:
    """What came of it: the table, how many originals and copies it lists, and files that could not be decoded."""

    table: Path
    originals: int
    copies: int
    left_out: Quarantine


@dataclasses.dataclass(frozen=True)
class _Copy:
    """One file to be made: the n-th copy of a row by a kind, perhaps mixed with another row (else -1)."""

    row: int
    kind: str
    number: int
    partner: int
    path: str  # below the folder


def originals(
    manifest: Manifest,
    section: DataSection,
    progress: Progress | None = None,
    decode: DecodeSection = DEFAULT_DECODE,
) -> tuple[Manifest, list[str]]:
    """The samples of `section.train` that copies are made of, and what was done to find them, in words.

    They are those that training would keep (see `clean`), with labels as found: the table is read by the same section
    again. `progress(done, total)` counts images looked at. Raises as `clean` does.
    """
    cleaned = clean(manifest, section, progress, decode)
    kept = set(cleaned.manifest.ids)
    rows = [row for row, id_ in enumerate(manifest.ids) if id_ in kept and not manifest.copies_N[row]]
    return manifest.take(rows), list(cleaned.notices)


def write_copies(
    manifest: Manifest,
    section: DataSection,
    folder: Path,
    spec: CopySpec,
    progress: Progress | None = None,
    decode: DecodeSection = DEFAULT_DECODE,
) -> CopiesWritten:
    """Write augmented copies of the samples of `manifest` and the table that lists all into `folder`.

    `manifest` is what is trained on, with labels as found; `section` names the columns of the table. What an
    interrupted command made is not made again. Raises RecipeError when the folder holds other copies, DataError when it
    holds anything else.
    """
    _claim(folder, manifest, spec)
    changes = {kind: Change.of(kind, spec.border) for kind in spec.kinds}
    copies = list(_planned(manifest, spec, changes))
    missing = [copy for copy in copies if not (folder / copy.path).is_file()]
    batches = list(_batches(missing))
    rows = [np.unique([row for c in batch for row in (c.row, c.partner) if row >= 0]) for batch in batches]
    stream = ImageStream(
        Files(manifest.paths), rows, decode.model_copy(update={"device": "cpu", "decoder": "auto"}), torch.device("cpu")
    )
    done, left_out = len(copies) - len(missing), Quarantine()
    with ThreadPoolExecutor(max(2, cores())) as writers:
        for batch, decoded in zip(batches, stream, strict=True):
            images = dict(zip(decoded.rows_B.tolist(), decoded.images.tensors, strict=True))
            for row, fault in decoded.faults.items():
                left_out.add(manifest.ids[row], fault, manifest.paths[row])
            writing = []
            for copy in batch:
                if copy.row in images and (copy.partner < 0 or copy.partner in images):
                    key = int(manifest.keys_N[copy.row])
                    pixels_HW3 = _picture(copy, images, key, spec, changes[copy.kind])
                    writing.append(writers.submit(_save, folder / copy.path, pixels_HW3))
            for written in writing:
                written.result()
            done += len(batch)
            if progress:
                progress(done, len(copies))
    there = [copy for copy in copies if (folder / copy.path).is_file()]
    write_text(folder / TABLE, _table(manifest, section, folder, there))
    return CopiesWritten(folder / TABLE, len(manifest), len(there), left_out)


def _claim(folder: Path, manifest: Manifest, spec: CopySpec) -> None:
    marker = folder / MARKER
    if not marker.is_file() and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty and holds no augmented copies; choose a new or an empty folder")
    content = dataclasses.asdict(spec) | {"data_fingerprint": manifest.fingerprint}
    claim(Claim(marker, "a set of copies", content, "Choose another folder, or repeat the command as it was"))


def _planned(manifest: Manifest, spec: CopySpec, changes: Mapping[str, Change]) -> Iterator[_Copy]:
    """Every copy there is to make, source by source, so that a source is decoded once."""
    stems = _stems(manifest)
    partners = {
        (kind, number): _partners(manifest, spec.seed, number) if changes[kind].mix else None
        for kind in spec.kinds
        for number in range(spec.copies)
    }
    for row in range(len(manifest)):
        for kind in spec.kinds:
            for number in range(spec.copies):
                mates = partners[kind, number]
                if mates is None or mates[row] >= 0:
                    path = f"{PICTURES}/{stems[row]}__{kind}_{number + 1}.jpg"
                    yield _Copy(row, kind, number, -1 if mates is None else mates[row], path)


def _stems(manifest: Manifest) -> list[str]:
    """For each sample a path for its copies, made of its id, distinct."""
    stems = []
    taken: set[str] = set()
    for id_, key in zip(manifest.ids, manifest.keys_N.tolist(), strict=True):
        path = PurePosixPath(without_suffix(id_.replace("\\", "/")))
        parts = [part for part in path.parts if part not in ("/", "..")]
        stem = "/".join(parts) or "image"
        if stem.casefold() in taken:  # a.jpg beside a.png
            stem = f"{stem}_{key & 0xFFFFFFFF:08x}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _partners(manifest: Manifest, seed: int, number: int) -> list[int]:
    """For each row another of its class, drawn by its key; -1 where it is the only one."""
    members: dict[str, list[int]] = {}
    for row, label in enumerate(manifest.labels):
        members.setdefault(label, []).append(row)
    place = {row: at for rows in members.values() for at, row in enumerate(rows)}
    draws = hashes(seed, number, torch.from_numpy(manifest.keys_N), "offline/partner").tolist()
    partners = []
    for row, label in enumerate(manifest.labels):
        mates = members[label]
        step = 1 + draws[row] % (len(mates) - 1) if len(mates) > 1 else 0
        partners.append(mates[(place[row] + step) % len(mates)] if step else -1)
    return partners


def _batches(copies: Sequence[_Copy]) -> Iterator[list[_Copy]]:
    """The copies of a few sources at a time."""
    batch: list[_Copy] = []
    rows: set[int] = set()
    for copy in copies:
        if copy.row not in rows and len(rows) == _BATCH:
            yield batch
            batch, rows = [], set()
        batch.append(copy)
        rows.add(copy.row)
    if batch:
        yield batch


def _picture(copy: _Copy, images: Mapping[int, Tensor], key: int, spec: CopySpec, change: Change) -> np.ndarray:
    """The copy, uint8 (height, width, 3)."""
    sources = [images[copy.row], *([images[copy.partner]] if change.mix else [])]
    keys_B = torch.tensor([key, ~key][: len(sources)])  # the partner is drawn by an address of its own here
    height, width = _size(images[copy.row], change, keys_B, copy, spec)
    ragged = Ragged(sources)
    plan = change.policy.draw(keys_B, ragged.sizes_B2, height, width, spec.seed, copy.number, change.mix)
    extras = change.policy.extras(keys_B, spec.seed, copy.number)
    if extras is not None:
        ragged, plan = apply_extras(extras, ragged, plan)
    pixels_CHW = execute("auto", ragged, plan)[0] + 0.5  # what the pass took off as the mean
    if change.shadow:
        pixels_CHW = pixels_CHW * _shadow(keys_B[:1], spec.seed, copy.number, height, width)
    return (pixels_CHW.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _size(image_HW3: Tensor, change: Change, keys_B: Tensor, copy: _Copy, spec: CopySpec) -> tuple[int, int]:
    """Height and width of the copy: the original's, turned with it, and no longer than wished."""
    height, width = image_HW3.shape[:2]
    if change.policy.section.quarter_turn:
        which = float(uniforms(spec.seed, copy.number, keys_B[:1], {"quarter_turn": 2})["quarter_turn"][0, 1])
        if int(1 + which * 3) % 2 == 1:  # as the policy draws it
            height, width = width, height
    scale = min(1.0, spec.longest / max(height, width)) if spec.longest else 1.0
    return max(1, round(height * scale)), max(1, round(width * scale))


def _shadow(key_1: Tensor, seed: int, number: int, height: int, width: int) -> Tensor:
    """Factors (height, width): half of the image, beyond a soft line in any direction, is 40 to 70% darker."""
    angle, place, depth, soft = uniforms(seed, number, key_1, {"offline/shadow": 4})["offline/shadow"][0].tolist()
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    across = x * np.cos(2 * np.pi * angle) + y * np.sin(2 * np.pi * angle) - 0.8 * (place - 0.5)
    return 1 - (0.4 + 0.3 * depth) * torch.sigmoid(across / (0.01 + 0.09 * soft))


def _save(path: Path, pixels_HW3: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")  # renamed when whole, but not synced: a lost picture is made again
    part.write_bytes(simplejpeg.encode_jpeg(pixels_HW3, quality=QUALITY, colorsubsampling="420"))
    part.replace(path)


def _table(manifest: Manifest, section: DataSection, folder: Path, copies: Sequence[_Copy]) -> str:
    columns = [section.id_column or "id", section.path_column or "path", section.label_column or "label"]
    grouped, folded = any(manifest.groups), bool((manifest.folds_N >= 0).any())
    columns += [section.group_column or "group"] if grouped else []
    columns += [section.fold_column or "fold"] if folded else []
    columns += ["made_from", "mixed_with", "kind"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)

    def write(row: int, id_: str, path: str, *rest: str) -> None:
        shared = [manifest.labels[row]]
        shared += [manifest.groups[row]] if grouped else []
        shared += [str(manifest.folds_N[row])] if folded else []
        writer.writerow([id_, path, *shared, *rest])

    for row, (id_, path) in enumerate(zip(manifest.ids, manifest.paths, strict=True)):
        write(row, id_, Path(os.path.relpath(path, folder.absolute())).as_posix(), "", "", "")
    for copy in copies:
        partner = manifest.ids[copy.partner] if copy.partner >= 0 else ""
        write(copy.row, copy.path, copy.path, manifest.ids[copy.row], partner, copy.kind)
    return text.getvalue()
