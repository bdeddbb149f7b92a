"""What a policy's training shows: a progress bar while it learns, curves and an episode to look at afterwards."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class History:
    """What the curves show."""

    learned: list[tuple[int, float, float]] = field(default_factory=list)  # environment steps, epsilon, loss
    screened: list[tuple[int, float]] = field(default_factory=list)  # environment steps, mean return
    episodes: int = 0  # begun and ended while learning


@contextmanager
def progress_bar(environment: str, steps: int) -> Iterator[Callable[[int, float, float], None]]:
    """Yields `show(steps, epsilon, last_return)`."""
    text = "{task.fields[rate]:,.0f} steps/s  epsilon {task.fields[epsilon]:.2f}  last return {task.fields[last]:.1f}"
    columns = (TextColumn(environment), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn(text))
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        task = progress.add_task("", total=steps, rate=0.0, epsilon=1.0, last=0.0)
        started = time.perf_counter()

        def show(done: int, epsilon: float, last: float) -> None:
            rate = done / (time.perf_counter() - started)
            progress.update(task, completed=done, epsilon=epsilon, last=last, rate=rate)

        yield show


def draw(history: History, trace: np.ndarray, wanted: float | None, report: Path) -> None:
    """curve.png (returns, epsilon and loss over environment steps) and episode.png (Q-values along an evaluation episode)."""
    report.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    if history.screened:
        above.plot(*zip(*history.screened, strict=True), marker=".", label="greedy policy")
    if wanted is not None:
        above.axhline(wanted, color="grey", linestyle="--", label=f"target {wanted:g}")
    above.set(title="Learning", ylabel="mean return per episode")
    if above.get_legend_handles_labels()[0]:
        above.legend()
    if history.learned:
        steps, epsilon, loss = zip(*history.learned, strict=True)
        below.semilogy(steps, loss, color="tab:red", linewidth=0.8)
        share = below.twinx()
        share.plot(steps, epsilon, color="tab:green")
        share.set(ylim=(0, 1.05))
        share.set_ylabel("epsilon (random actions)", color="tab:green")
    below.set(xlabel="environment steps")
    below.set_ylabel("Huber loss", color="tab:red")
    figure.savefig(report / "curve.png", dpi=110)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(trace, linewidth=1, label=[f"action {action}" for action in range(trace.shape[1])])
    axes.set(title="Q-values along one evaluation episode", xlabel="step", ylabel="expected discounted return")
    axes.legend()
    figure.savefig(report / "episode.png", dpi=110)
