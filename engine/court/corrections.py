"""Decisions become what a recipe reads: a table for `data.relabel`, and a list for `data.exclude_file`.

They hold what the recipe's own table and list held before, so that naming the new ones loses nothing. Labels and files
stay as they are: training without these two keys has the old labels back.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

from engine.court.decisions import DROP, RELABEL, Decision
from engine.data.ids import find_samples
from engine.data.manifest import Manifest
from engine.data.names import ClassNames
from engine.data.tables import read_list, read_pairs
from engine.errors import DataError
from engine.files import write_text
from engine.recipe.sections import DataSection


@dataclasses.dataclass(frozen=True)
class Corrections:
    """New labels by photo, and the photos that are left out."""

    label_of: Mapping[str, str]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, decided: Mapping[str, Decision], section: DataSection, photos: Manifest) -> Corrections:
        """What `decided` (see `standing`) and the recipe's own lists come to. photos: all that the recipe lists.

        Raises DataError for a label that the recipe's label table would make another class of.
        """
        label_of: dict[str, str] = {}
        if section.relabel:
            pairs, _ = read_pairs(section.relabel, "relabel")
            found = find_samples(photos, [name for name, _ in pairs], section.relabel)
            for row, (name, label) in zip(found, pairs, strict=True):
                label_of[name if row is None else photos.ids[row]] = label
        names = ClassNames.of(section)
        for id_, one in decided.items():
            if one.kind == RELABEL:
                if (becomes := names.class_of(one.new)) != one.new:
                    raise DataError(
                        f"{id_!r} is to be {one.new!r}, which data.label_names or data.aliases make {becomes!r}. "
                        "Give it another name in the court"
                    )
                label_of[id_] = one.new
        dropped = [id_ for id_, one in decided.items() if one.kind == DROP]
        before = read_list(section.exclude_file, "exclude_file") if section.exclude_file else []
        if strange := [id_ for id_ in dropped if id_.startswith("#") or id_ != id_.strip()]:
            raise DataError(f"{strange[0]!r} cannot stand in a list of names; name it in data.exclude of the recipe")
        if spaced := [id_ for id_ in label_of if id_ != id_.strip()]:
            raise DataError(f"{spaced[0]!r} cannot stand in a table, which knows no spaces around a name; rename it")
        return cls(label_of, tuple(dict.fromkeys((*before, *dropped))))

    def write(self, path: Path) -> list[str]:
        """Write the table, and beside it the list where there is anything to leave out; the `--set`s that train with
        them."""
        text = io.StringIO()
        left_out = set(self.left_out)
        rows = [(id_, label) for id_, label in self.label_of.items() if id_ not in left_out]
        csv.writer(text, lineterminator="\n").writerows([("id", "label"), *rows])
        sets = []
        if rows:
            write_text(path, text.getvalue())
            sets.append(f"data.relabel={path}")
        if self.left_out:
            beside = path.with_name(f"{path.stem}_left_out.txt")
            write_text(beside, "\n".join(("# left out by the label court", *self.left_out)) + "\n")
            sets.append(f"data.exclude_file={beside}")
        return sets
