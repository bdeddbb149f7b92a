"""From the rows of a file to features and targets in splits: read, split, fitted, encoded.

Rows that can't be read, and rows of the validation and test splits that the endpoint would refuse, are left
out and are findings that name row and column. Columns are fitted on the training split alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from handlers.inputs.columns import CategoryColumn, Column, NumberColumn
from handlers.inputs.tables import Table
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from training.data.class_order import class_order
from training.data.picture_files import SPLITS
from training.data.tables import RawRow, RawTable, listed, load_table
from training.findings import Findings
from training.tables.fitting_columns import fitted
from training.tables.settings import ColumnSettings, TableSettings
from training.tables.stored_rows import Rows, StoredRows, Values

LEAST_ROWS = 20
GUESSED_FROM = 200  # rows from which an error message guesses the types of columns


@dataclass(frozen=True)
class Examples:
    """The rows of one split: features float32 [N, F], targets float32 [N] or class indices int64 [N], and the
    values that they were encoded from.
    """

    features: torch.Tensor
    targets: torch.Tensor
    values: Values

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class PreparedTable:
    """The fitted columns, the splits (train, validation, test, perhaps calibration), and the classes of a
    target that is a category.
    """

    raw: RawTable
    table: Table
    splits: Mapping[str, Examples]
    classes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What the export's metadata says of the data."""
        return {
            "name": self.raw.name,
            "source": self.raw.source,
            "licence": self.raw.licence,
            **{split: len(examples) for split, examples in self.splits.items()},
            "fingerprint": self.raw.fingerprint,
        }


def prepare(settings: TableSettings, findings: Findings, seed: int) -> PreparedTable:
    """The table of the settings, ready to learn from.

    Raises CallError for columns that the file lacks, too few rows, and classes or splits that can't be.
    """
    return prepare_rows(load_table(settings.data, settings.split_column), settings, findings, seed)


def prepare_rows(raw: RawTable, settings: TableSettings, findings: Findings, seed: int) -> PreparedTable:
    """As `prepare`, for rows that were loaded."""
    target = settings.target or raw.target
    columns = _columns(settings, raw, target)
    assert target is not None
    draft = Table(tuple(one.draft(name) for name, one in columns.items()), frozenset(settings.missing_values))
    is_class = settings.target_type == "category"
    truth: Column = (CategoryColumn if is_class else NumberColumn)(target, missing="error")
    rows = _rows(raw, draft, truth, findings)
    splits = _split(rows, settings, seed, is_class, bool(settings.split_column), findings)
    if share := settings.calibration_share:
        splits["train"], splits["calibration"] = _parts(splits["train"], share, seed, is_class)
    train = splits["train"]
    table = Table(
        tuple(
            fitted(column, columns[column.name], train.of_column(place))
            for place, column in enumerate(draft.columns)
        ),
        draft.missing_values,
    )
    classes = class_order(train.targets()) if is_class else ()
    if is_class and len(classes) < 2:
        raise CallError(f"target: {target!r} has one class in the training rows; it needs two at least")
    examples = {}
    for split, part in splits.items():
        kept = _answerable(part, table, classes, findings) if split != "train" else part
        if not len(kept):
            raise CallError(f"no {split} row is left of {len(part):,}; the findings say why")
        examples[split] = _examples(kept, table, classes)
    return PreparedTable(raw, table, examples, classes)


def _columns(settings: TableSettings, raw: RawTable, target: str | None) -> dict[str, ColumnSettings]:
    """The columns to learn from. Raises CallError for those that the file doesn't have."""
    if target not in raw.columns:
        wanted = f"no column {target!r} to learn" if target else "name the column to learn: target: NAME"
        raise CallError(f"target: {wanted}; {listed(raw.columns)}")
    columns = settings.columns or {
        name: ColumnSettings(type=kind)  # type: ignore[arg-type]
        for name, kind in raw.types.items()
    }
    if not columns:
        others = [name for name in raw.columns if name not in (target, settings.split_column)]
        guesses = ", ".join(f"{name}: {_guess(raw, name)}" for name in others[:60])
        raise CallError(f"columns: say what is learned from and its types, like columns: {{{guesses}}}")
    if lacking := [name for name in columns if name not in raw.columns]:
        raise CallError(f"columns: {raw.name} has no {', '.join(lacking[:5])}; {listed(raw.columns)}")
    for key, name in (("target", target), ("split_column", settings.split_column)):
        if name in columns:
            raise CallError(f"columns: {name} is the {key}, which can't be learned from; leave it out")
    return columns


def _guess(raw: RawTable, name: str) -> str:
    """The type of column that most cells go with, for a message."""
    cells = [row.cells.get(name) for row in islice(raw.rows, GUESSED_FROM)]
    for kind in ("number", "date"):
        column = ColumnSettings(type=kind).draft(name)  # type: ignore[arg-type]
        if sum(_is_read(column, cell, raw.is_text) for cell in cells) > len(cells) / 2:
            return kind
    return "category"


def _is_read(column: Column, cell: Any, is_text: bool) -> bool:
    try:
        column.parse(cell, is_text)
    except RequestError:
        return False
    return True


