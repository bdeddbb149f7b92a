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

    learned: list[tuple[int, float, float]] = field(default_factory=list)  # environment steps, exploration, loss
    screened: list[tuple[int, float]] = field(default_factory=list)  # environment steps, mean return
    episodes: int = 0  # begun and ended while learning
    interrupted: bool = False  # by Ctrl-C
    resumed: list[int] = field(default_factory=list)  # environment steps at which a stopped training was gone on with
    seconds: float = 0.0  # spent learning, before a stop and after it
    cpu_seconds: float = 0.0
    clock: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))

    def next_look(self, every: int) -> int:
        """Environment steps at which the policy is looked at next."""
        return (self.screened[-1][0] if self.screened else 0) + every

    def tick(self) -> None:
        """Count the time since the last call."""
        now = time.perf_counter(), time.process_time()
        self.seconds, self.cpu_seconds = self.seconds + now[0] - self.clock[0], self.cpu_seconds + now[1] - self.clock[1]
        self.clock = now

    def go_on(self, steps: int) -> None:
        """After a stop: what was before the stop is another clock's."""
        self.clock = time.perf_counter(), time.process_time()
        self.interrupted = False
        self.resumed.append(steps)


@contextmanager
def progress_bar(environment: str, steps: int, exploration: str = "epsilon") -> Iterator[Callable[[int, float, float], None]]:
    """Yields `show(steps, exploration, last_return)`; `exploration` says what that number is."""
    text = f"{{task.fields[rate]:,.0f}} steps/s  {exploration} {{task.fields[explored]:.2f}}  last return {{task.fields[last]:.1f}}"
    columns = (TextColumn(environment), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn(text))
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        task = progress.add_task("", total=steps, rate=0.0, explored=1.0, last=0.0)
        started, first = time.perf_counter(), -1

        def show(done: int, explored: float, last: float) -> None:
            nonlocal first
            first = done if first < 0 else first  # a training that goes on doesn't begin at 0
            rate = (done - first) / (time.perf_counter() - started)
            progress.update(task, completed=done, explored=explored, last=last, rate=rate)

        yield show


def draw(
    history: History,
    trace: np.ndarray,
    wanted: float | None,
    report: Path,
    loss: str = "Huber loss",
    exploration: str = "epsilon",
    traced: str = "action",
) -> None:
    """curve.png (returns, exploration and loss over environment steps) and episode.png (`trace` [T, n] of an evaluation episode)."""
    report.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    if history.screened:
        above.plot(*zip(*history.screened, strict=True), marker=".", label="policy without exploration")
    if wanted is not None:
        above.axhline(wanted, color="grey", linestyle="--", label=f"target {wanted:g}")
    above.set(title="Learning", ylabel="mean return per episode")
    if above.get_legend_handles_labels()[0]:
        above.legend()
    if history.learned:
        steps, explored, losses = zip(*history.learned, strict=True)
        below.plot(steps, losses, color="tab:red", linewidth=0.8)
        below.set_yscale("linear" if any(value <= 0 for value in losses) else "log")  # NaN before the first gradient step
        share = below.twinx()
        share.plot(steps, explored, color="tab:green")
        if min(explored) >= 0:
            share.set(ylim=(0, 1.05 * max(explored) or 1.0))
        share.set_ylabel(exploration, color="tab:green")
    below.set(xlabel="environment steps")
    below.set_ylabel(loss, color="tab:red")
    figure.savefig(report / "curve.png", dpi=110)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    style = "steps-post" if trace.dtype.kind == "i" else "default"  # choices have nothing between them
    axes.plot(trace, linewidth=1, drawstyle=style, label=[f"{traced} {number}" for number in range(trace.shape[1])])
    axes.set(title="One evaluation episode", xlabel="step", ylabel=traced)
    axes.legend()
    figure.savefig(report / "episode.png", dpi=110)
