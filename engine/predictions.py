"""Predictions by sample id: the one type for what models answer, out of fold, on test images, or in another tool's CSV,
with its one Parquet format and its one CSV form.

Rows are known by sample id and columns by class name, and everything joins by both. Averaging arrays row by row is
silently wrong as soon as one was made from a differently sorted folder, or by a model whose classes are listed in
another order.

**Parquet**: `id`; then, where they are known, `label` (the true class), `fold` and `group`; whatever else somebody
wants beside them; and one column for each class, called `p:` and the class's name (with logits also `logit:` and the
name; with features one list column, `features`). The prefix is what lets a class have any name: `id`, `label` and
`fold`, too.

**CSV**: the id first, whatever its column is called, then a column of probabilities a class under the class's own name.
Labels have no place in it.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import DataError
from engine.files import atomic_write
from engine.text import nfc, some

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # of the Parquet files; raised when an older engine could not read them rightly
P, LOGIT, FEATURES = "p:", "logit:", "features"
NO_FOLD = -1

_METADATA = b"engine.predictions"
_SUM_TOLERANCE = 1e-3  # rows that came through float32 or a CSV file sum to 1 only roughly
DIGITS = "%.8g"  # float32 needs 9 to be exact; 8 keeps log loss to 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What was answered about N samples: `ids` names the rows, `classes` the columns of the arrays.

    probabilities_NC: float, rows sum to 1. logits_NC, features_NE: float, of the same rows; None where not asked for.
    Raises ValueError when the shapes disagree, an id or class is named twice, or a row is no probability distribution.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities_NC: NDArray[np.floating]
    logits_NC: NDArray[np.floating] | None = dataclasses.field(default=None, kw_only=True)
    features_NE: NDArray[np.floating] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.classes))
        for name, values in (("probabilities", self.probabilities_NC), ("logits", self.logits_NC)):
            if values is not None and values.shape != expected:
                raise ValueError(f"{name} have shape {values.shape}, ids and classes call for {expected}")
        if self.features_NE is not None and self.features_NE.shape[:1] != expected[:1]:
            raise ValueError(f"features have shape {self.features_NE.shape}, there are {expected[0]} ids")
        for name, names in (("sample id", self.ids), ("class", self.classes)):
            if len(set(names)) != len(names):
                twice = sorted(value for value, times in Counter(names).items() if times > 1)
                raise ValueError(f"{name} named twice: {some(twice)}; make them distinct")
        sums_N = self.probabilities_NC.sum(1, dtype=np.float64)
        wrong_N = ~(np.abs(sums_N - 1) < _SUM_TOLERANCE) | (self.probabilities_NC < 0).any(1)
        if wrong_N.any():
            row = int(np.flatnonzero(wrong_N)[0])
            raise ValueError(
                f"sample {self.ids[row]!r}: not a probability distribution (sums to {sums_N[row]:.6g}); "
                "give probabilities, not logits"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answers(self) -> list[str]:
        """The likeliest class of each sample (of equals the first)."""
        return [self.classes[best] for best in self.probabilities_NC.argmax(1)]

    def in_order(self, ids: Sequence[str], classes: Sequence[str]) -> Self:
        """The same with rows and columns as listed, and called so; raises ValueError unless both lists hold the same
        names, in any Unicode form."""
        columns = _places(self.classes, classes, "classes")
        taken = self.take(_places(self.ids, ids, "sample ids"))
        logits_NC = None if taken.logits_NC is None else taken.logits_NC[:, columns]
        probabilities_NC = taken.probabilities_NC[:, columns]
        return dataclasses.replace(
            taken, ids=tuple(ids), classes=tuple(classes), probabilities_NC=probabilities_NC, logits_NC=logits_NC
        )

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> Self:
        """The samples at these rows, in the order of `rows`; each row at most once."""
        rows_N = np.asarray(rows, dtype=np.int64)
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changes[field.name] = value[rows_N]
            elif field.name in ("ids", "labels", "groups") and value:
                changes[field.name] = tuple(value[row] for row in rows_N.tolist())
        return dataclasses.replace(self, **changes)

    def labelled(
        self,
        labels: Sequence[str],
        folds: Sequence[int] | NDArray[np.integer] | None = None,
        groups: Sequence[str] = (),
    ) -> LabelledPredictions:
        """The same with the true class of each sample ("" where unknown), the fold that it was held out in, and the
        group that it belongs to ("" for none)."""
        fold_N = np.full(len(self), NO_FOLD, dtype=np.int64) if folds is None else np.asarray(folds, dtype=np.int64)
        return LabelledPredictions(
            self.ids,
            self.classes,
            self.probabilities_NC,
            tuple(labels),
            fold_N,
            logits_NC=self.logits_NC,
            features_NE=self.features_NE,
            groups=tuple(groups),
        )

    # -- other shapes

    def to_table(self, extra: Mapping[str, pa.Array] | None = None) -> pa.Table:
        """The Parquet format as an Arrow table; `extra` columns stand before the probabilities."""
        columns = self._fixed() | dict(extra or {})
        if taken := [name for name in columns if name.startswith((P, LOGIT)) or name == FEATURES]:
            raise ValueError(f"columns {some(taken)}: such names are for probabilities, logits and features")
        for prefix, values_NC in ((P, self.probabilities_NC), (LOGIT, self.logits_NC)):
            if values_NC is not None:
                columns |= {
                    prefix + name: pa.array(values_NC[:, i], pa.float32()) for i, name in enumerate(self.classes)
                }
        if self.features_NE is not None:
            flat = pa.array(np.ascontiguousarray(self.features_NE, dtype=np.float32).reshape(-1))
            columns[FEATURES] = pa.FixedSizeListArray.from_arrays(flat, self.features_NE.shape[1])
        return pa.table(columns)

    def to_pandas(self) -> pd.DataFrame:
        """A frame with the ids as its index and a column of probabilities a class, under the class's own name."""
        import pandas as pd

        index = pd.Index(self.ids, name="id")
        return pd.DataFrame(self.probabilities_NC, index=index, columns=pd.Index(self.classes, name="class"))

    def _fixed(self) -> dict[str, pa.Array]:
        return {"id": pa.array(self.ids, pa.string())}

    # -- files

    def write(
        self, path: Path, extra: Mapping[str, pa.Array] | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        """Write as Parquet, atomically. `about`: JSON values kept in the file, on how it was made; see `read_about`."""
        table = self.to_table(extra).replace_schema_metadata(file_metadata(about))
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def write_csv(self, path: Path) -> None:
        """Write in the CSV form (UTF-8, "\\n" line ends), atomically."""
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(map(_cell, ("id", *self.classes))) + "\n")
            for id_, row_C in zip(self.ids, self.probabilities_NC.tolist(), strict=True):
                file.write(",".join((_cell(id_), *(DIGITS % value for value in row_C))) + "\n")

    @staticmethod
    def read(path: Path) -> Predictions:
        """What `write` wrote: LabelledPredictions when it has labels. Raises DataError when it is no such file."""
        try:
            return Predictions._read(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a Parquet file of predictions ({error}); make it again") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: these predictions contradict themselves ({error}); make the file again") from None

    @staticmethod
    def _read(path: Path) -> Predictions:
        table = pq.read_table(path)
        content = _content(path, table.schema)
        if content["format"] > FORMAT:
            raise DataError(f"{path}: predictions of format {content['format']}, this engine reads {FORMAT}; update it")
        classes = [name.removeprefix(P) for name in table.column_names if name.startswith(P)]
        ids = tuple(table["id"].to_pylist())
        arrays = [_matrix(table, [prefix + name for name in classes]) for prefix in (P, LOGIT)]
        assert arrays[0] is not None  # of no classes, an array without columns
        features_NE = None
        if FEATURES in table.column_names:
            flat = table[FEATURES].combine_chunks()
            features_NE = flat.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), flat.type.list_size)
        found = Predictions(ids, tuple(classes), arrays[0], logits_NC=arrays[1], features_NE=features_NE)
        if "label" not in table.column_names:
            return found
        fold_N = table["fold"].to_numpy() if "fold" in table.column_names else None
        groups = table["group"].to_pylist() if "group" in table.column_names else ()
        return found.labelled(table["label"].to_pylist(), fold_N, groups)

    @staticmethod
    def read_about(path: Path) -> dict[str, Any]:
        """How a file of predictions was made, as `write` was told. Raises DataError when it is no such file."""
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path}: not a Parquet file of predictions ({error}); make it again") from None
        return dict(_content(path, schema)["about"])

    @staticmethod
    def read_csv(path: Path) -> Predictions:
        """Predictions in the CSV form, of this engine or another tool. Raises DataError naming what does not fit."""
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file)
                header = next(reader, [])
            if len(header) < 2:
                raise DataError(f"{path}: expected a header with the id first and then one column a class")
            # Under numbers: a class may have any name, also one that stands there twice and is then refused below.
            names = [str(number) for number in range(len(header))]
            table = pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=reader.line_num),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={names[0]: pa.string()} | dict.fromkeys(names[1:], pa.float64())
                ),
            )
            values_NC = np.stack([table[name].to_numpy() for name in names[1:]], axis=1)
            return Predictions(tuple(table[names[0]].to_pylist()), tuple(header[1:]), values_NC)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (UnicodeDecodeError, csv.Error, pa.ArrowInvalid, ValueError) as error:
            raise DataError(
                f"{path}: expected a CSV file in UTF-8 with the id first and then one column of probabilities a class "
                f"({error})"
            ) from None


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledPredictions(Predictions):
    """Predictions of samples whose true class is known: what is fitted on, scored, reported.

    labels: class names, which need not be among `classes` ("" where unknown). fold_N: the fold each sample was held out
    in, int64; NO_FOLD where it was in none. groups: what belongs together, such as the photos of one sender, by name
    ("" for a sample that stands alone); () where nothing is known of it.
    """

    labels: tuple[str, ...]
    fold_N: NDArray[np.int64]
    groups: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) != len(self.ids) or self.fold_N.shape != (len(self.ids),):
            raise ValueError(f"{len(self.labels)} labels and {len(self.fold_N)} folds for {len(self.ids)} ids")
        if self.groups and len(self.groups) != len(self.ids):
            raise ValueError(f"{len(self.groups)} groups for {len(self.ids)} ids")

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """The true class of each sample as a column of `probabilities_NC`; -1 where it is not among `classes`."""
        index = {name: column for column, name in enumerate(self.classes)}
        return np.array([index.get(label, -1) for label in self.labels], dtype=np.int64)

    @property
    def known(self) -> LabelledPredictions:
        """The samples whose true class is among `classes`."""
        return self.take(np.flatnonzero(self.labels_N >= 0))

    def _fixed(self) -> dict[str, pa.Array]:
        return super()._fixed() | {
            "label": pa.array(self.labels, pa.string()),
            "fold": pa.array(self.fold_N, pa.int32()),
            **({"group": pa.array(self.groups, pa.string())} if self.groups else {}),
        }


