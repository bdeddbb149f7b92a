"""The pictures of a report: the losses by epoch, and what each head gives beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

POINTS = 2000  # of a scatter


def draw_losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Training and validation loss, on a logarithmic scale."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(history) + 1)
    axes.plot(epochs, [row["loss"] for row in history], label="training")
    axes.plot(epochs, [row["validation_loss"] for row in history], label="validation")
    axes.set(title="Loss", xlabel="epoch", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def draw_heads(
    found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], losses: Mapping[str, str], path: Path
) -> None:
    """Per head: given against true values, or how often each class was taken for which."""
    figure = Figure(figsize=(4 * len(losses), 3.8), layout="constrained")
    panels = figure.subplots(1, len(losses), squeeze=False)[0]
    for axes, (name, loss) in zip(panels, losses.items(), strict=True):
        if loss == "cross_entropy":
            counts = _confusion(found[name].argmax(1).ravel(), truth[name].ravel(), found[name].shape[1])
            axes.imshow(counts, cmap="Blues")
            for (row, column), count in np.ndenumerate(counts):
                color = "white" if count > counts.max() / 2 else "black"
                axes.text(column, row, count, ha="center", va="center", color=color)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set(title=name, xlabel="given class", ylabel="true class")
        elif loss == "bce":
            for value in (0, 1):
                axes.hist(
                    found[name][truth[name] == value], bins=20, range=(0, 1), alpha=0.6, label=str(value)
                )
            axes.set(title=name, xlabel="given probability", ylabel="rows")
            axes.legend(title="true")
        else:
            given, true = found[name].ravel()[:POINTS], truth[name].ravel()[:POINTS]
            axes.scatter(true, given, s=6, alpha=0.5)
            ends = [min(true.min(), given.min()), max(true.max(), given.max())]
            axes.plot(ends, ends, color="gray", linewidth=1)
            axes.set(title=name, xlabel="true", ylabel="given")
            axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _confusion(given: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (true.astype(np.int64), given), 1)
    return counts
