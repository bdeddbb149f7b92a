"""The pictures of a report about rows: residuals, decision boundary, other models, importance of columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from handlers.inputs.columns import NumberColumn
from training.tables.networks import outputs_of
from training.tables.preparation import PreparedTable

POINTS = 2000  # of a scatter
GRID = 120  # cells along each side of a decision boundary
SHOWN = 20  # columns of the importance
# Okabe and Ito's colors (2008), which people with any kind of color vision can tell apart
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#444444")


def draw_residuals(found: np.ndarray, truth: np.ndarray, width: float | None, unit: str, path: Path) -> None:
    """Answered against true values, with the interval, and the errors against the answers."""
    found, truth = found[:POINTS], truth[:POINTS]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ends = np.array([min(truth.min(), found.min()), max(truth.max(), found.max())])
    left.plot(ends, ends, color="gray", linewidth=1)
    right.axhline(0, color="gray", linewidth=1)
    if width is not None:
        left.fill_between(ends, ends - width, ends + width, color=COLORS[0], alpha=0.12, label="interval")
        right.axhspan(-width, width, color=COLORS[0], alpha=0.12)
        left.legend(frameon=False)
    left.scatter(found, truth, s=8, alpha=0.6, color=COLORS[0])
    right.scatter(found, truth - found, s=8, alpha=0.6, color=COLORS[1])
    named = f" ({unit})" if unit else ""
    left.set(xlabel=f"answered{named}", ylabel=f"true{named}", title="Test rows")
    right.set(xlabel=f"answered{named}", ylabel="true less answered", title="Residuals")
    _save(figure, path)


def draw_comparison(scores: Mapping[str, float], metric: str, path: Path, most: float | None = 1.1) -> None:
    """A bar for each model's metric on the test rows; `most` ends the axis, None for the longest bar's."""
    figure = Figure(figsize=(7, 0.6 + 0.5 * len(scores)), layout="constrained")
    axes = figure.subplots()
    names = list(scores)[::-1]
    bars = axes.barh(names, [scores[name] for name in names], color=COLORS[0])
    axes.bar_label(bars, fmt="%.3f", padding=4)
    least = min(0.0, *scores.values())
    axes.set(xlabel=metric, xlim=(least - 0.15 * (least < 0), most or 1.15 * max(scores.values())))
    _save(figure, path)


def draw_importance(importance: Mapping[str, float], metric: str, path: Path) -> None:
    """How much the metric falls if a column's cells are given to other rows."""
    shown = dict(list(importance.items())[:SHOWN])
    figure = Figure(figsize=(7, 0.8 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    names = list(shown)[::-1]
    axes.barh([_short(name) for name in names], [shown[name] for name in names], color=COLORS[0])
    axes.axvline(0, color="gray", linewidth=1)
    axes.set(xlabel=f"{metric} less when permuted", title="Importance of columns, test rows")
    _save(figure, path)


def draw_boundary(
    module: nn.Module, prepared: PreparedTable, importance: Mapping[str, float], path: Path
) -> None:
    """The answered class over the two most important columns of numbers, all others at their baseline, with
    the test rows in the colors of their true classes. Nothing where there are no two such columns.
    """
    columns = {one.name: one for one in prepared.table.columns if isinstance(one, NumberColumn)}
    names = [name for name in importance if name in columns][:2]
    if len(names) < 2:
        return
    places = [prepared.table.names.index(name) for name in names]
    test = prepared.splits["test"]
    cells = [[row[place] for row in test.values] for place in places]
    points = np.array(cells, np.float64).T  # NaN where a cell is missing, which is not drawn
    sides = [np.linspace(*_ends(points[:, axis]), GRID) for axis in (0, 1)]
    answers = _answers(module, prepared, places, sides)
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    colors = np.array([_rgb(index) for index in range(len(prepared.classes))])
    shades = answers @ colors  # a mixture where the answer is unsure
    image = 1 - 0.45 * (1 - shades.reshape(GRID, GRID, 3))
    extent = (sides[0][0], sides[0][-1], sides[1][0], sides[1][-1])
    axes.imshow(image, origin="lower", extent=extent, aspect="auto", interpolation="bilinear")
    for index, name in enumerate(prepared.classes):
        own = (test.targets == index).numpy()
        axes.scatter(
            points[own, 0],
            points[own, 1],
            s=16,
            color=colors[index],
            edgecolor="white",
            linewidth=0.5,
            label=name,
        )
    axes.set(xlabel=names[0], ylabel=names[1], title="Answered classes, other columns at their baseline")
    axes.legend(frameon=True, fontsize=8)
    _save(figure, path)


def _answers(
    module: nn.Module, prepared: PreparedTable, places: Sequence[int], sides: Sequence[np.ndarray]
) -> np.ndarray:
    """Probabilities [GRID * GRID, classes], row by row of the second side."""
    row: list[Any] = [column.typical for column in prepared.table.columns]
    features = []
    for up in sides[1]:
        for across in sides[0]:
            row[places[0]], row[places[1]] = float(across), float(up)
            features.append(prepared.table.encode(row))
    return outputs_of(module, torch.from_numpy(np.stack(features))).softmax(1).numpy()


def _ends(values: np.ndarray) -> tuple[float, float]:
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.05 * (most - least) or 1.0
    return least - margin, most + margin


def _rgb(index: int) -> tuple[float, ...]:
    color = COLORS[index % len(COLORS)]
    return tuple(int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
