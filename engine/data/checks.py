"""What is wrong or odd about images and labels, found before training does.

Checking judges, and changes nothing: what training does about a finding is decided by the recipe (`clean.clean`), and
each finding names the key. Everything is found from the manifest and one look at each file, both cached, so a second
check costs next to nothing and says the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine import pictures
from engine.data.classes import groups_of
from engine.data.clean import apply_lists
from engine.data.describe import class_counts, describe
from engine.data.ingest import Progress
from engine.data.manifest import Manifest
from engine.data.near import distances, kept_clusters
from engine.data.pixels import PixelFacts, look
from engine.recipe.sections import DataSection, DecodeSection
from engine.recipe.sections.decode import DEFAULT_DECODE

TINY_SIDE = 64  # pixels of the shorter side, below which little can be seen
HUGE_PIXELS = 50_000_000
LONG_ASPECT = 4.0
BLANK_SPREAD = 4.0  # standard deviation of gray, of 255
FEW_IMAGES = 10  # of a class
UNEVEN = 10.0  # the largest class over the smallest

Severity = Literal["error", "warning", "note"]
Split = Literal["train", "test"]

_SPLITS: tuple[Split, Split] = ("train", "test")
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Sample:
    """An image that a finding is about. Height and width upright, in pixels; 0 when not known."""

    split: Split
    id: str
    path: str
    label: str
    height: int
    width: int


@dataclass(frozen=True)
class Case:
    """Images that belong together in a finding, and what there is to say about them."""

    samples: tuple[Sample, ...]
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """One kind of thing found. `advice` says what training does about it, or what to do."""

    kind: str
    title: str
    advice: str
    severity: Severity
    cases: tuple[Case, ...]

    @property
    def images(self) -> int:
        return sum(len(case.samples) for case in self.cases)

    @property
    def such_as(self) -> str:
        """The first case in a line: two of its images at most, and its note."""
        case = self.cases[0]
        ids = ", ".join(sample.id for sample in case.samples[:2])
        return ": ".join(part for part in (ids, case.note) if part)


@dataclass(frozen=True)
class Checked:
    """All findings about a source, and about a test source beside it."""

    source: str
    test: str
    facts: dict[str, Any]  # of the training images, see `describe`
    test_facts: dict[str, Any] | None
    groups: dict[str, int]  # images by class group; {} without groups
    findings: tuple[Finding, ...]
    samples: tuple[Sample, ...]  # all that can be used, training images first
    decode: DecodeSection = DEFAULT_DECODE  # how they were looked at

    def to_dict(self) -> dict[str, Any]:
        """For JSON: sizes and classes, and every finding with all its images."""
        return {
            "source": self.source,
            "test": self.test,
            **self.facts,
            "class_groups": self.groups,
            "test_images": self.test_facts,
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": finding.severity,
                    "title": finding.title,
                    "advice": finding.advice,
                    "images": finding.images,
                    "cases": [
                        {"note": case.note, "images": [vars(sample) for sample in case.samples]}
                        for case in finding.cases
                    ],
                }
                for finding in self.findings
            ],
        }


@dataclass(frozen=True)
class _Images:
    """Training and test images as one list of files with sound headers, in that order."""

    samples: list[Sample]
    sha1: list[str]
    facts: PixelFacts
    is_copy_N: NDArray[np.bool_]

    @property
    def sound_N(self) -> NDArray[np.bool_]:
        """Which of them decode."""
        return np.array([fault is None for fault in self.facts.faults], dtype=bool)

    def cases(self, rows: Sequence[int], notes: Sequence[str] = ()) -> tuple[Case, ...]:
        """A case for each row."""
        return tuple(
            Case((self.samples[row],), note) for row, note in zip(rows, notes or [""] * len(rows), strict=True)
        )


def check(
    manifest: Manifest,
    source: str,
    section: DataSection,
    test: tuple[Manifest, str] | None = None,
    progress: Progress | None = None,
    decode: DecodeSection = DEFAULT_DECODE,
) -> Checked:
    """Check the images of `source`, and against them those of a test source when one is given.

    Manifests are as `ingest` makes them, bad files included; names, aliases and lists of `section` are applied first.
    What can be decoded is what `decode` would take. `progress(done, total)` counts the files looked at. Raises
    DataError for lists that cannot be read.
    """
    named, _ = apply_lists(manifest.usable(), section)
    both = [(named, source), *([(test[0].usable(), test[1])] if test else [])]
    tables = [look(part, where, section.cache, progress, decode).table for part, where in both]
    samples = [sample for (part, _), split in zip(both, _SPLITS, strict=False) for sample in _samples(part, split)]
    images = _Images(
        samples=samples,
        sha1=[sha1 for part, _ in both for sha1 in part.table["sha1"].to_pylist()],
        facts=PixelFacts(pa.concat_tables(tables)),
        is_copy_N=np.concatenate([part.copies_N for part, _ in both]),
    )
    # What cannot be used is counted, too; classes are those that training knows.
    facts = describe(manifest) | {"classes": class_counts(named.usable())}
    found = [
        _unreadable([manifest, *([test[0]] if test else [])], images),
        *_pixels(images),
        *_equal(images),
        *_near(images, source, section),
        *_sizes(images, [part for part, _ in both]),
        *_classes(facts["classes"]),
    ]
    counts: dict[str, int] = {}
    for name, group in zip(facts["classes"], groups_of(list(facts["classes"]), section), strict=False):
        counts[group] = counts.get(group, 0) + facts["classes"][name]
    return Checked(
        source=source,
        test=test[1] if test else "",
        facts=facts,
        test_facts=describe(test[0]) if test else None,
        groups=counts,
        findings=tuple(sorted((f for f in found if f.cases), key=lambda f: _SEVERITIES.index(f.severity))),
        samples=tuple(samples),
        decode=decode,
    )


def _samples(manifest: Manifest, split: Split) -> list[Sample]:
    columns = (manifest.ids, manifest.paths, manifest.labels, manifest.sizes_N2.tolist())
    return [Sample(split, id_, path, label, *size) for id_, path, label, size in zip(*columns, strict=True)]


def _unreadable(manifests: Sequence[Manifest], images: _Images) -> Finding:
    samples = [sample for part, split in zip(manifests, _SPLITS, strict=False) for sample in _samples(part, split)]
    samples += images.samples
    faults = [fault for part in manifests for fault in part.faults] + images.facts.faults
    cases = [Case((sample,), str(fault)) for sample, fault in zip(samples, faults, strict=True) if fault is not None]
    advice = "Left out of training; images to predict are answered with the class shares."
    return Finding("unreadable", "Files that cannot be decoded", advice, "error", tuple(cases))


def _pixels(images: _Images) -> Iterator[Finding]:
    """What one look at a file shows."""
    doubts, formats = images.facts.doubts, images.facts.formats
    rows = [row for row, doubt in enumerate(doubts) if doubt]
    yield Finding(
        "damaged",
        "Damaged files that still decode",
        "Trained on. A part of the picture is missing or wrong: replace the file, or name it in data.exclude.",
        "warning",
        images.cases(rows, [doubts[row] for row in rows]),
    )
    suffixes = [Path(sample.path).suffix.lower() for sample in images.samples]
    rows = [row for row, name in enumerate(formats) if name and suffixes[row] not in pictures.suffixes(name)]
    yield Finding(
        "wrong_extension",
        "Wrong file extensions",
        "Harmless here: files are decoded by their content. Other programs may refuse them.",
        "note",
        images.cases(rows, [f"{formats[row]} in a {suffixes[row] or 'file without extension'}" for row in rows]),
    )
    flat_N = images.facts.spread_N < BLANK_SPREAD
    rows = np.flatnonzero(flat_N & np.array([bool(name) for name in formats]) & images.sound_N).tolist()
    yield Finding(
        "blank",
        "Blank images",
        "Trained on. Nearly all of one colour: see whether they show anything, or name them in data.exclude.",
        "warning",
        images.cases(rows),
    )


def _equal(images: _Images) -> Iterator[Finding]:
    """Files with the same bytes."""
    alike: dict[str, list[int]] = {}
    for row, sha1 in enumerate(images.sha1):
        alike.setdefault(sha1, []).append(row)
    several = [_case(images, rows) for rows in alike.values() if len(rows) > 1]
    yield from _sorted_out(
        several,
        (
            "equal_leaks",
            "Test images that are among the training images",
            "A score on these says nothing. Take them out of one of the two.",
        ),
        (
            "equal_conflicts",
            "The same file under several labels",
            'Left out of training (data.conflicts = "drop"). Correct one with data.relabel, or name both classes '
            "in data.aliases if they mean the same.",
        ),
        (
            "equal",
            "Exact duplicates",
            'The first stands for all in training (data.duplicates = "collapse").',
        ),
    )


def _near(images: _Images, source: str, section: DataSection) -> Iterator[Finding]:
    """Pictures that look the same, though their bytes differ."""
    rows_n = np.flatnonzero(images.sound_N & ~images.is_copy_N)
    hash_NB = images.facts.hash_NB
    cluster_n = kept_clusters(hash_NB[rows_n], section.near_bits, source, section.cache)
    alike: dict[int, list[int]] = {}
    for row, cluster in zip(rows_n.tolist(), cluster_n.tolist(), strict=True):
        alike.setdefault(cluster, []).append(row)
    several = []
    for rows in alike.values():
        first = {images.sha1[row]: row for row in reversed(rows)}  # equal files have been told of
        unlike = sorted(first.values())
        if len(unlike) > 1:
            apart = distances(hash_NB[unlike[0]], hash_NB[unlike[1:]]).max()
            several.append(_case(images, unlike, f"differ in {apart} of 256 bits"))
    yield from _sorted_out(
        several,
        (
            "near_leaks",
            "Test images that nearly equal training images",
            "A score on these says little. Take them out of one of the two.",
        ),
        (
            "near_conflicts",
            "Nearly the same picture under several labels",
            "Trained on as they are, in one fold. A label may be wrong: data.relabel; or the classes mean the same: "
            "data.aliases.",
        ),
        (
            "near",
            "Near-duplicates",
            'Never split across training and validation (data.folds.near_duplicates = "together").',
        ),
    )


def _case(images: _Images, rows: Sequence[int], note: str = "") -> Case:
    return Case(tuple(images.samples[row] for row in rows), note)


def _sorted_out(cases: Sequence[Case], *kinds: tuple[str, str, str]) -> Iterator[Finding]:
    """Cases of images that are alike: across the splits, under several labels (either may be), and the rest."""
    leaks, several, rest = [], [], []
    for case in cases:
        across = len({sample.split for sample in case.samples}) > 1
        labels = {sample.label for sample in case.samples if sample.split == "train"}
        leaks += [case] if across else []
        several += [case] if len(labels) > 1 else []
        rest += [] if across or len(labels) > 1 else [case]
    severities: tuple[Severity, ...] = ("error", "error", "note")
    for (kind, title, advice), severity, chosen in zip(kinds, severities, (leaks, several, rest), strict=True):
        yield Finding(kind, title, advice, severity, tuple(chosen))


def _sizes(images: _Images, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    sizes_N2 = np.array([(sample.height, sample.width) for sample in images.samples], dtype=np.int64).reshape(-1, 2)
    low_N, high_N = sizes_N2.min(1), sizes_N2.max(1)
    sized = [f"{height} x {width}" for height, width in sizes_N2.tolist()]

    def where(chosen_N: NDArray[np.bool_]) -> tuple[Case, ...]:
        rows = np.flatnonzero(chosen_N).tolist()
        return images.cases(rows, [sized[row] for row in rows])

    yield Finding(
        "tiny",
        "Tiny images",
        f"Trained on, enlarged. A side below {TINY_SIDE} pixels shows little: look for better copies.",
        "warning",
        where(low_N < TINY_SIDE),
    )
    yield Finding(
        "huge",
        "Huge images",
        f"Trained on. Above {HUGE_PIXELS // 1_000_000} million pixels each costs more time to decode than to train on: "
        "shrink the files.",
        "warning",
        where(sizes_N2.prod(1) > HUGE_PIXELS),
    )
    yield Finding(
        "long",
        "Very long or very high images",
        f"Trained on. A side is more than {LONG_ASPECT:g} times the other: much is cut off, or the letterbox is large.",
        "note",
        where(high_N > LONG_ASPECT * np.maximum(low_N, 1)),
    )
    turned = np.concatenate([m.table["orientation"].to_numpy() for m in manifests])
    rows = np.flatnonzero(turned != 1).tolist()
    yield Finding(
        "turned",
        "Turned by EXIF",
        "Decoded upright. Programs that pass over EXIF see these images turned or mirrored.",
        "note",
        images.cases(rows, [f"orientation {turned[row]}" for row in rows]),
    )


def _classes(counts: dict[str, int]) -> Iterator[Finding]:
    """What the counts and the names of the classes say; their cases hold no images."""
    few = [Case((), f"{name}: {count}") for name, count in counts.items() if count < FEW_IMAGES]
    yield Finding(
        "few",
        f"Classes with fewer than {FEW_IMAGES} images",
        "Each fold validates on one or two of them, or on none: add images, or set fewer data.folds.count.",
        "warning",
        tuple(few),
    )
    uneven: list[Case] = []
    if counts and max(counts.values()) > UNEVEN * min(counts.values()):
        most, least = (pick(counts, key=lambda name: counts[name]) for pick in (max, min))
        uneven.append(Case((), f"{most}: {counts[most]}; {least}: {counts[least]}"))
    yield Finding(
        "uneven",
        "Uneven classes",
        "Accuracy will look better than macro F1. Sample the rare classes more often, or weigh the loss by class.",
        "note",
        tuple(uneven),
    )
    alike: dict[str, list[str]] = {}
    for name in counts:
        words = re.findall(r"[^\W_]+", name.casefold())
        alike.setdefault("".join(words), []).append(name)
        alike.setdefault(" ".join(sorted(words)), []).append(name)
    same = {tuple(dict.fromkeys(names)) for names in alike.values()}
    yield Finding(
        "alike_names",
        "Class names of the same words",
        "They may mean one class: if they do, list them in data.aliases.",
        "warning",
        tuple(Case((), " = ".join(names)) for names in sorted(same) if len(names) > 1),
    )
