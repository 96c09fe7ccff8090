"""submission.csv: predictions in a shape that somebody else decided.

A sample submission is a contract: its columns, their order, its rows and their order. `Sheet` reads it before the
first image is decoded, so that a missing id or an unknown class costs a second and not a night; writing afterwards
cannot fail for these reasons.

What is written sums to 1. Rows are brought to it in float64, since models answer in float32, before a class's
probability is shared among its aliases. Digits behind the point that are fixed ("%.4f") are rounded row by row so that
their sum stays 1 to the last of them (largest remainders); with significant digits ("%.8g") no more than those can be
missing. Only where data.alias_columns = "each" asks for all of it in every column is the sum what comes of that.
"""

from __future__ import annotations

import dataclasses
import mmap
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.data.names import AS_FOUND, ClassNames
from engine.errors import RecipeError
from engine.files import atomic_write
from engine.predict.sample import content_of, match_ids, read_sample, top_of
from engine.predictions import DIGITS, Predictions
from engine.recipe.sections import DataSection, PredictSection
from engine.text import some


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The shape of a submission file.

    columns: the header, the id's column first. contents: for each further column the class whose probability it holds,
    or None for the label. ids: what stands in the first column, row by row. sample_ids: the id that answers each row.
    Both are None where every prediction is a row, as they come. left_out: ids that were predicted but that the sample
    file does not ask for. shares: for each further column, what part of its class's probability it holds. labels: how a
    class is written as a label, where not by its own name. top: how many labels a column of labels holds, the likeliest
    first, with blanks between them. digits: how a probability is written, as in printf. notices: how the sample file
    was understood, where it could have been understood otherwise.
    """

    columns: tuple[str, ...]
    contents: tuple[str | None, ...]
    ids: tuple[str, ...] | None
    sample_ids: tuple[str, ...] | None
    left_out: tuple[str, ...]
    shares: tuple[float, ...]
    labels: Mapping[str, str]
    notices: tuple[str, ...] = ()
    top: int = 1
    digits: str = DIGITS

    @classmethod
    def asked(
        cls, data: DataSection, predict: PredictSection, ids: Sequence[str], classes: Sequence[str], positive: str = ""
    ) -> Self:
        """The shape that a recipe asks for: of data.sample_submission where there is one, and by the keys of predict.

        `positive`: predict.positive_class as a class of the models. Raises DataError as `like`, and RecipeError for
        labels that a blank between them could not part.
        """
        names, form = ClassNames.of(data), predict.submission
        if data.sample_submission:
            sheet = cls.like(Path(data.sample_submission), ids, classes, names, positive, form)
        else:
            sheet = cls.plain(classes, names, form)
        if sheet.top > 1 and (parted := [name for name in map(sheet.written, classes) if re.search(r"\s", name)]):
            raise RecipeError(
                f"predict.submission: {sheet.top} labels in a column have blanks between them, and so have the names "
                f"of the classes {some(parted)}. Give them names without, with data.label_names"
            )
        return dataclasses.replace(sheet, digits=predict.float_format)

    @classmethod
    def plain(cls, classes: Sequence[str], names: ClassNames = AS_FOUND, form: str = "auto") -> Self:
        """Without a sample file: id, label, then one probability column a class, and one for each of its aliases; or
        what `form` leaves of that. Every prediction is a row."""
        contents: list[str | None] = [] if form == "probabilities" else [None]
        columns = ["id"] if form == "probabilities" else ["id", "label"]
        if form in ("auto", "probabilities"):
            contents += [name for name in classes for _ in names.alike(name)]
            columns += [alias for name in classes for alias in names.alike(name)]
        return cls(tuple(columns), tuple(contents), None, None, (), names.shares(contents), {}, top=top_of(form))

    @classmethod
    def like(
        cls,
        sample: Path,
        ids: Sequence[str],
        classes: Sequence[str],
        names: ClassNames = AS_FOUND,
        positive: str = "",
        form: str = "auto",
    ) -> Self:
        """The shape of the table `sample`, to be filled with predictions for `ids` over `classes`.

        Its columns may be any of a class's names: its own, an alias, or the label that `names` made it of, which is
        also how a label is written; in any case of letters, and with words such as p_ or is_ around it. A single column
        of probabilities is about the class `positive`; "" where the column's name or the classes' are to tell. `form`:
        as predict.submission. Raises DataError naming the file and the ids or columns that do not fit.
        """
        columns, lines, said = read_sample(sample)
        known = {name: names.known_as(name) for name in classes}
        content = content_of(sample, columns, lines, known, form, positive)
        labels = {name: names.found_as(name)[0] for name in classes}
        rows = tuple(line[0] for line in lines)
        matched, left_out = match_ids(sample, rows, ids)
        shares, notices = names.shares(content.classes), (*said, *content.notices)
        return cls(columns, content.classes, rows, matched, left_out, shares, labels, notices, content.top)

    def written(self, name: str) -> str:
        """A class as a label of this sheet."""
        return self.labels.get(name, name)

    @cached_property
    def _place(self) -> dict[str, int]:
        """The row that an id answers."""
        return {sample_id: row for row, sample_id in enumerate(self.sample_ids or ())}

    def rows(self, predictions: Predictions) -> pd.DataFrame:
        """The rows that these predictions answer, be they all or a part: by the row's number in the sheet as index (in
        their own order where every prediction is a row), columns numbered, texts and probabilities as `digits` rounds
        them."""
        if self.ids is None:
            places, answered, ids = list(range(len(predictions))), predictions, predictions.ids
        else:
            found = sorted((self._place[id_], row) for row, id_ in enumerate(predictions.ids) if id_ in self._place)
            places, answered = [place for place, _ in found], predictions.take([row for _, row in found])
            ids = tuple(self.ids[place] for place in places)
        probabilities_NK = iter(self._probabilities(answered).T)
        labels_N = self._labels(answered)
        values: list[NDArray[Any]] = [np.array(ids, dtype=object)]
        values += [labels_N if name is None else next(probabilities_NK) for name in self.contents]
        return pd.DataFrame(dict(enumerate(values)), index=pd.Index(places))

    def _labels(self, answered: Predictions) -> NDArray[np.object_]:
        written_C = np.array([self.written(name) for name in answered.classes], dtype=object)
        if self.top == 1:
            return np.asarray(written_C[answered.probabilities_NC.argmax(1)], dtype=object)
        best_NK = np.argsort(-answered.probabilities_NC, axis=1, kind="stable")[:, : self.top]
        return np.array([" ".join(row_K) for row_K in written_C[best_NK]], dtype=object)

    def _probabilities(self, answered: Predictions) -> NDArray[np.float64]:
        """The columns of probabilities, (N, K)."""
        place = {name: column for column, name in enumerate(answered.classes)}
        asked = [(place[name], share) for name, share in zip(self.contents, self.shares, strict=True) if name]
        p_NC = answered.probabilities_NC.astype(np.float64)
        p_NC /= p_NC.sum(1, keepdims=True)
        p_NK = p_NC[:, [column for column, _ in asked]] * np.array([share for _, share in asked])
        fixed = re.fullmatch(r"%\.(\d+)f", self.digits)
        return _rounded(p_NK, int(fixed[1])) if fixed else p_NK


def write_submission(path: Path, sheet: Sheet, predictions: Predictions | Iterable[Predictions]) -> None:
    """Write predictions in the shape of `sheet` as CSV (UTF-8, "\\n" line ends), atomically.

    They may come in parts and in any order: no more than a part is held in memory, and what comes out of order waits in
    a file without a name beside `path`. Raises ValueError when a row of the sheet has no answer, or two.
    """
    parts = [predictions] if isinstance(predictions, Predictions) else predictions
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_csv(pd.DataFrame([sheet.columns]), sheet.digits))
        if sheet.ids is None:
            file.writelines(_csv(sheet.rows(part), sheet.digits) for part in parts)
        else:
            file.writelines(_in_order(sheet, (sheet.rows(part) for part in parts), path.parent))


def _in_order(sheet: Sheet, parts: Iterable[pd.DataFrame], folder: Path) -> Iterator[bytes]:
    """The sheet's rows as text, one after the other, of parts that come in any order."""
    assert sheet.sample_ids is not None
    starts = np.full((len(sheet.sample_ids), 2), -1, dtype=np.int64)  # where each row lies in the spill, and ends
    with tempfile.TemporaryFile(dir=folder) as spill:
        end = 0
        for part in parts:
            for place, record in zip(part.index, _records(_csv(part, sheet.digits)), strict=True):
                if starts[place, 0] >= 0:
                    raise ValueError(f"sample {sheet.sample_ids[place]!r} is answered twice")
                starts[place] = end, end + len(record)
                end += spill.write(record)
        if missing := np.flatnonzero(starts[:, 0] < 0).tolist():
            raise ValueError(f"no answer for {some([sheet.sample_ids[row] for row in missing])}")
        spill.flush()
        with mmap.mmap(spill.fileno(), end, access=mmap.ACCESS_READ) as text:
            yield from (text[start:stop] for start, stop in starts.tolist())


def _csv(rows: pd.DataFrame, digits: str) -> bytes:
    text: str = rows.to_csv(index=False, header=False, float_format=digits, lineterminator="\n")
    return text.encode()


def _records(text: bytes) -> Iterator[bytes]:
    """The records of CSV text, each with its line end; a text in quotes may have line ends of its own."""
    record = b""
    for line in text.splitlines(keepends=True) if b"\r" not in text else re.findall(rb"[^\n]*\n", text):
        record += line
        if record.count(b'"') % 2 == 0:
            yield record
            record = b""


def _rounded(p_NK: NDArray[np.float64], decimals: int) -> NDArray[np.float64]:
    """Rounded to so many digits behind the point, rows keeping the sum that they have when rounded: what is left over
    goes to those that rounding down cost most."""
    scaled_NK = p_NK * 10**decimals
    whole_NK = np.floor(scaled_NK + 1e-9)
    left_N = np.rint(scaled_NK.sum(1)) - whole_NK.sum(1)
    rank_NK = np.argsort(np.argsort(whole_NK - scaled_NK, axis=1, kind="stable"), axis=1)
    return np.asarray((whole_NK + (rank_NK < left_N[:, None])) / 10**decimals)