def _rows(raw: RawTable, draft: Table, truth: Column, findings: Findings) -> Rows:
    """The rows that can be read."""
    stored, bad = StoredRows(draft, truth), list[str]()
    for row in raw.rows:
        try:
            stored.append(row.place, row.split, *_values(row, raw.is_text, draft, truth))
        except RequestError as error:
            bad.append(f"{row.place}: {error}")
    count = len(stored) + len(bad)
    findings.add("rows", "left out: a cell can't be read", bad, count)
    if len(stored) < LEAST_ROWS:
        raise CallError(
            f"{len(stored)} of {count:,} rows can be read, too few to learn from"
            + (f"; {bad[0]}" if bad else "")
        )
    return Rows(stored, np.arange(len(stored)))


def _values(row: RawRow, is_text: bool, draft: Table, truth: Column) -> tuple[list[Any], Any]:
    """The values of the columns, and of the target. Raises RequestError."""
    if row.fault:
        raise RequestError(row.fault)
    values = [draft.value(column, row.cells[column.name], is_text) for column in draft.columns]
    return values, draft.value(truth, row.cells[truth.name], is_text)


def _split(
    rows: Rows, settings: TableSettings, seed: int, is_class: bool, by_column: bool, findings: Findings
) -> dict[str, Rows]:
    """As the file or the files say, or drawn; where they have no validation it is drawn from the training."""
    words = rows.splits()
    if not by_column and not any(words):
        others, test = _parts(rows, settings.test_share, seed, is_class)
        train, validation = _parts(
            others, settings.validation_share / (1 - settings.test_share), seed, is_class
        )
        return {"train": train, "validation": validation, "test": test}
    positions: dict[str, list[int]] = defaultdict(list)
    for position, word in enumerate(words):
        positions[SPLITS.get(word.lower(), "")].append(position)
    unknown = [f"{rows[position].place}: {words[position]!r}" for position in positions.pop("", [])]
    findings.add("rows", "left out: no split, or an unknown one", unknown, len(rows))
    for split in ("train", "test"):
        if not positions[split]:
            raise CallError(f"no row is of the split {split}; the words are train, validation, test")
    splits: dict[str, Rows] = {split: rows[np.array(part)] for split, part in positions.items() if part}
    if "validation" not in splits:
        splits["train"], splits["validation"] = _parts(
            splits["train"], settings.validation_share, seed, is_class
        )
    return splits


def _parts(rows: Rows, share: float, seed: int, is_class: bool) -> tuple[Rows, Rows]:
    """A drawn part without and with `share` of the rows, which has all classes in their shares."""
    labels = rows.targets() if is_class else None
    try:
        parts = train_test_split(
            np.arange(len(rows)), test_size=share, random_state=seed % (1 << 32), stratify=labels
        )
    except ValueError as error:
        raise CallError(f"{len(rows):,} rows can't be split: {error}") from error
    first, second = (rows[np.sort(part)] for part in parts)
    return first, second


def _answerable(rows: Rows, table: Table, classes: Sequence[str], findings: Findings) -> Rows:
    """The rows that the endpoint would answer, and whose class was learned."""
    kept, refused = [], []
    for position, row in enumerate(rows):
        try:
            for column, value in zip(table.columns, row.values, strict=True):
                column.check(value)
        except RequestError as error:
            refused.append(f"{row.place}: {error}")
            continue
        if classes and row.target not in classes:
            refused.append(f"{row.place}: the training rows have no class {row.target!r}")
        else:
            kept.append(position)
    findings.add("rows of validation and test", "left out: the model can't take them", refused, len(rows))
    found: Rows = rows[np.array(kept, np.int64)]
    return found


def _examples(rows: Rows, table: Table, classes: Sequence[str]) -> Examples:
    values, truth = Values(rows), rows.targets()
    targets = (
        torch.tensor([classes.index(name) for name in truth])
        if classes
        else torch.tensor(truth, dtype=torch.float32)
    )
    return Examples(torch.from_numpy(values.encoded(table)), targets, values)


def rows_to_measure(
    settings: TableSettings, seed: int, table: Table, classes: Sequence[str], is_recorded: bool
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The rows to measure a model on, as requests have them, and the truth of each: a number, or a class.

    The test rows of its own data, or all rows of other data that the model can take. Raises CallError as
    `prepare`.
    """
    findings = Findings()
    raw = load_table(settings.data, settings.split_column if is_recorded else None)
    target = settings.target or raw.target
    if lacking := [name for name in (*table.names, target) if name not in raw.columns]:
        raise CallError(f"data {raw.name} has no column {lacking[0]!r}; {listed(raw.columns)}")
    truth = (CategoryColumn if classes else NumberColumn)(str(target))
    if is_recorded:
        columns = _columns(settings, raw, target)
        draft = Table(tuple(one.draft(name) for name, one in columns.items()), table.missing_values)
        every = _rows(raw, draft, truth, findings)
        by_column = bool(settings.split_column)
        rows = _split(every, settings, seed, bool(classes), by_column, findings)["test"]
    else:
        rows = _rows(raw, table, truth, findings)
    kept = _answerable(rows, table, classes, findings)
    findings.report()
    return [table.sent(values) for values in Values(kept)], kept.targets()
