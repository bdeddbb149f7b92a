"""From the rows of a file to features and targets in splits: read, split, fitted, encoded.

Rows that can't be read, and rows of the validation and test splits that the endpoint would refuse, are left
out and are findings that name row and column. Columns are fitted on the training split alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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

LEAST_ROWS = 20
GUESSED_FROM = 200  # rows from which an error message guesses the types of columns


class Row(NamedTuple):
    """A row that was read: where it lies, its split's word, the columns' values, the target's."""

    place: str
    split: str
    values: list[Any]
    target: Any


@dataclass(frozen=True)
class Examples:
    """The rows of one split: features float32 [N, F], targets float32 [N] or class indices int64 [N], and the
    values that they were encoded from.
    """

    features: torch.Tensor
    targets: torch.Tensor
    values: Sequence[list[Any]]

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


def prepare(
    settings: TableSettings, findings: Findings, seed: int, target_type: str, calibration: float = 0.0
) -> PreparedTable:
    """The table of the settings, ready to learn a `target_type` (number, category); `calibration` is a share
    of the training rows that nothing is learned from.

    Raises CallError for columns that the file lacks, too few rows, and classes or splits that can't be.
    """
    raw = load_table(settings.data, settings.split_column)
    target = settings.target or raw.target
    columns = _columns(settings, raw, target)
    assert target is not None
    draft = Table(tuple(one.draft(name) for name, one in columns.items()), frozenset(settings.missing_values))
    truth: Column = (NumberColumn if target_type == "number" else CategoryColumn)(target, missing="error")
    rows = _rows(raw, draft, truth, findings)
    is_class = target_type == "category"
    splits = _split(rows, settings, seed, is_class, bool(settings.split_column), findings)
    if calibration:
        splits["train"], splits["calibration"] = _parts(splits["train"], calibration, seed, is_class)
    train = splits["train"]
    table = Table(
        tuple(
            fitted(column, columns[column.name], [row.values[place] for row in train])
            for place, column in enumerate(draft.columns)
        ),
        draft.missing_values,
    )
    classes = class_order(row.target for row in train) if is_class else ()
    if is_class and len(classes) < 2:
        raise CallError(f"target: {target!r} has one class in the training rows; it needs two at least")
    examples = {}
    for split, part in splits.items():
        kept = _answerable(part, table, classes, findings) if split != "train" else part
        if not kept:
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
    cells = [row.cells.get(name) for row in raw.rows[:GUESSED_FROM]]
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


def _rows(raw: RawTable, draft: Table, truth: Column, findings: Findings) -> list[Row]:
    """The rows that can be read."""
    rows, bad = [], []
    for row in raw.rows:
        try:
            rows.append(_row(row, raw.is_text, draft, truth))
        except RequestError as error:
            bad.append(f"{row.place}: {error}")
    findings.add("rows", "left out: a cell can't be read", bad, len(raw.rows))
    if len(rows) < LEAST_ROWS:
        raise CallError(
            f"{len(rows)} of {len(raw.rows):,} rows can be read, too few to learn from"
            + (f"; {bad[0]}" if bad else "")
        )
    return rows


def _row(row: RawRow, is_text: bool, draft: Table, truth: Column) -> Row:
    """Raises RequestError."""
    if row.fault:
        raise RequestError(row.fault)
    values = [draft.value(column, row.cells[column.name], is_text) for column in draft.columns]
    return Row(row.place, row.split, values, draft.value(truth, row.cells[truth.name], is_text))


def _split(
    rows: list[Row], settings: TableSettings, seed: int, is_class: bool, by_column: bool, findings: Findings
) -> dict[str, list[Row]]:
    """As the file or the files say, or drawn; where they have no validation it is drawn from the training."""
    if not by_column and not any(row.split for row in rows):
        others, test = _parts(rows, settings.test, seed, is_class)
        train, validation = _parts(others, settings.validation / (1 - settings.test), seed, is_class)
        return {"train": train, "validation": validation, "test": test}
    splits: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        splits[SPLITS.get(row.split.lower(), "")].append(row)
    unknown = [f"{row.place}: {row.split!r}" for row in splits.pop("", [])]
    findings.add("rows", "left out: no split, or an unknown one", unknown, len(rows))
    for split in ("train", "test"):
        if not splits[split]:
            raise CallError(f"no row is of the split {split}; the words are train, validation, test")
    if not splits["validation"]:
        splits["train"], splits["validation"] = _parts(splits["train"], settings.validation, seed, is_class)
    return dict(splits)


def _parts(rows: list[Row], share: float, seed: int, is_class: bool) -> tuple[list[Row], list[Row]]:
    """A drawn part without and with `share` of the rows, which has all classes in their shares."""
    labels = [row.target for row in rows] if is_class else None
    try:
        parts = train_test_split(
            np.arange(len(rows)), test_size=share, random_state=seed % (1 << 32), stratify=labels
        )
    except ValueError as error:
        raise CallError(f"{len(rows):,} rows can't be split: {error}") from error
    first, second = ([rows[index] for index in sorted(part)] for part in parts)
    return first, second


def _answerable(rows: list[Row], table: Table, classes: Sequence[str], findings: Findings) -> list[Row]:
    """The rows that the endpoint would answer, and whose class was learned."""
    kept, refused = [], []
    for row in rows:
        try:
            for column, value in zip(table.columns, row.values, strict=True):
                column.check(value)
        except RequestError as error:
            refused.append(f"{row.place}: {error}")
            continue
        if classes and row.target not in classes:
            refused.append(f"{row.place}: the training rows have no class {row.target!r}")
        else:
            kept.append(row)
    findings.add("rows of validation and test", "left out: the model can't take them", refused, len(rows))
    return kept


def _examples(rows: list[Row], table: Table, classes: Sequence[str]) -> Examples:
    features = torch.from_numpy(np.stack([table.encode(row.values) for row in rows]))
    targets = (
        torch.tensor([classes.index(row.target) for row in rows])
        if classes
        else torch.tensor([row.target for row in rows], dtype=torch.float32)
    )
    return Examples(features, targets, [row.values for row in rows])


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
    return [table.sent(row.values) for row in kept], [row.target for row in kept]
