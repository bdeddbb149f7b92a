"""From the settings of a forecaster to its windows in splits by time: train, validation, test.

The last times are the test's, those before them the validation's, for all series alike. A window belongs to a
split if all its forecasts do; what it looks back on may lie before. Columns and scales are fitted on what
comes before the validation's times alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from handlers.inputs.columns import CategoryColumn, Column, NumberColumn
from handlers.inputs.date_columns import EPOCH, DateColumn
from handlers.inputs.frequency import Frequency
from handlers.inputs.series import SeriesInput
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from training.data.class_order import class_order
from training.data.tables import RawTable, load_table
from training.findings import Findings
from training.series.reading import FlatSeries, read_series
from training.series.settings import ForecastSettings
from training.series.windows import InputFeatures, Windows, all_windows
from training.tables.fitting_columns import fitted

LEAST_WINDOWS = 10  # of each split
ALL_DAYS = 1e7  # of the calendar: a time is in no deviations


class PreparedSeries(NamedTuple):
    """The fitted columns, all windows, and those of each split."""

    raw: RawTable
    series: SeriesInput
    windows: Windows
    splits: Mapping[str, Windows]
    first_test: int  # the first time of the test part

    def before_test(self) -> Windows:
        """Those with no forecast in the test part; between train and validation lie some that both share."""
        return self.windows.of(self.windows.last_numbers < self.first_test)

    def facts(self) -> dict[str, Any]:
        """What the export's metadata says of the data."""
        return {
            "name": self.raw.name,
            "source": self.raw.source,
            "licence": self.raw.licence,
            "series": len(self.splits["train"].flat.names),
            **{split: len(windows) for split, windows in self.splits.items()},
            "fingerprint": self.raw.fingerprint,
            "splits": "by time",
        }


def prepare(settings: ForecastSettings, findings: Findings) -> PreparedSeries:
    """The series of the settings, ready to learn from.

    Raises CallError for columns that the file lacks, and for series too short for window and horizon.
    """
    raw = load_table(settings.data)
    draft = draft_of(settings)
    flat = read_series(raw, draft, findings)
    first_validation, first_test = cuts_of(flat, settings)
    series = _fitted(flat, draft, settings, first_validation)
    features = features_of(flat, series, findings)
    windows = _scaled(all_windows(flat, series, features), first_validation)
    windows = _of_known_series(windows, findings)
    first, last = windows.first_numbers, windows.last_numbers
    splits = {
        "train": windows.of(last < first_validation),
        "validation": windows.of((first >= first_validation) & (last < first_test)),
        "test": windows.of(first >= first_test),
    }
    for split, part in splits.items():
        if len(part) < LEAST_WINDOWS:
            raise CallError(
                f"{len(part)} windows of {series.window} values with {series.horizon} behind them are in the "
                f"{split} part, too few; give longer series, or a smaller window or horizon"
            )
    return PreparedSeries(raw, windows.series, windows, splits, first_test)


def draft_of(settings: ForecastSettings) -> SeriesInput:
    """The columns before they are fitted."""
    target = NumberColumn(
        settings.target,
        unit=settings.unit,
        minimum=settings.minimum,
        maximum=settings.maximum,
        deviation=1.0,
    )
    time = None
    if settings.time:
        time = DateColumn(
            settings.time,
            baseline=EPOCH.isoformat(),
            deviation=ALL_DAYS,
            form=settings.form,
            parts=settings.calendar,
        )
    column = None
    if settings.series:
        column = CategoryColumn(settings.series, unknown=settings.unknown, dimension=settings.embedding)
    return SeriesInput(
        target=target,
        window=settings.window,
        horizon=settings.horizon,
        time=time,
        frequency=Frequency.from_text(settings.frequency or "day"),
        series=column,
        known=tuple(one.draft(name) for name, one in settings.known.items()),
        observed=tuple(one.draft(name) for name, one in settings.observed.items()),
        missing=settings.missing,
        transform=settings.transform,
        scale=settings.scale,
        missing_values=frozenset(settings.missing_values),
    )


def cuts_of(flat: FlatSeries, settings: ForecastSettings) -> tuple[int, int]:
    """The first time of the validation, and of the test: shares of all values lie behind them."""
    numbers = np.sort(flat.number[~np.isnan(flat.values)])
    if not len(numbers):
        raise CallError(f"target: {settings.target} has no value")
    validation = 1 - settings.test_share - settings.validation_share
    places = [int(len(numbers) * share) for share in (validation, 1 - settings.test_share)]
    return int(numbers[places[0]]), int(numbers[places[1]])