def file_metadata(about: Mapping[str, Any] | None = None) -> dict[bytes, str]:
    """What a Parquet file of predictions says of itself, for who writes one piece by piece. `about` as in `write`."""
    return {_METADATA: json.dumps({"format": FORMAT, "about": dict(about or {})}, ensure_ascii=False)}


def joined(parts: Sequence[LabelledPredictions]) -> LabelledPredictions:
    """Predictions about different samples as one, in the order of the parts, classes as the first lists them.

    Raises ValueError when an id is in two of them, the classes differ, or there are no parts.
    """
    if not parts:
        raise ValueError("nothing to join")
    ordered = [part.in_order(part.ids, parts[0].classes) for part in parts]

    def stacked(name: str) -> NDArray[np.floating] | None:
        arrays = [getattr(part, name) for part in ordered]
        return None if any(array is None for array in arrays) else np.concatenate(arrays)

    probabilities_NC = stacked("probabilities_NC")
    assert probabilities_NC is not None
    known = all(part.groups or not len(part) for part in ordered)
    return LabelledPredictions(
        ids=tuple(id_ for part in ordered for id_ in part.ids),
        classes=parts[0].classes,
        probabilities_NC=probabilities_NC,
        labels=tuple(label for part in ordered for label in part.labels),
        fold_N=np.concatenate([part.fold_N for part in ordered]),
        logits_NC=stacked("logits_NC"),
        features_NE=stacked("features_NE"),
        groups=tuple(group for part in ordered for group in part.groups) if known else (),
    )


