"""What a column is fitted to: the training rows' means, medians, quantiles and categories."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from handlers.inputs.columns import CategoryColumn, Column, NumberColumn
from handlers.inputs.date_columns import EPOCH, DateColumn, days_of
from marina.core.errors import CallError
from training.data.class_order import class_order
from training.tables.settings import ColumnSettings

QUANTILES = 101
MOST_CATEGORIES = 1000  # of a one-hot column


def fitted(draft: Column, settings: ColumnSettings, values: Sequence[Any]) -> Column:
    """The column as the training rows' `values` (None for a missing one) make it.

    Raises CallError for a column without any value, and for too many categories.
    """
    known = [value for value in values if value is not None]
    if not known:
        raise CallError(f"columns: {draft.name} has no value in the training rows; leave it out")
    missing = settings.missing or ("impute" if len(known) < len(values) else "error")
    draft = replace(draft, missing=missing)
    if isinstance(draft, NumberColumn):
        return _number(draft, settings, np.array(known, np.float64))
    if isinstance(draft, DateColumn):
        return _date(draft, known)
    assert isinstance(draft, CategoryColumn)
    return _category(draft, settings, known)


def _number(draft: NumberColumn, settings: ColumnSettings, values: np.ndarray) -> NumberColumn:
    quantiles: tuple[float, ...] = ()
    if settings.scaling == "quantiles":
        quantiles = tuple(np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist())
    return replace(
        draft,
        mean=float(values.mean()),
        deviation=float(values.std()) or 1.0,
        baseline=float(np.median(values)),
        quantiles=quantiles,
    )


def _date(draft: DateColumn, dates: Sequence[datetime]) -> DateColumn:
    days = np.array([days_of(date) for date in dates])
    median = float(np.median(days))
    if all(date.time() == datetime.min.time() for date in dates):
        median = float(int(median))
    baseline = (EPOCH + timedelta(days=median)).isoformat(timespec="seconds")
    return replace(draft, mean=float(days.mean()), deviation=float(days.std()) or 1.0, baseline=baseline)


def _category(draft: CategoryColumn, settings: ColumnSettings, names: Sequence[str]) -> CategoryColumn:
    counts = Counter(names)
    least = settings.min_count if settings.unknown == "other" else 1
    values = settings.values or class_order(name for name, count in counts.items() if count >= least)
    if not values:
        raise CallError(f"columns: {draft.name} has no category of {least} rows; lower its min_count")
    if len(values) > MOST_CATEGORIES and not settings.embedding:
        raise CallError(
            f"columns: {draft.name} has {len(values):,} categories; give it an embedding, like 16, or "
            "unknown: other with a min_count"
        )
    common = next((name for name, _ in counts.most_common() if name in set(values)), values[0])
    return replace(draft, values=tuple(values), baseline=common)
