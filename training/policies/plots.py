"""The figures of a policy's training: learning curves and one evaluation episode."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.policies.loops.history import History


def plot_training(
    history: History,
    trace: np.ndarray,
    trace_name: str,
    target_return: float | None,
    report: Path,
    *,
    loss_name: str = "Huber loss",
    exploration_name: str = "epsilon",
) -> None:
    """Write curve.png and episode.png; `trace` [T, n] is of an evaluation episode."""
    report.mkdir(parents=True, exist_ok=True)
    plot_curves(history, target_return, loss_name, exploration_name).savefig(report / "curve.png", dpi=110)
    plot_episode(trace, trace_name).savefig(report / "episode.png", dpi=110)


def plot_curves(
    history: History, target_return: float | None, loss_name: str, exploration_name: str
) -> Figure:
    """Returns above, exploration and loss below, over environment steps."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    if history.evaluations:
        above.plot(*zip(*history.evaluations, strict=True), marker=".", label="policy without exploration")
    if target_return is not None:
        above.axhline(target_return, color="grey", linestyle="--", label=f"target {target_return:g}")
    above.set(title="Learning", ylabel="mean return per episode")
    if above.get_legend_handles_labels()[0]:
        above.legend()
    if history.iterations:
        steps, exploration, losses = zip(*history.iterations, strict=True)
        below.plot(steps, losses, color="tab:red", linewidth=0.8)
        # NaN before the first gradient step
        below.set_yscale("linear" if any(value <= 0 for value in losses) else "log")
        right = below.twinx()
        right.plot(steps, exploration, color="tab:green")
        if min(exploration) >= 0:
            right.set(ylim=(0, 1.05 * max(exploration) or 1.0))
        right.set_ylabel(exploration_name, color="tab:green")
    below.set(xlabel="environment steps")
    below.set_ylabel(loss_name, color="tab:red")
    return figure


def plot_episode(trace: np.ndarray, name: str) -> Figure:
    """Numbers [T, n] over the steps of one episode."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    style = "steps-post" if trace.dtype.kind == "i" else "default"  # choices have nothing between them
    labels = [f"{name} {column}" for column in range(trace.shape[1])]
    axes.plot(trace, linewidth=1, drawstyle=style, label=labels)
    axes.set(title="One evaluation episode", xlabel="step", ylabel=name)
    axes.legend()
    return figure