def features_of(flat: FlatSeries, series: SeriesInput, findings: Findings) -> InputFeatures:
    """Of every time; what the columns can't take is NaN and a finding."""
    known, observed, width = series.widths
    count = len(flat.values)
    arrays = (np.zeros((count, known), np.float32), np.zeros((count, observed), np.float32))
    calendar = series.time.width if series.time and series.time.parts else 0
    refused: list[str] = []
    for place in range(count) if known or observed else ():
        if series.time and calendar:
            arrays[0][place, :calendar] = series.time.encode(flat.time(place, series))
        cells = flat.inputs[place] if flat.inputs else []
        middle = len(series.known)
        for array, start, columns, part in (
            (arrays[0], calendar, series.known, slice(0, middle)),
            (arrays[1], 0, series.observed, slice(middle, None)),
        ):
            if columns:
                array[place, start:] = _encoded(columns, cells[part] if cells is not None else None, refused)
    findings.add("times", "left out: the model can't take an input", refused, count)
    own = np.zeros((len(flat.names), width), np.float32)
    other = np.zeros(width, np.float32)
    if series.series:
        for row, name in enumerate(flat.names):
            if name in series.series.values or series.series.unknown == "other":
                own[row] = series.series.encode(name)
        if series.series.unknown == "other":
            other = np.array(series.series.encode("\0"), np.float32)
    return InputFeatures(*arrays, own, other)


def _encoded(columns: Sequence[Column], cells: list[Any] | None, refused: list[str]) -> list[float] | float:
    """NaN for a row that isn't there, and for one that a request couldn't have."""
    if cells is None:
        return np.nan
    features: list[float] = []
    for column, cell in zip(columns, cells, strict=True):
        try:
            column.check(cell)
        except RequestError as error:
            refused.append(str(error))
            return np.nan
        features += column.encode(cell)
    return features


def _fitted(flat: FlatSeries, draft: SeriesInput, settings: ForecastSettings, first: int) -> SeriesInput:
    """Known and observed columns, and the series' names, as the times before `first` have them."""
    is_training = flat.number < first
    rows = (
        [row for row, is_one in zip(flat.inputs, is_training, strict=True) if is_one and row]
        if flat.inputs
        else []
    )
    columns = [
        fitted(column, {**settings.known, **settings.observed}[column.name], [row[place] for row in rows])
        for place, column in enumerate((*draft.known, *draft.observed))
    ]
    middle = len(draft.known)
    column = draft.series
    if column is not None:
        seen = np.unique(flat.index[is_training & ~np.isnan(flat.values)])
        values = class_order(flat.names[index] for index in seen)
        column = replace(column, values=values, baseline=values[0])
    return replace(draft, known=tuple(columns[:middle]), observed=tuple(columns[middle:]), series=column)


def _scaled(windows: Windows, first: int) -> Windows:
    """With the deviations of the training windows' changes: of each series, and of all."""
    train = windows.of(windows.last_numbers < first)
    if not len(train):
        return windows
    anchors = windows.series.transformed(train.flat.filled[train.origins - 1])
    changes = windows.series.transformed(train.truth()) - anchors[:, None]
    squares = (changes**2).mean(1)
    index = train.flat.index[train.origins]
    sums = np.bincount(index, squares, len(train.flat.names))
    counts = np.bincount(index, minlength=len(train.flat.names))
    deviations = {"": float(np.sqrt(squares.mean())) or 1.0}
    for name, total, count in zip(train.flat.names, sums, counts, strict=True):
        if count and name:
            deviations[name] = float(np.sqrt(total / count)) or deviations[""]
    return replace(windows, series=replace(windows.series, deviations=deviations))


def _of_known_series(windows: Windows, findings: Findings) -> Windows:
    """Without series that a request couldn't name; those without a window are a finding, too."""
    column, flat = windows.series.series, windows.flat
    counts = np.bincount(flat.index[windows.origins], minlength=len(flat.names))
    least = f"{windows.series.window} values and {windows.series.horizon} behind them"
    short = [flat.names[index] or "the series" for index in np.flatnonzero(counts == 0)]
    findings.add("series", f"left out: none has {least} without a gap", short, len(flat.names))
    if column is None or column.unknown == "other":
        return windows
    unknown = [index for index, name in enumerate(flat.names) if name not in column.values and counts[index]]
    named = [flat.names[index] for index in unknown]
    findings.add("series", "left out: they have no value in the training part", named, len(flat.names))
    return windows.of(~np.isin(flat.index[windows.origins], unknown))


def windows_to_measure(settings: ForecastSettings, series: SeriesInput, is_trained_on: bool) -> Windows:
    """The windows to measure an exported model on: those of its own data's test part, or all of other data.

    Raises CallError as `prepare`, and where there are none.
    """
    findings = Findings()
    raw = load_table(settings.data)
    # cells are read as in training; the fitted columns are those of the export
    flat = read_series(raw, draft_of(settings), findings)
    windows = _of_known_series(all_windows(flat, series, features_of(flat, series, findings)), findings)
    if is_trained_on:
        windows = windows.of(windows.first_numbers >= cuts_of(flat, settings)[1])
    findings.report()
    if not len(windows):
        raise CallError(
            f"data {raw.name} has no window of {series.window} values and {series.horizon} behind"
        )
    return windows
