"""Labels as people write them, and the classes they stand for.

A label passes two steps: a table turns it into a class name (a number of train.csv into a word, a Korean name into
Latin letters), and names that mean the same become the first of them. Training, prediction and scores know only what
comes out; a submission asks for what went in, so both ways are kept here, and both are kept with a trained model as
part of its recipe: `resolved` reads the table into the section.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from engine.data.manifest import Manifest
from engine.data.tables import read_pairs
from engine.errors import DataError, RecipeError
from engine.files import write_text
from engine.recipe.sections import DataSection
from engine.text import nfc


@dataclass(frozen=True)
class ClassNames:
    """How labels become classes, and back. All names are in Unicode form NFC."""

    name_of: Mapping[str, str] = field(default_factory=dict)  # label as found -> class name
    aliases: tuple[tuple[str, ...], ...] = ()  # class names that mean the first of them
    columns: Literal["split", "each", "first"] = "split"  # data.alias_columns

    @classmethod
    def of(cls, section: DataSection) -> Self:
        """Raises DataError when the label table cannot be read, RecipeError for names that contradict each other."""
        pairs = dict(_pairs(section))
        taken: dict[str, str] = {}
        aliases = []
        for names in section.aliases:
            # An alias may be written as it is found or as the label table calls it.
            group = tuple(dict.fromkeys(pairs.get(nfc(name), nfc(name)) for name in names))
            for name in group:
                if name in taken:
                    raise RecipeError(f"data.aliases: {name!r} stands in two lists; join them")
                taken[name] = group[0]
            aliases.append(group)
        return cls(pairs, tuple(aliases), section.alias_columns)

    def class_of(self, label: str) -> str:
        """The class a label as found belongs to; "" stays ""."""
        name = self.name_of.get(label, label)
        return self._first.get(name, name)

    def found_as(self, name: str) -> tuple[str, ...]:
        """The labels as found that become class `name`, the class's own before those of its aliases."""
        return tuple(label for member in self.alike(name) for label in self._labels_of.get(member, (member,)))

    def known_as(self, name: str) -> tuple[str, ...]:
        """Every name for a class: as it is found, and what it and its aliases are called."""
        return tuple(dict.fromkeys((*self.found_as(name), *self.alike(name))))

    def alike(self, name: str) -> tuple[str, ...]:
        """Class `name` and its aliases."""
        return self._group_of.get(name, (name,))

    def shares(self, classes: Sequence[str | None]) -> tuple[float, ...]:
        """Of the columns of a submission that hold these classes (None: no class's), what part of the class's
        probability each holds."""
        shares, seen = [], set()
        for name in classes:
            if name is None or self.columns == "each":
                shares.append(1.0)
            elif self.columns == "split":
                shares.append(1 / classes.count(name))
            else:
                shares.append(float(name not in seen))
            seen.add(name)
        return tuple(shares)

    @cached_property
    def _group_of(self) -> dict[str, tuple[str, ...]]:
        return {group[0]: group for group in self.aliases}

    @cached_property
    def _first(self) -> dict[str, str]:
        return {name: group[0] for group in self.aliases for name in group}

    @cached_property
    def _labels_of(self) -> dict[str, tuple[str, ...]]:
        labels: dict[str, list[str]] = {}
        for label, name in self.name_of.items():
            labels.setdefault(name, []).append(label)
        return {name: tuple(found) for name, found in labels.items()}


AS_FOUND = ClassNames()
"""Every label is its own class."""


def resolved(section: DataSection) -> DataSection:
    """The section with its label table read into it: a recipe that needs no file beside it. Raises DataError."""
    return section.model_copy(update={"label_names": tuple(_pairs(section)), "label_table": ""})


def with_classes(manifest: Manifest, names: ClassNames) -> Manifest:
    """The samples with classes in place of labels as found."""
    return manifest.replace("label", [names.class_of(label) for label in manifest.labels])


def latin_names(classes: Sequence[str]) -> list[tuple[str, str]]:
    """(class, its name in Latin letters, digits and _), distinct, for `data.label_table`.

    Letter by letter, by the anyascii tables, so that a name can be recognised in its romanised form.
    """
    from anyascii import anyascii  # only this command needs its tables

    taken: set[str] = set()
    pairs = []
    for name in classes:
        plain = "".join(c if c.isalnum() or c in "_-." else "_" for c in anyascii(name)).strip("_") or "class"
        latin, number = plain, 2
        while latin.lower() in taken:  # also distinct where file names ignore case
            latin, number = f"{plain}_{number}", number + 1
        taken.add(latin.lower())
        pairs.append((name, latin))
    return pairs


def write_label_table(labels: Sequence[str], path: Path) -> None:
    """Write a .csv with each label as found and its name in Latin letters, to be mended by hand where wanted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "name"])
    writer.writerows(latin_names(labels))
    write_text(path, text.getvalue())


def _pairs(section: DataSection) -> list[tuple[str, str]]:
    """(label as found, class name) of the table and of the recipe, which comes last and so counts."""
    pairs: dict[str, str] = {}
    for label, name in read_pairs(section.label_table, "label_table")[0] if section.label_table else ():
        if pairs.setdefault(label, name) != name:
            raise DataError(
                f"{section.label_table}: label {label!r} has two names: {pairs[label]!r}, {name!r}. Keep one"
            )
    pairs |= {nfc(label): nfc(name) for label, name in section.label_names}
    if empty := [label for label, name in pairs.items() if not name]:
        raise DataError(f"{section.label_table or 'data.label_names'}: label {empty[0]!r} has no class name")
    return list(pairs.items())
