"""The pictures of a report about forecasts: beside the truth with their interval, and the error by step."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.series.assessment import Assessment
from training.series.baselines import naive_forecasts
from training.series.windows import Windows
from training.tables.drawing import COLORS, draw_comparison

ROWS = 3  # pictures of one forecast each
SHOWN_ONE = 300  # values of a series that is forecast one step ahead


def draw_forecasts(windows: Windows, assessment: Assessment, unit: str, path: Path) -> None:
    """Three forecasts beside the truth with what came before; of a horizon of one, the last values of one
    series with all its forecasts.
    """
    label = windows.series.target.name + (f" ({unit})" if unit else "")
    if windows.series.horizon == 1:
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        _draw_one_ahead(figure.subplots(), windows, assessment, label)
    else:
        picked = np.unique(np.linspace(0, len(windows) - 1, ROWS).astype(int))
        figure = Figure(figsize=(9, 2.6 * len(picked)), layout="constrained")
        for axes, row in zip(figure.subplots(len(picked), squeeze=False)[:, 0], picked, strict=True):
            _draw_one(axes, windows, assessment, int(row))
            axes.set(ylabel=label)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="best")
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def draw_errors(windows: Windows, assessment: Assessment, season: int, path: Path) -> None:
    """The mean absolute error at each step ahead, beside the naive forecasts'."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, windows.series.horizon + 1)
    errors = {"this network": assessment.found, **naive_forecasts(windows, season)}
    for color, (name, values) in zip(COLORS, errors.items(), strict=False):
        mean = np.nanmean(np.abs(values - assessment.truth), 0)
        axes.plot(steps, mean, color=color, label=name, marker="o", markersize=3)
    axes.set(xlabel="steps ahead", ylabel="mean absolute error", ylim=(0, None), title="Test part")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def draw_beside(assessment: Assessment, path: Path) -> None:
    """A bar for each way to forecast: its error, in that of the best naive one."""
    naive = min(error for name, error in assessment.beside.items() if not name.startswith("ridge"))
    if naive > 0:
        every = {"this network": assessment.metrics["mae"], **assessment.beside}
        relative = {name: min(error / naive, 9.99) for name, error in every.items()}
        draw_comparison(relative, "mean absolute error, in the best naive forecast's", path, most=None)


def _times(windows: Windows, positions: np.ndarray) -> list[Any]:
    """Of positions, for an axis; their numbers where the data has no times, or some that no axis knows."""
    times = [windows.flat.time(int(place), windows.series) for place in positions]
    if all(time is not None and time.year >= 1 for time in times):
        return [np.datetime64(time) for time in times]
    return list(positions.tolist())


def _draw_one(axes: Any, windows: Windows, assessment: Assessment, row: int) -> None:
    origin, flat = int(windows.origins[row]), windows.flat
    past = np.arange(origin - windows.series.window, origin)
    ahead = np.arange(origin, origin + windows.series.horizon)
    axes.plot(_times(windows, past), flat.filled[past], color=COLORS[7], linewidth=1)
    times = _times(windows, ahead)
    if assessment.ends:
        low, high = (ends[row] for ends in assessment.ends)
        axes.fill_between(times, low, high, color=COLORS[0], alpha=0.2, linewidth=0, label="interval")
    axes.plot(times, assessment.truth[row], color=COLORS[7], linewidth=1, marker=".", label="true")
    axes.plot(times, assessment.found[row], color=COLORS[0], label="forecast")
    if name := flat.names[int(flat.index[origin])]:
        axes.set_title(name, fontsize=9)


def _draw_one_ahead(axes: Any, windows: Windows, assessment: Assessment, label: str) -> None:
    last = windows.flat.index[windows.origins[-1]]
    rows = np.flatnonzero(windows.flat.index[windows.origins] == last)[-SHOWN_ONE:]
    times = _times(windows, windows.origins[rows])
    if assessment.ends:
        low, high = (ends[rows, 0] for ends in assessment.ends)
        axes.fill_between(times, low, high, color=COLORS[0], alpha=0.2, linewidth=0, label="interval")
    axes.plot(times, assessment.truth[rows, 0], color=COLORS[7], linewidth=1, marker=".", label="true")
    axes.plot(times, assessment.found[rows, 0], color=COLORS[0], label="forecast, one ahead")
    axes.set(ylabel=label)
