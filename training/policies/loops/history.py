"""What happened in a training: its history, for the curves and the export, and its progress bar."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from training.policies.state import Stateful


def _read_clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@dataclass
class History(Stateful):
    """What the curves show, and the time that training took."""

    state_values = ("iterations", "evaluations", "resumed_at", "seconds", "cpu_seconds")

    # num_timesteps, exploration, loss
    iterations: list[tuple[int, float, float]] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)  # num_timesteps, mean return
    was_interrupted: bool = False  # by Ctrl-C
    resumed_at: list[int] = field(default_factory=list)  # num_timesteps
    seconds: float = 0.0  # of training, before and after interruptions
    cpu_seconds: float = 0.0
    clock: tuple[float, float] = field(default_factory=_read_clock)

    def next_evaluation(self, eval_freq: int) -> int:
        """The num_timesteps of the next evaluation."""
        return (self.evaluations[-1][0] if self.evaluations else 0) + eval_freq

    def tick(self) -> None:
        """Count the time since the last call."""
        now = _read_clock()
        self.seconds += now[0] - self.clock[0]
        self.cpu_seconds += now[1] - self.clock[1]
        self.clock = now

    def resume(self, num_timesteps: int) -> None:
        """Continue after an interruption; time before it was counted by another process."""
        self.clock = _read_clock()
        self.was_interrupted = False
        self.resumed_at.append(num_timesteps)


@contextmanager
def progress_bar(
    environment: str, total_timesteps: int, exploration_name: str = "epsilon"
) -> Iterator[Callable[[int, float, float], None]]:
    """Yields `show(num_timesteps, exploration, last_return)`; `exploration_name` says what that number is."""
    text = (
        f"{{task.fields[rate]:,.0f}} steps/s  {exploration_name} {{task.fields[exploration]:.2f}}"
        "  last return {task.fields[last]:.1f}"
    )
    columns = (
        TextColumn(environment),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn(text),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        task = progress.add_task("", total=total_timesteps, rate=0.0, exploration=1.0, last=0.0)
        started, first = time.perf_counter(), -1

        def show(num_timesteps: int, exploration: float, last_return: float) -> None:
            nonlocal first
            first = num_timesteps if first < 0 else first  # a resumed training doesn't begin at 0
            rate = (num_timesteps - first) / (time.perf_counter() - started)
            progress.update(
                task, completed=num_timesteps, exploration=exploration, last=last_return, rate=rate
            )

        yield show
