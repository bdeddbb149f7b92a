"""Cross-validation: a table with each part of its rows as test in turn, for data so small that one split says
little.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold
from torch import nn

from marina.core.errors import CallError
from training.data.tables import RawRow, RawTable
from training.findings import Findings
from training.runs.run import Run
from training.tables.networks import outputs_of
from training.tables.preparation import PreparedTable, prepare_rows
from training.tables.settings import TableSettings


@dataclass
class Pooled:
    """What was answered and what is true, of the test rows of all folds; whether the interval covered it."""

    found: list[np.ndarray] = field(default_factory=list)
    truth: list[np.ndarray] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, found: np.ndarray, truth: np.ndarray, width: float | None = None) -> None:
        """One fold's."""
        self.found.append(found)
        self.truth.append(truth)
        if width is not None:
            self.widths.append(width)

    @property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """(answers, truth) of all rows."""
        return np.concatenate(self.found), np.concatenate(self.truth)

    @property
    def coverage(self) -> float:
        """The share of rows in their fold's interval."""
        errors = [np.abs(found - truth) for found, truth in zip(self.found, self.truth, strict=True)]
        inside = [one <= width for one, width in zip(errors, self.widths, strict=True)]
        return float(np.concatenate(inside).mean())


def cross_validate(
    raw: RawTable,
    settings: TableSettings,
    run: Run,
    fitted_model: Callable[[PreparedTable, Run], tuple[nn.Module, float | None]],
    metrics: Callable[[Pooled], dict[str, float]],
) -> dict[str, float]:
    """The `metrics` of all folds' test rows together, their names with cv_; {} without folds.

    `fitted_model` learns without a fold's test rows; with the model it gives the half width of its interval.
    """
    if not settings.folds:
        return {}
    pooled = Pooled()
    for prepared, once in folds_of(raw, settings, settings.folds, run):
        model, width = fitted_model(prepared, once)
        test = prepared.splits["test"]
        pooled.add(outputs_of(model, test.features).numpy(), test.targets.numpy(), width)
    return {f"cv_{name}": value for name, value in metrics(pooled).items()}


def folds_of(
    raw: RawTable, settings: TableSettings, count: int, run: Run
) -> Iterator[tuple[PreparedTable, Run]]:
    """The table prepared `count` times, each time fitted without another part of its rows, which is its test
    split; classes keep their shares. Splits that the data has are not looked at. With each comes a run that
    leaves nothing in the report and keeps no checkpoints. Raises CallError for more folds than rows.
    """
    target = settings.target or raw.target or ""
    kind = StratifiedKFold if settings.target_type == "category" else KFold
    splitter = kind(count, shuffle=True, random_state=run.seed % (1 << 32))
    rows = [row for row in raw.rows if target in row.cells]
    labels = [str(row.cells[target]) for row in rows]
    ignoring = settings.model_copy(update={"split_column": None})
    try:
        tests = [test for _, test in splitter.split(labels, labels)]
    except ValueError as error:
        raise CallError(f"folds: {count} can't be made of {len(rows):,} rows: {error}") from error
    for test in tests:
        fold = replace(raw, rows=_with_splits(rows, test))
        with TemporaryDirectory() as folder:
            yield prepare_rows(fold, ignoring, Findings(quiet=True), run.seed), run.aside(Path(folder))


def _with_splits(rows: Sequence[RawRow], test: np.ndarray) -> list[RawRow]:
    held_out = set(test.tolist())
    return [replace(row, split="test" if place in held_out else "train") for place, row in enumerate(rows)]
