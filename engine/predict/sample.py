"""What a sample submission asks for: a label, likely labels, a probability, or one for each class; and by which ids.

One column beside the id may ask for labels or for a probability, and only its values tell: numbers with a fraction ask
for a probability, classes (and placeholders such as 0) for labels, several classes with blanks between them for so many
labels, the likeliest first. A probability is that of the class that the column is called after; of two classes else
that of the positive one, and of more it is refused.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.data.ids import find_ids
from engine.data.sources.litter import NO_VALUE
from engine.data.tables import open_table
from engine.errors import DataError
from engine.text import nfc, similar, some

_POSITIVE = frozenset({"1", "yes", "true", "positive"})
_NEGATIVE = frozenset({"0", "no", "false", "negative"})
_NOTHING = NO_VALUE | {"", "na", "none"}  # what stands where nothing was filled in
# Words that people put around a class's name in a column of its probability: p_cat, prob_of_cat, is_cat, has_cat.
_AROUND = {"p", "prob", "proba", "probability", "pred", "prediction", "predicted", "score"}
_AROUND |= {"of", "is", "has", "class", "label", "target"}


class Content(NamedTuple):
    """What the columns beside the id hold: for each the class whose probability it is, or None for `top` labels."""

    classes: tuple[str | None, ...]
    top: int = 1
    notices: tuple[str, ...] = ()


def content_of(
    sample: Path,
    columns: Sequence[str],
    lines: Sequence[Sequence[str]],
    classes: Mapping[str, Sequence[str]],
    form: str = "auto",
    positive: str = "",
) -> Content:
    """What a sample file with these columns (the id's first) and lines asks for, of these classes with their names.

    `form` says it, as predict.submission does, or "auto". Raises DataError for what cannot be, or could be several.
    """
    _check_index(sample, columns, [line[0] for line in lines], classes)
    if form in ("auto", "probabilities") and len(columns) > 2:
        return Content(_contents_of(sample, columns[1:], classes))
    if len(columns) > 2:
        raise DataError(
            f"{sample}: has {len(columns) - 1} columns beside the id, and predict.submission = {form!r} fills one. "
            'Leave one, or set predict.submission = "auto"'
        )
    values = [re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", line[1].strip()) for line in lines]  # decimal commas
    values = [value for value in values if value.casefold() not in _NOTHING]
    if form not in ("auto", "probabilities"):
        return Content((None,), top_of(form))
    top = _likely(values, classes) if form == "auto" and not positive else 1
    if top > 1:
        said = f"{sample}: column {columns[1]!r} gets the {top} likeliest classes with blanks between them"
        return Content((None,), top, (said,))
    one, notices = _content_of(sample, columns[1], values, classes, positive, form == "probabilities")
    return Content((one,), 1, notices)


def top_of(form: str) -> int:
    """How many labels a form asks for: 1, or 5 of "top5"."""
    return int(form.removeprefix("top")) if form.startswith("top") else 1


def _likely(values: Sequence[str], classes: Mapping[str, Sequence[str]]) -> int:
    """How many classes stand in each value with blanks between them; 1 where that is not what the values are."""
    named = {nfc(name) for names in classes.values() for name in names}
    words = [value.split() for value in values]
    if any(nfc(value) in named for value in values) or not all(nfc(word) in named for each in words for word in each):
        return 1
    return max(map(len, words), default=1)


def read_sample(sample: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[str, ...]]:
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
    sample: Path,
    column: str,
    values: Sequence[str],
    classes: Mapping[str, Sequence[str]],
    positive: str,
    probability: bool,
) -> tuple[str | None, tuple[str, ...]]:
    """What the one column beside the id holds (a class's probability, or None for labels), and that in words."""
    named = {nfc(name) for names in classes.values() for name in names}
    numbers = [_number(value) for value in values]
    labels = bool(values) and all(nfc(value) in named for value in values) and not probability
    fractions = bool(values) and None not in numbers and not all(map(_is_whole, values))
    if positive:
        return positive, (f"{sample}: column {column!r} gets the probability of {positive!r} (predict.positive_class)",)
    named_by = _class_of(sample, column, classes)
    if named_by is not None and (
        probability or (None not in numbers and (fractions or not labels or nfc(column) in named))
    ):
        return named_by, (f"{sample}: column {column!r} gets the probability of {named_by!r}",)
    if not probability and (labels or not fractions):
        return None, ()
    outside = [value for value, number in zip(values, numbers, strict=True) if not 0 <= (number or 0) <= 1]
    if outside and not probability:
        raise DataError(
            f"{sample}: column {column!r} holds numbers such as {outside[0]}, which are neither probabilities nor "
            f"classes of the models ({some(list(classes))}). Put 0.5 there to ask for a probability, or a class to ask "
            "for labels"
        )
    if len(classes) > 2:
        raise DataError(
            f"{sample}: column {column!r} asks for a probability, but not of which of the {len(classes)} classes. "
            "Name it with --set predict.positive_class=CLASS, give a column for each class, or put a class there to "
            f"ask for labels; the classes are {some(list(classes))}"
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


def match_ids(sample: Path, rows: Sequence[str], ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
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
