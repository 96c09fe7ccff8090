"""Which column of a table holds what: named by the recipe, else told by its name.

Names are tried in order. Those that this program has always known come first and say nothing; a name that is only like
one of them (Image, file name), or that others use, is told, because it is a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.data.sources.litter import tidy
from engine.data.tables import no_column
from engine.recipe.sections import DataSection

PATH_NAMES = ("path", "img_path", "image", "file", "filename")
LABEL_NAMES = ("label", "class", "target", "category")
ID_NAMES = ("ID", "id")
# What others call them, without capitals, spaces and underscores.
_OTHER_PATHS = (
    *("imagepath", "filepath", "imagefile", "imagefilename", "imgfile", "imagename", "imgname", "fname", "img"),
    *("images", "photo", "picture", "relativepath", "filenames", "paths", "files", "imgpaths"),
)
_OTHER_IDS = ("imageid", "imgid", "photoid", "pictureid", "fileid", "sampleid", "uuid")
_OTHER_LABELS = (
    *("labels", "classname", "labelname", "categoryname", "classlabel", "classes", "classid", "labelid"),
    *("categoryid", "y"),
)
COPY_COLUMNS = ("made_from", "mixed_with")  # written by engine data augment


@dataclass(frozen=True)
class Roles:
    """Which column of a table holds what; "" for none. `copies`: the columns of augmented copies, () without.

    `paths`: the columns that may hold paths, the likeliest first; `path` is one of them. `notices`: what was guessed.
    """

    path: str
    id: str
    label: str
    group: str
    fold: str
    copies: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def used(self) -> list[str]:
        return sorted({self.path, *self.paths, self.id, self.label, self.group, self.fold, *self.copies} - {""})


def column_roles(table_path: str, names: Sequence[str], section: DataSection, training: bool) -> Roles:
    """The columns that the recipe names, else those of usual names.

    Raises DataError, naming the key, for one that must be there and is not: of a training table all that the recipe
    names, of others the path alone.
    """
    notices: list[str] = []

    def find(key: str, wanted: str, usual: Sequence[str], others: Sequence[str], needed: bool) -> str:
        if not wanted:
            found, known = guess_column(names, usual, others)
            if found and not known:
                notices.append(f"{table_path}: column {found!r} is taken for data.{key}, by its name")
            return found
        found = _named(names, wanted)
        if not found and needed:
            raise no_column(table_path, wanted, key, list(names))
        if found and found != wanted:
            notices.append(f"{table_path}: column {found!r} is taken for data.{key} = {wanted!r}")
        return found

    id_column = find("id_column", section.id_column, [name for name in ID_NAMES if name in names], (), True)
    if section.path_column:
        paths = [find("path_column", section.path_column, (), (), True)]
    else:
        usual = [*[*(name for name in PATH_NAMES if name in names)][:1], id_column]
        paths = list(dict.fromkeys(name for name in (*usual, *_others(names)) if name))
    path_column = next(iter(paths), "")
    if not path_column:
        raise no_column(table_path, " or ".join((*PATH_NAMES, *ID_NAMES)), "path_column", list(names))
    others = _OTHER_LABELS if training else ()
    label_column = find("label_column", section.label_column, LABEL_NAMES, others, training)
    if training and not label_column:
        raise no_column(table_path, " or ".join(LABEL_NAMES), "label_column", list(names))
    return Roles(
        path=path_column,
        id=id_column,
        label=label_column,
        group=find("group_column", section.group_column, (), (), training),
        fold=find("fold_column", section.fold_column, (), (), training),
        copies=COPY_COLUMNS if set(COPY_COLUMNS) <= set(names) else (),
        paths=tuple(paths),
        notices=tuple(notices),
    )


def truth_columns(table_path: str, names: Sequence[str], section: DataSection) -> tuple[str, str]:
    """The columns of ids and of labels of a table that names no files. Raises DataError, naming the key."""
    found = []
    for key, wanted, usual, others in (
        ("id_column", section.id_column, (*ID_NAMES, *PATH_NAMES), (*_OTHER_IDS, *_OTHER_PATHS)),
        ("label_column", section.label_column, LABEL_NAMES, _OTHER_LABELS),
    ):
        column = (_named(names, wanted) if wanted else "") or guess_column(names, usual, others)[0]
        if not column:
            raise no_column(table_path, wanted or " or ".join(usual), key, list(names))
        found.append(column)
    return found[0], found[1]


def guess_column(names: Sequence[str], usual: Sequence[str], others: Sequence[str] = ()) -> tuple[str, bool]:
    """The column with one of the `usual` names, else with one like them or like one of `others`, else ""; and whether
    it is called exactly so."""
    exact = next((name for name in usual if name in names), "")
    if exact:
        return exact, True
    like: dict[str, str] = {}
    for name in names:
        like.setdefault(_plain(name), name)
    return next((like[key] for key in (*map(_plain, usual), *others) if key in like), ""), False


def _others(names: Sequence[str]) -> list[str]:
    """The columns that may hold paths by a name that is like a usual one, or that others use, the likeliest first."""
    wanted = [*map(_plain, PATH_NAMES), *_OTHER_PATHS, "id", *_OTHER_IDS]
    return sorted((name for name in names if _plain(name) in wanted), key=lambda name: wanted.index(_plain(name)))


def _named(names: Sequence[str], wanted: str) -> str:
    """The column that the recipe names, perhaps with other capitals where only one is meant; "" for none."""
    if wanted in names:
        return wanted
    like = [name for name in names if name and tidy(name).casefold() == tidy(wanted).casefold()]
    return like[0] if len(like) == 1 else ""


def _plain(name: str) -> str:
    return re.sub(r"[\s_.\-]+", "", tidy(name)).casefold()
