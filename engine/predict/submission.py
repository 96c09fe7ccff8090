"""submission.csv: predictions in a shape that somebody else decided.

A sample submission is a contract: its columns, their order, its rows and their order. `Sheet` reads it before the
first image is decoded, so that a missing id or an unknown class costs a second and not a night; writing afterwards
cannot fail for these reasons.

One column beside the id may ask for labels or for a probability, and only its values tell: numbers with a fraction ask
for a probability, classes (and placeholders such as 0) for labels. A probability is that of the class that the column
is called after; of two classes else that of the positive one, and of more it is refused.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.data.ids import find_ids
from engine.data.names import AS_FOUND, ClassNames
from engine.data.sources.litter import NO_VALUE
from engine.data.tables import open_table
from engine.errors import DataError
from engine.files import atomic_write
from engine.predictions import DIGITS, Predictions
from engine.text import nfc, similar, some

_POSITIVE = frozenset({"1", "yes", "true", "positive"})
_NEGATIVE = frozenset({"0", "no", "false", "negative"})
_NOTHING = NO_VALUE | {"", "na", "none"}  # what stands where nothing was filled in
# Words that people put around a class's name in a column of its probability: p_cat, prob_of_cat, is_cat, has_cat.
_AROUND = {"p", "prob", "proba", "probability", "pred", "prediction", "predicted", "score"}
_AROUND |= {"of", "is", "has", "class", "label", "target"}


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The shape of a submission file.

    columns: the header, the id's column first. contents: for each further column the class whose probability it holds,
    or None for the label. ids: what stands in the first column, row by row. sample_ids: the id that answers each row.
    left_out: ids that were predicted but that the sample file does not ask for. shares: for each further column, what
    part of its class's probability it holds. labels: how a class is written as a label, where not by its own name.
    notices: how the sample file was understood, where it could have been understood otherwise.
    """

    columns: tuple[str, ...]
    contents: tuple[str | None, ...]
    ids: tuple[str, ...]
    sample_ids: tuple[str, ...]
    left_out: tuple[str, ...]
    shares: tuple[float, ...]
    labels: Mapping[str, str]
    notices: tuple[str, ...] = ()

    @classmethod
    def plain(cls, ids: Sequence[str], classes: Sequence[str], names: ClassNames = AS_FOUND) -> Self:
        """Without a sample file: id, label, then one probability column a class, and one for each of its aliases."""
        contents = (None, *(name for name in classes for _ in names.alike(name)))
        columns = ("id", "label", *(alias for name in classes for alias in names.alike(name)))
        return cls(columns, contents, tuple(ids), tuple(ids), (), names.shares(contents), {})

    @classmethod
    def like(
        cls,
        sample: Path,
        ids: Sequence[str],
        classes: Sequence[str],
        names: ClassNames = AS_FOUND,
        positive: str = "",
    ) -> Self:
        """The shape of the table `sample`, to be filled with predictions for `ids` over `classes`.

        Its columns may be any of a class's names: its own, an alias, or the label that `names` made it of, which is
        also how a label is written; in any case of letters, and with words such as p_ or is_ around it. A single column
        of probabilities is about the class `positive`; "" where the column's name or the classes' are to tell. Raises
        DataError naming the file and the ids or columns that do not fit.
        """
        columns, lines, said = _read_sample(sample)
        known = {name: names.known_as(name) for name in classes}
        _check_index(sample, columns, [line[0] for line in lines], known)
        contents: tuple[str | None, ...]
        if len(columns) == 2:
            values = [re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", line[1].strip()) for line in lines]  # decimal commas
            one, notices = _content_of(sample, columns[1], values, known, positive)
            contents = (one,)
        else:
            contents, notices = _contents_of(sample, columns[1:], known), ()
        labels = {name: names.found_as(name)[0] for name in classes}
        rows = tuple(line[0] for line in lines)
        return cls(
            columns, contents, rows, *_match(sample, rows, ids), names.shares(contents), labels, (*said, *notices)
        )


def write_submission(path: Path, sheet: Sheet, predictions: Predictions) -> None:
    """Write `predictions` in the shape of `sheet` as CSV (UTF-8, "\\n" line ends), atomically."""
    row_of = {sample_id: row for row, sample_id in enumerate(predictions.ids)}
    probabilities_NC = predictions.probabilities_NC[[row_of[sample_id] for sample_id in sheet.sample_ids]]
    place = {name: column for column, name in enumerate(predictions.classes)}
    written = [sheet.labels.get(name, name) for name in predictions.classes]
    labels_N = np.array(written, dtype=object)[probabilities_NC.argmax(1)]
    values: list[NDArray[Any]] = [np.array(sheet.ids, dtype=object)]
    values += [
        labels_N if name is None else probabilities_NC[:, place[name]] * share
        for name, share in zip(sheet.contents, sheet.shares, strict=True)
    ]
    table = pd.DataFrame(dict(enumerate(values)))
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, header=list(sheet.columns), float_format=DIGITS, lineterminator="\n")


