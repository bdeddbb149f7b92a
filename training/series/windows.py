"""Windows of series: which there are, in which split, and their features and targets, made when asked for.

An origin is the position of a window's first forecast: the window lies before it, the horizon from it on.
Windows are never all in memory: a million values with a window of a hundred take eight megabytes, not
eight hundred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from handlers.inputs.series import SeriesInput
from training.runs.batches import Batches, shuffled
from training.series.reading import FlatSeries

OTHER_SHARE = 0.1  # of windows that learn as a series of no known name, where such are forecast
EVALUATION_BATCH = 1024


class WindowBatch(NamedTuple):
    """Features float32 [B, F] and scaled changes float32 [B, horizon]; anchors and scales float64 [B]."""

    features: torch.Tensor
    targets: torch.Tensor
    anchors: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True)
class Windows:
    """The windows of some origins int64 [N]."""

    flat: FlatSeries
    series: SeriesInput
    features: "InputFeatures"
    origins: np.ndarray

    def __len__(self) -> int:
        return len(self.origins)

    def of(self, is_kept: np.ndarray) -> "Windows":
        """Those for which it is true."""
        return replace(self, origins=self.origins[is_kept])

    def spread(self, most: int) -> "Windows":
        """At most so many, evenly from all."""
        return replace(self, origins=self.origins[:: max(1, -(-len(self) // most))])

    @cached_property
    def first_numbers(self) -> np.ndarray:
        """The time of each first forecast."""
        numbers: np.ndarray = self.flat.number[self.origins]
        return numbers

    @property
    def last_numbers(self) -> np.ndarray:
        """The time of each last forecast."""
        return self.first_numbers + self.series.horizon - 1

    @property
    def names(self) -> list[str]:
        """The series of each."""
        return [self.flat.names[index] for index in self.flat.index[self.origins]]

    @cached_property
    def deviations(self) -> np.ndarray:
        """Of the series, float64 by its index."""
        known = self.series.deviations
        return np.array([known.get(name, known[""]) for name in self.flat.names])

    def truth(self) -> np.ndarray:
        """True values float64 [N, horizon]."""
        return self.flat.values[self.origins[:, None] + np.arange(self.series.horizon)]

    def batch(
        self, rows: Sequence[int] | np.ndarray | slice, as_other: np.ndarray | None = None
    ) -> WindowBatch:
        """Some of them; those that are `as_other` get the features of a series of no known name."""
        origins = self.origins[rows]
        past = self.flat.filled[origins[:, None] + np.arange(-self.series.window, 0)]
        index = self.flat.index[origins]
        history, anchors, scales = self.series.scaled(past, self.deviations[index])
        both = origins[:, None] + np.arange(-self.series.window, self.series.horizon)
        own = self.features.own[index]
        if as_other is not None:
            own = np.where(as_other[:, None], self.features.other, own)
        observed = self.features.observed[both[:, : self.series.window]]
        features = self.series.assemble(history, self.features.known[both], observed, own)
        truth = self.series.transformed(self.flat.values[both[:, self.series.window :]])
        targets = ((truth - anchors[:, None]) / scales[:, None]).astype(np.float32)
        return WindowBatch(torch.from_numpy(features), torch.from_numpy(targets), anchors, scales)

    def request(self, row: int) -> dict[str, Any]:
        """One as a request has it."""
        series, origin = self.series, int(self.origins[row])
        start, stop = origin - series.window, origin + series.horizon
        values = self.flat.values[start:origin].tolist()
        body: dict[str, Any] = {}
        if series.time:
            body[series.time.name] = [
                series.time.sent(self.flat.time(place, series)) for place in range(start, origin)
            ]
        if series.series:
            body[series.series.name] = self.flat.names[int(self.flat.index[origin])]
        body[series.target.name] = [None if math.isnan(value) else value for value in values]
        for place, column in enumerate((*series.known, *series.observed)):
            ends = stop if place < len(series.known) else origin
            cells = [self.flat.inputs[at] for at in range(start, ends)]
            body[column.name] = [column.sent(cell[place] if cell else None) for cell in cells]
        return body


@dataclass(frozen=True)
class InputFeatures:
    """Features of known inputs [T, K] and observed ones [T, O], NaN where a row lacks them; of each series
    [series, S], and of one of no known name [S].
    """

    known: np.ndarray
    observed: np.ndarray
    own: np.ndarray
    other: np.ndarray


class WindowBatches(Batches[tuple[torch.Tensor, torch.Tensor]]):
    """Batches of an epoch: all windows in a drawn order."""

    def __init__(self, windows: Windows, size: int, seed: int) -> None:
        super().__init__(seed)
        self.windows, self.size = windows, min(size, len(windows))
        column = windows.series.series
        self.learns_other = column is not None and column.unknown == "other"

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.windows) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """Drawn."""
        return shuffled(len(self.windows), self.size, self.generator)

    def batch(self, read: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and scaled changes of these windows."""
        as_other = None
        if self.learns_other:
            as_other = torch.rand(len(read), generator=self.generator).numpy() < OTHER_SHARE
        found = self.windows.batch(read, as_other)
        return found.features, found.targets


def all_windows(flat: FlatSeries, series: SeriesInput, features: InputFeatures) -> Windows:
    """Every window whose values, inputs and truth are there."""
    positions = np.arange(len(flat.values))
    starts = np.array(flat.starts)
    fits = (positions - series.window >= starts[flat.index]) & (
        positions + series.horizon <= starts[flat.index + 1]
    )
    origins = positions[fits]
    last, first = origins - 1, origins - series.window
    # a window of a request begins and ends with a value
    is_whole = ~np.isnan(flat.values[last]) & ~np.isnan(flat.values[first])
    is_whole &= _none_missing(np.isnan(flat.filled), first, origins)
    is_whole &= _none_missing(np.isnan(flat.values), origins, origins + series.horizon)
    is_whole &= _none_missing(np.isnan(features.known).any(1), first, origins + series.horizon)
    is_whole &= _none_missing(np.isnan(features.observed).any(1), first, origins)
    return Windows(flat, series, features, origins[is_whole])


def _none_missing(is_missing: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Whether none is from each `first` to before `stop`."""
    counts = np.concatenate([[0], np.cumsum(is_missing)])
    return np.asarray(counts[first] == counts[stop])
