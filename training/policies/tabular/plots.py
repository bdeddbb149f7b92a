"""The figures of a table: the value of every state with its greedy action, and the learning curve."""

from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from matplotlib.figure import Figure

from training.policies.tabular.vector_mdp import EpisodeLog

CARDS = ("own sum", "dealer's card")
CURVE_POINTS = 60  # each the mean of as many episodes
TAXI_TASKS = {
    "to fetch at R, for G": 1,
    "to fetch at B, for Y": 14,
    "on board, for G": 17,
    "on board, for Y": 18,
}


class ValueMap(NamedTuple):
    """One picture: values float64 [rows, columns] and what to write into its cells, [rows][columns]."""

    title: str
    values: np.ndarray
    marks: list[list[str]]
    rows: list[int]  # labels
    columns: list[int]
    labels: tuple[str, str] = ("", "")  # of rows and columns


def plot_table(
    env: gymnasium.Env[Any, Any], q: np.ndarray, episodes: EpisodeLog, num_envs: int, report: Path
) -> None:
    """Write values.png where the states have places, and curve.png where episodes were played.

    States have places in grid worlds, Taxi and Blackjack. `q` is float32 [S, A].
    """
    report.mkdir(parents=True, exist_ok=True)
    if maps := value_maps(env, q):
        _plot_maps(maps).savefig(report / "values.png", dpi=110)
    if len(episodes.step):
        _plot_curve(episodes, num_envs).savefig(report / "curve.png", dpi=110)


def _plot_maps(maps: list[ValueMap]) -> Figure:
    shape = (2, 2) if len(maps) == 4 else (1, len(maps))
    rows, columns = maps[0].values.shape
    size = (min(12, 1.5 + 0.62 * columns * shape[1]), 1 + 0.62 * rows * shape[0])
    figure = Figure(figsize=size, layout="constrained")
    for axes, value_map in zip(figure.subplots(*shape, squeeze=False).ravel(), maps, strict=True):
        _plot_map(figure, axes, value_map)
    return figure


def _plot_curve(episodes: EpisodeLog, num_envs: int) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    parts = np.array_split(episodes.returns, min(CURVE_POINTS, len(episodes.returns)))
    steps = [part[-1] * num_envs for part in np.array_split(episodes.step, len(parts))]
    axes.plot(steps, [np.mean(part) for part in parts])
    axes.set(
        title="Learning (exploration included)", xlabel="environment steps", ylabel="mean return per episode"
    )
    return figure


def value_maps(env: gymnasium.Env[Any, Any], q: np.ndarray) -> list[ValueMap]:
    """The maps of the environments that are known; none for others."""
    name: str = env.spec.name if env.spec else ""
    values, best = q.max(1), q.argmax(1)
    if name.startswith(("FrozenLake", "CliffWalking")):
        return [_grid_map(env.unwrapped, values, best)]
    if name == "Taxi":
        states, places = np.arange(500).reshape(5, 5, 20), [*range(5)]
        parts = {f"Passenger {title}": states[:, :, task] for title, task in TAXI_TASKS.items()}
        return [
            ValueMap(title, values[part], _marks("↓↑→←PD", best[part]), places, places)
            for title, part in parts.items()
        ]
    if name == "Blackjack":
        states, sums, cards = np.arange(32 * 11 * 2).reshape(32, 11, 2), [*range(12, 22)], [*range(1, 11)]
        parts = {
            "No usable ace: S stick, H hit": states[12:22, 1:, 0],
            "Usable ace: S stick, H hit": states[12:22, 1:, 1],
        }
        return [
            ValueMap(title, values[part], _marks("SH", best[part]), sums, cards, CARDS)
            for title, part in parts.items()
        ]
    return []


def _grid_map(env: Any, values: np.ndarray, best: np.ndarray) -> ValueMap:
    """Of FrozenLake and CliffWalking."""
    if hasattr(env, "desc"):
        (rows, columns), arrows = env.desc.shape, "←↓→↑"
        ground = [row.tolist() for row in env.desc.astype(str)]
    else:
        (rows, columns), arrows = env.shape, "↑→↓←"
        ground = _cliff(rows, columns)
    grid = best.reshape(rows, columns)
    marks = [[_cell(ground[r][c], arrows[grid[r, c]]) for c in range(columns)] for r in range(rows)]
    title, values = "Value and greedy action", values.reshape(rows, columns)
    return ValueMap(title, values, marks, [*range(rows)], [*range(columns)])


def _marks(letters: str, actions: np.ndarray) -> list[list[str]]:
    return [[letters[action] for action in row] for row in actions]


def _cliff(rows: int, columns: int) -> list[list[str]]:
    """The ground of CliffWalking in the letters of FrozenLake."""
    ground = [["F"] * columns for _ in range(rows)]
    ground[-1] = ["S", *["H"] * (columns - 2), "G"]
    return ground


def _cell(ground: str, arrow: str) -> str:
    return {"H": "×", "G": "G"}.get(ground, arrow)


def _plot_map(figure: Figure, axes: Any, value_map: ValueMap) -> None:
    """Cells colored by value, light where it is high, with mark and number."""
    # holes and goals have no actions
    values = np.where(np.isin(value_map.marks, ["×", "G"]), np.nan, value_map.values)
    image = axes.imshow(values, cmap="viridis")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(value_map.values):
        mark = value_map.marks[row][column]
        is_terminal = mark in ("×", "G")
        text = mark if is_terminal else f"{mark}\n{value:.2f}"
        color = "black" if is_terminal or value > middle else "white"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    axes.set_title(value_map.title, fontsize=10)
    axes.set(ylabel=value_map.labels[0], xlabel=value_map.labels[1])
    axes.set_xticks(range(len(value_map.columns)), value_map.columns)
    axes.set_yticks(range(len(value_map.rows)), value_map.rows)
    figure.colorbar(image, ax=axes, shrink=0.8)