def _read_sample(sample: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[str, ...]]:
    """The header as it is written, the lines below it, as text (an id of 007 stays 007), and words about both."""
    if not sample.is_file():
        raise DataError(f"{sample}: no such sample submission; check data.sample_submission")
    table = open_table(str(sample))
    if len(table.written) < 2:
        raise DataError(f"{sample}: expected a header with the id column first and at least one further column")
    if not len(table):
        raise DataError(f"{sample}: no rows below the header, so nothing is asked for")
    lines = table.rows()
    ids = [line[0] for line in lines]
    if twice := sorted(name for name, times in Counter(ids).items() if times > 1):
        raise DataError(f"{sample}: ids that stand there twice: {some(twice)}")
    return table.written, lines, table.notices


def _check_index(
    sample: Path, columns: Sequence[str], ids: Sequence[str], classes: Mapping[str, Sequence[str]]
) -> None:
    """Raise DataError for a first column that is no id's, but the rows' numbers, as pandas writes them unasked."""
    unnamed = re.fullmatch(r"\s*(Unnamed: 0)?\s*", columns[0])
    numbers = unnamed and all(value == str(row) for row, value in enumerate(ids))
    if numbers and len(columns) > 2 and _class_of(sample, columns[1], classes) is None:
        raise DataError(
            f"{sample}: the first column holds the numbers of the rows, as pandas writes them, and not ids. Remove it "
            f"(index=False), so that {columns[1]!r} comes first"
        )


