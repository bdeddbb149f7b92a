"""Series: the last values of one, with what is known beside them -> the graph's features.

preprocess_config.json names the columns, and how many values a forecast looks back and ahead:

    {"type": "series", "window": 36, "horizon": 12, "target": {...}, "time": {...}, "frequency": "month", ...}

Values are sent as they are. The graph gets them transformed, less the last one (the anchor), in deviations of
the series: computed in float64 here, so that a small change of a large number is not lost in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..protocol.errors import BadRequest, quoted
from .columns import FURTHEST, CategoryColumn, Column, NumberColumn
from .date_columns import DateColumn
from .frequency import Frequency
from .series_payloads import Cells, cells_of, check_counts
from .tables import TYPES, Table

FLATTEST = 1e-3  # of a window that is scaled by itself: its least deviation, in those of the training rows


@dataclass(frozen=True)
class SeriesWindow:
    """What a forecast is made from: values float64 [window], features of the known inputs [window + horizon,
    K] and of the observed ones [window, O], the series with its own [S], and the times of the answers.
    """

    values: np.ndarray
    known: np.ndarray
    observed: np.ndarray
    series: str = ""
    own: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    past: Sequence[datetime] = ()
    future: Sequence[datetime] = ()


@dataclass(frozen=True)
class SeriesInput:
    """The columns of a series, the window and the horizon in values, and how values are scaled."""

    target: NumberColumn
    window: int
    horizon: int
    time: DateColumn | None = None
    frequency: Frequency = field(default_factory=lambda: Frequency("day"))
    series: CategoryColumn | None = None
    known: tuple[Column, ...] = ()
    observed: tuple[Column, ...] = ()
    missing: str = "error"  # or interpolate
    transform: str = "none"  # or log, sqrt
    scale: str = "series"  # or window
    deviations: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})  # "": of all series
    missing_values: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SeriesInput":
        """Of preprocess_config.json."""

        def column(one: Mapping[str, Any] | None) -> Any:
            return TYPES[one["type"]].from_config(one) if one else None

        plain = ("window", "horizon", "missing", "transform", "scale", "deviations")
        time = column(config["time"])
        return cls(
            target=column(config["target"]),
            time=time and replace(time, parts=tuple(config["calendar"])),
            frequency=Frequency.from_text(config["frequency"]),
            series=column(config["series"]),
            known=tuple(column(one) for one in config["known"]),
            observed=tuple(column(one) for one in config["observed"]),
            missing_values=frozenset(config["missing_values"]),
            **{key: config[key] for key in plain},
        )

    def as_config(self) -> dict[str, Any]:
        """The content of preprocess_config.json."""
        return {
            "type": "series",
            "window": self.window,
            "horizon": self.horizon,
            "target": self.target.as_config(),
            "time": self.time and self.time.as_config(),
            "calendar": list(self.time.parts) if self.time else [],
            "frequency": str(self.frequency),
            "series": self.series and self.series.as_config(),
            "known": [column.as_config() for column in self.known],
            "observed": [column.as_config() for column in self.observed],
            "missing": self.missing,
            "transform": self.transform,
            "scale": self.scale,
            "deviations": dict(self.deviations),
            "missing_values": sorted(self.missing_values),
        }

    @cached_property
    def table(self) -> Table:
        """All columns, whose cells are read as those of a table's rows."""
        others = [one for one in (self.time, self.series) if one is not None]
        return Table((*others, self.target, *self.known, *self.observed), self.missing_values)

    @property
    def needs_target_alone(self) -> bool:
        """Whether a plain list of values is a request."""
        return not (self.series or self.known or self.observed or (self.time and self.time.parts))

    @cached_property
    def known_slices(self) -> dict[str, slice]:
        """The features of each known input, the calendar's under the name of the time."""
        calendar = (self.time,) if self.time and self.time.parts else ()
        return Table((*calendar, *self.known)).slices

    @cached_property
    def observed_slices(self) -> dict[str, slice]:
        """The features of each observed input."""
        return Table(self.observed).slices

    @cached_property
    def widths(self) -> tuple[int, int, int]:
        """Features per time of known and of observed inputs, and those of the series itself."""
        known = sum(part.stop - part.start for part in self.known_slices.values())
        observed = sum(part.stop - part.start for part in self.observed_slices.values())
        return known, observed, self.series.width if self.series else 0

    def read(self, payload: Any) -> SeriesWindow:
        """The window of one instance. Raises BadRequest that says what is wrong with which column, where."""
        cells, is_text = cells_of(payload, self.table.names, self.target.name)
        self._check_names(cells)
        name, own = self._series(cells, is_text)
        values = [self.table.parse(self.target, cell, is_text) for cell in cells[self.target.name]]
        while values and values[-1] is None:  # times that are still to come
            values.pop()
        count = len(values)
        known, observed = ([column.name for column in part] for part in (self.known, self.observed))
        check_counts(cells, self.target.name, known, observed, count, self.window, self.horizon)
        start = count - self.window
        past, future = self._times(cells, count, is_text)
        times = [*past, *future]
        ahead = self._features(cells, self.known, start, count + self.horizon, is_text, times)
        return SeriesWindow(
            self._filled(values[start:], past),
            np.concatenate([self._calendar(times), ahead], 1),
            self._features(cells, self.observed, start, count, is_text, past),
            name,
            own,
            past,
            future,
        )

    def encode(self, window: SeriesWindow) -> tuple[np.ndarray, tuple[float, float]]:
        """The features float32 [F], and what outputs are relative to: anchor and scale.

        Raises BadRequest for values so far from each other that nothing could be learned of such.
        """
        deviation = self.deviations.get(window.series, self.deviations[""])
        history, anchor, scale = self.scaled(window.values[None], np.array([deviation]))
        if not np.abs(history).max() <= FURTHEST:
            raise BadRequest(
                f"{self.target.name} changes by more than {FURTHEST:,.0f} times of what the training rows do"
            )
        parts = (history, window.known[None], window.observed[None], window.own[None])
        return self.assemble(*parts)[0], (float(anchor[0]), float(scale[0]))

    def scaled(self, values: np.ndarray, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values float64 [N, window] and their series' deviations [N] -> history float64 [N, window], anchors
        and scales float64 [N].
        """
        transformed = self.transformed(values)
        anchors = transformed[:, -1]
        scales = deviations
        if self.scale == "window":
            scales = np.maximum(transformed.std(1), FLATTEST * self.deviations[""])
        with np.errstate(over="ignore"):  # what is infinite then is too far, and refused
            history = (transformed - anchors[:, None]) / scales[:, None]
        return history, anchors, scales

    def assemble(
        self, history: np.ndarray, known: np.ndarray, observed: np.ndarray, own: np.ndarray
    ) -> np.ndarray:
        """History [N, window], known inputs [N, window + horizon, K], observed ones [N, window, O] and those
        of the series [N, S] -> features float32 [N, F], as `training.series.networks` takes them apart.
        """
        count = len(history)
        past = np.concatenate([history[:, :, None], known[:, : self.window], observed], 2)
        parts = (past.reshape(count, -1), known[:, self.window :].reshape(count, -1), own)
        return np.concatenate(parts, 1).astype(np.float32, copy=False)

    def transformed(self, values: np.ndarray) -> np.ndarray:
        """Values as they are forecast."""
        if self.transform == "none":
            return values
        transformed: np.ndarray = np.log(values) if self.transform == "log" else np.sqrt(values)
        return transformed

    def restored(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `transformed`."""
        if self.transform == "none":
            return values
        if self.transform == "log":
            return np.asarray(np.exp(np.minimum(values, 700.0)))
        return np.asarray(np.maximum(values, 0.0) ** 2)

    def check_transform(self, value: float) -> None:
        """Raise BadRequest for a value that has no logarithm or root."""
        if (self.transform == "log" and value <= 0) or (self.transform == "sqrt" and value < 0):
            least = "above 0" if self.transform == "log" else "0 or more"
            raise BadRequest(f"{self.target.name} is {value:g}; it must be {least}")

    def place(self, times: Sequence[datetime], index: int, count: int) -> str:
        """Where a cell lies, in a message: its time, or its number from the end."""
        if times and self.time:
            return f"at {self.time.sent(times[index])}"
        return "at the last time" if index == count - 1 else f"{count - 1 - index} times before the last"

    def _check_names(self, cells: Cells) -> None:
        names = self.table.names
        if unknown := [name for name in cells if name not in names]:
            raise BadRequest(f"there is no column {quoted(unknown[:3])}; the columns are {', '.join(names)}")
        needed = [self.target, *self.known, *self.observed, *([self.series] if self.series else [])]
        if self.time and self.time.parts:
            needed.append(self.time)
        if lacking := [column for column in needed if column.name not in cells]:
            raise BadRequest(
                f"the column {lacking[0].name!r} is left out; send a list of {lacking[0].words()}"
            )

    def _series(self, cells: Cells, is_text: bool) -> tuple[str, np.ndarray]:
        """Its name and features. Raises BadRequest for several in one instance."""
        if self.series is None:
            return "", np.zeros(0, np.float32)
        names = {self.table.value(self.series, cell, is_text) for cell in cells[self.series.name]}
        if len(names) != 1:
            raise BadRequest(
                f"{len(names)} values of {self.series.name} in one instance; send each series by itself"
            )
        (name,) = names
        return str(name), np.array(self.series.encode(name), np.float32)

    def _times(self, cells: Cells, count: int, is_text: bool) -> tuple[list[datetime], list[datetime]]:
        """The times of the window and of the forecasts; none where none were sent. A single one is that of
        the last value.

        Raises BadRequest for an order or a gap that the frequency doesn't have.
        """
        if self.time is None or self.time.name not in cells:
            return [], []
        sent = cells[self.time.name]
        if 1 < len(sent) < count:
            raise BadRequest(
                f"{self.time.name} has {len(sent)} cells, {self.target.name} {count} values; send a time for "
                "each, or the last one's alone"
            )
        try:
            if len(sent) == 1:
                last = self._time(sent[0], is_text)
                times = [self.frequency.after(last, step) for step in range(1 - self.window, 1)]
            else:
                times = [self._time(cell, is_text) for cell in sent[count - self.window :]]
                for first, second in pairwise(times):
                    self._check_step(first, second)
            last = times[self.window - 1]
            future = [self.frequency.after(last, step) for step in range(1, self.horizon + 1)]
        except OverflowError:
            raise BadRequest(f"{self.time.name} goes beyond the years 1 to 9999") from None
        return times[: self.window], future

    def _time(self, cell: Any, is_text: bool) -> datetime:
        assert self.time is not None
        if isinstance(cell, int) and not isinstance(cell, bool) and self.time.form == "%Y":
            cell = f"{cell:04}"
        value: datetime = self.table.value(self.time, cell, is_text)
        return value

    def _check_step(self, first: datetime, second: datetime) -> None:
        assert self.time is not None
        steps = self.frequency.between(first, second)
        if steps == 1:
            return
        name, behind = self.time.name, f"{self.time.sent(second)} behind {self.time.sent(first)}"
        if steps is None:
            raise BadRequest(f"{name}: {behind} is not {self.frequency} later; values come every so often")
        if steps < 1:
            raise BadRequest(f"{name}: {behind} is out of order; send every time once, the oldest first")
        remedy = "send null for them" if self.missing == "interpolate" else "the series must have no gap"
        raise BadRequest(f"{name}: {behind} leaves out {steps - 1}; {remedy}")

    def _filled(self, values: list[Any], times: Sequence[datetime]) -> np.ndarray:
        """Missing values between others interpolated, where the model does so."""
        count = len(values)
        for index, value in enumerate(values):
            if value is None and (self.missing == "error" or not index):
                remedy = "send a number" if self.missing == "error" else "the oldest one must be there"
                raise BadRequest(f"{self.target.name} is missing {self.place(times, index, count)}; {remedy}")
            if value is not None:
                self.check_transform(value)
        return interpolated(np.array([np.nan if one is None else one for one in values], np.float64))

    def _features(
        self,
        cells: Cells,
        columns: Sequence[Column],
        start: int,
        stop: int,
        is_text: bool,
        times: Sequence[datetime],
    ) -> np.ndarray:
        """Features float32 [stop - start, ...] of columns; `times` are told where a cell is refused."""
        rows: list[list[float]] = [[] for _ in range(stop - start)]
        for column in columns:
            for index, (row, cell) in enumerate(zip(rows, cells[column.name][start:stop], strict=True)):
                try:
                    row.extend(column.encode(self.table.value(column, cell, is_text)))
                except BadRequest as refusal:
                    raise BadRequest(f"{refusal}, {self.place(times, index, len(rows))}") from None
        return np.array(rows, np.float32).reshape(len(rows), -1)

    def _calendar(self, times: Sequence[datetime]) -> np.ndarray:
        """Features float32 [window + horizon, ...] of the times."""
        parts = [self.time.encode(time) for time in times] if self.time and self.time.parts else []
        return np.array(parts, np.float32).reshape(self.window + self.horizon, -1)


def interpolated(values: np.ndarray) -> np.ndarray:
    """NaN between values float64 [T] on the line between these; before the first and behind the last it
    stays.
    """
    is_known = ~np.isnan(values)
    places = np.arange(len(values))
    if is_known.all() or not is_known.any():
        return values
    between = np.interp(places, places[is_known], values[is_known], left=np.nan, right=np.nan)
    return np.asarray(between)
