"""What a table shows: the value of every state with its greedy action, and what the episodes earned while it was learned."""

from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from matplotlib.figure import Figure

from training.tabular.copies import Finished

CARDS = ("own sum", "dealer's card")
POINTS = 60  # of the curve, each the mean of as many episodes


class Map(NamedTuple):
    """One picture: values float64 [rows, columns] and what to write into its cells, [rows][columns]."""

    title: str
    values: np.ndarray
    marks: list[list[str]]
    rows: list[int]  # labels
    columns: list[int]
    labels: tuple[str, str] = ("", "")  # of rows and columns


def draw(env: gymnasium.Env[Any, Any], q: np.ndarray, finished: Finished, copies: int, report: Path) -> None:
    """values.png where the states have places (grid worlds, Taxi, Blackjack), and curve.png where episodes were played.

    `q` is float32 [S, A], `finished` counts the steps of each of `copies` copies.
    """
    report.mkdir(parents=True, exist_ok=True)
    maps = maps_of(env, q)
    if maps:
        shape = (2, 2) if len(maps) == 4 else (1, len(maps))
        rows, columns = maps[0].values.shape
        figure = Figure(figsize=(min(12, 1.5 + 0.62 * columns * shape[1]), 1 + 0.62 * rows * shape[0]), layout="constrained")
        for axes, one in zip(figure.subplots(*shape, squeeze=False).ravel(), maps, strict=True):
            _draw_map(figure, axes, one)
        figure.savefig(report / "values.png", dpi=110)
    if len(finished.step):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        parts = [np.mean(part) for part in np.array_split(finished.earned, min(POINTS, len(finished.earned)))]
        steps = [part[-1] * copies for part in np.array_split(finished.step, len(parts))]
        axes.plot(steps, parts)
        axes.set(title="Learning (exploration included)", xlabel="environment steps", ylabel="mean return per episode")
        figure.savefig(report / "curve.png", dpi=110)


def maps_of(env: gymnasium.Env[Any, Any], q: np.ndarray) -> list[Map]:
    """The maps of the environments that are known; none for others."""
    name: str = env.spec.name if env.spec else ""
    inner: Any = env.unwrapped
    values, best = q.max(1), q.argmax(1)
    if name.startswith(("FrozenLake", "CliffWalking")):
        rows, columns = inner.desc.shape if hasattr(inner, "desc") else inner.shape
        ground = [row.tolist() for row in inner.desc.astype(str)] if hasattr(inner, "desc") else _cliff(rows, columns)
        arrows = "←↓→↑" if hasattr(inner, "desc") else "↑→↓←"
        grid = best.reshape(rows, columns)
        marks = [[_cell(ground[r][c], arrows[grid[r, c]]) for c in range(columns)] for r in range(rows)]
        return [Map("Value and greedy action", values.reshape(rows, columns), marks, [*range(rows)], [*range(columns)])]
    if name == "Taxi":
        states = np.arange(500).reshape(5, 5, 20)
        wanted = {"to fetch at R, for G": 1, "to fetch at B, for Y": 14, "on board, for G": 17, "on board, for Y": 18}
        parts = {f"Passenger {title}": states[:, :, task] for title, task in wanted.items()}
        return [Map(title, values[part], _marks("↓↑→←PD", best[part]), [*range(5)], [*range(5)]) for title, part in parts.items()]
    if name == "Blackjack":
        states = np.arange(32 * 11 * 2).reshape(32, 11, 2)
        parts = {"No usable ace: S stick, H hit": states[12:22, 1:, 0], "Usable ace: S stick, H hit": states[12:22, 1:, 1]}
        return [
            Map(title, values[part], _marks("SH", best[part]), [*range(12, 22)], [*range(1, 11)], CARDS) for title, part in parts.items()
        ]
    return []


def _marks(letters: str, actions: np.ndarray) -> list[list[str]]:
    return [[letters[action] for action in row] for row in actions]


def _cliff(rows: int, columns: int) -> list[list[str]]:
    """The ground of CliffWalking in the letters of FrozenLake."""
    ground = [["F"] * columns for _ in range(rows)]
    ground[-1] = ["S", *["H"] * (columns - 2), "G"]
    return ground


def _cell(ground: str, arrow: str) -> str:
    return {"H": "×", "G": "G"}.get(ground, arrow)


def _draw_map(figure: Figure, axes: Any, one: Map) -> None:
    """Cells coloured by value, light where it is high, with mark and number."""
    drawn = np.where(np.isin(one.marks, ["×", "G"]), np.nan, one.values)  # nothing is chosen in a hole or at the goal
    image = axes.imshow(drawn, cmap="viridis")
    middle = (np.nanmin(drawn) + np.nanmax(drawn)) / 2
    for (row, column), value in np.ndenumerate(one.values):
        hole = one.marks[row][column] in ("×", "G")
        text = one.marks[row][column] if hole else f"{one.marks[row][column]}\n{value:.2f}"
        colour = "black" if hole or value > middle else "white"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_title(one.title, fontsize=10)
    axes.set(ylabel=one.labels[0], xlabel=one.labels[1])
    axes.set_xticks(range(len(one.columns)), one.columns)
    axes.set_yticks(range(len(one.rows)), one.rows)
    figure.colorbar(image, ax=axes, shrink=0.8)