def _content_of(
    sample: Path, column: str, values: Sequence[str], classes: Mapping[str, Sequence[str]], positive: str
) -> tuple[str | None, tuple[str, ...]]:
    """What the one column beside the id holds (a class's probability, or None for labels), and that in words."""
    values = [value for value in map(str.strip, values) if value.casefold() not in _NOTHING]
    named = {nfc(name) for names in classes.values() for name in names}
    numbers = [_number(value) for value in values]
    labels = bool(values) and all(nfc(value) in named for value in values)
    fractions = bool(values) and None not in numbers and not all(map(_is_whole, values))
    if positive:
        return positive, (f"{sample}: column {column!r} gets the probability of {positive!r} (predict.positive_class)",)
    named_by = _class_of(sample, column, classes)
    if named_by is not None and None not in numbers and (fractions or not labels or nfc(column) in named):
        return named_by, (f"{sample}: column {column!r} gets the probability of {named_by!r}",)
    if labels or not fractions:
        return None, ()
    if outside := [value for value, number in zip(values, numbers, strict=True) if not 0 <= (number or 0) <= 1]:
        raise DataError(
            f"{sample}: column {column!r} holds numbers such as {outside[0]}, which are neither probabilities nor "
            f"classes of the models ({some(list(classes))}). Put 0.5 there to ask for a probability, or a class to ask "
            "for labels"
        )
    if len(classes) > 2:
        raise DataError(
            f"{sample}: column {column!r} holds {values[0]} and so asks for a probability, but not of which of the "
            f"{len(classes)} classes. Name it with --set predict.positive_class=CLASS, give a column for each class, "
            f"or put a class there to ask for labels; the classes are {some(list(classes))}"
        )
    found = _positive(classes)
    other = next(name for name in classes if name != found)
    return found, (
        f"{sample}: column {column!r} gets the probability of {found!r}; for that of {other!r} add "
        f"--set {shlex.quote(f'predict.positive_class={other}')}",
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_whole(text: str) -> bool:
    return text.lstrip("+-").isdecimal()


def _positive(classes: Mapping[str, Sequence[str]]) -> str:
    """Of two classes the one that says yes, or at least not no; else the later one."""

    def says(name: str) -> int:
        known = {_plain(known) for known in classes[name]}
        return bool(known & _POSITIVE) - bool(known & _NEGATIVE)

    return max(reversed(list(classes)), key=says)


def _class_of(sample: Path, column: str, classes: Mapping[str, Sequence[str]]) -> str | None:
    """The class that a column is called after, by its very name, else but for capitals and signs, else with words
    around it; None for none. Raises DataError for several."""
    for form in (nfc, _plain, _core):
        wanted = form(column)
        found = [each for each, names in classes.items() if wanted and any(form(name) == wanted for name in names)]
        if len(found) > 1:
            raise DataError(
                f"{sample}: column {column!r} may be any of the classes {some(found)}. Write it as they are"
            )
        if found:
            return found[0]
    return None


def _plain(name: str) -> str:
    """Without capitals and signs, in compatible Unicode: no_Cactus is no cactus."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(re.findall(r"[^\W_]+", text)) or text.strip()


def _core(name: str) -> str:
    """The same without words that say what the number is: p_cat, is_cat and prob(cat) are cat."""
    words = _plain(name).split()
    return " ".join(word for word in words if word not in _AROUND) or " ".join(words)


def _contents_of(sample: Path, columns: Sequence[str], classes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The class whose probability each column holds, by any of its names."""
    found = [_class_of(sample, column, classes) for column in columns]
    exact = {nfc(name) for names in classes.values() for name in names}
    own = [each for each, column in zip(found, columns, strict=True) if nfc(column) in exact]  # aliases share a class
    loose = [each for each, column in zip(found, columns, strict=True) if each and nfc(column) not in exact]
    unknown = [column for column, each in zip(columns, found, strict=True) if each is None]
    missing = [each for each in classes if each not in found]
    if twice := sorted({each for each in loose if loose.count(each) > 1 or each in own}):
        asked = [column for column, each in zip(columns, found, strict=True) if each == twice[0]]
        raise DataError(f"{sample}: columns {some(asked)} all stand for the class {twice[0]!r}; keep one of them")
    if missing or unknown:
        raise DataError(
            f"{sample}: its columns are not the model's {len(classes)} classes"
            + (f"; columns that are no class: {_with_nearest(unknown, missing or list(classes))}" if unknown else "")
            + (f"; classes without a column: {some(missing)}" if missing else "")
            + ". Expected the id column, then one column a class, or a single column for the label or a probability"
        )
    return tuple(each for each in found if each is not None)


def _with_nearest(columns: Sequence[str], classes: Sequence[str]) -> str:
    shown = []
    for column in columns[:5]:
        near = similar(column, classes, most=1)
        shown.append(
            f"{column!r} (nearest {near[0]!r})" if near else repr(column) if column.strip() else "one without a name"
        )
    left = len(columns) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _match(sample: Path, rows: Sequence[str], ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For each row of the sample file the predicted id that answers it, and the predicted ids nobody asked for."""
    found = find_ids(rows, ids, str(sample))
    missing = [row for row, sample_id in zip(rows, found, strict=True) if sample_id is None]
    if missing:
        raise DataError(
            f"{sample}: {len(missing)} of its {len(rows)} ids have no image to predict: {some(missing)}; "
            f"the images have ids like {some(list(ids), 3)}. Point data.test (or --data) at the images it asks for, "
            "or name the id column with data.id_column"
        )
    matched = tuple(sample_id for sample_id in found if sample_id is not None)
    taken = set(matched)
    return matched, tuple(sample_id for sample_id in ids if sample_id not in taken)