def _cell(text: str) -> str:
    """A text as a cell of CSV. Python's writer leaves a "\\r" bare where lines end with "\\n"; readers end there."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def _content(path: Path, schema: pa.Schema) -> dict[str, Any]:
    try:
        content = json.loads((schema.metadata or {})[_METADATA])
        if isinstance(content["format"], int) and isinstance(content["about"], dict) and "id" in schema.names:
            return dict(content)
    except (KeyError, ValueError, TypeError):
        pass
    raise DataError(f"{path}: a Parquet file, but not of this engine's predictions; make it again")


def _matrix(table: pa.Table, names: Sequence[str]) -> NDArray[np.floating] | None:
    if not set(names) <= set(table.column_names):
        return None
    columns = [table[name].to_numpy() for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((table.num_rows, 0), dtype=np.float32)


def _places(have: Sequence[str], wanted: Sequence[str], what: str) -> list[int]:
    if list(have) == list(wanted):
        return list(range(len(have)))
    if set(have) != set(wanted):  # another tool may write names in another Unicode form
        composed = [[nfc(name) for name in names] for names in (have, wanted)]
        if set(composed[0]) == set(composed[1]) and len(set(composed[0])) == len(have):
            have, wanted = composed
    place = {name: i for i, name in enumerate(have)}
    missing = [name for name in wanted if name not in place]
    wanted_set = set(wanted)
    extra = [name for name in have if name not in wanted_set]
    if missing or extra or len(wanted) != len(have):
        told = [
            f"one lacks {some(missing)}" if missing else "",
            f"only one has {some(extra)}" if extra else "",
            "a name is asked for twice" if not missing and not extra else "",
        ]
        raise ValueError(
            f"these predictions have different {what}: {'; '.join(part for part in told if part)}. Join only those of "
            "models that were trained on the same classes and run on the same images"
        )
    return [place[name] for name in wanted]
