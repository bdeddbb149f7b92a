"""Pictures of a trained classifier: curves by epoch, confusions, and the answers that missed worst."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

matplotlib.use("Agg")

INK, SECOND = "#1f5fa8", "#d9772b"


def draw_curves(history: Sequence[dict[str, float]], best: int, path: Path) -> None:
    """Loss and accuracy by epoch, counted from 1; `best` is the epoch that was kept."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", SECOND), ("validation", INK)):
            values = [row[f"{split}_{name}"] for row in history]
            axes.plot(epochs, values, color=colour, label=split, marker="." if len(history) < 3 else None)
        axes.axvline(best, color="grey", linewidth=0.8, linestyle=":", label=f"kept: epoch {best}")
        axes.set(xlabel="epoch", ylabel=name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def draw_confusion(labels: torch.Tensor, answers: torch.Tensor, classes: Sequence[str], path: Path) -> None:
    """Rows are true classes, columns the answers (int64 [N] both), coloured by share of the row."""
    count = len(classes)
    counts = np.bincount((labels * count + answers).numpy(), minlength=count * count).reshape(count, count)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(14.0, 3.2 + 0.42 * count)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    size = 9 if count <= 25 else max(3.0, 225 / count)
    axes.set_xticks(range(count), names, rotation=0 if max(map(len, names)) <= 2 else 90, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    if count <= 25:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=9, color=colour)
    axes.set(xlabel="answer", ylabel="truth", title=f"{np.trace(counts)} of {counts.sum()} right")
    figure.savefig(path, dpi=110)


def draw_mistakes(pixels: torch.Tensor, labels: torch.Tensor, probabilities: torch.Tensor, classes: Sequence[str], path: Path) -> None:
    """The 24 wrong answers of least probability for the truth, as the network sees them (uint8 [N, C, H, W]).

    Without a wrong answer, the 24 least certain ones.
    """
    truth = probabilities.gather(1, labels[:, None]).squeeze(1)
    wrong = probabilities.argmax(1) != labels
    chosen = [int(row) for row in truth.argsort() if wrong[row] or not wrong.any()][:24]
    columns = min(8, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.5 * max(columns, 4), 1.8 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{int(wrong.sum())} of {len(labels)} wrong" + ("" if wrong.any() else ": the least certain"), fontsize=11)
    for axes, row in zip(figure.subplots(rows, columns, squeeze=False).ravel(), [*chosen, *[-1] * (rows * columns)], strict=False):
        axes.set_axis_off()
        if row >= 0:
            image = pixels[row].permute(1, 2, 0).squeeze(-1).numpy()
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            answer = int(probabilities[row].argmax())
            said, true = f"{classes[answer]} {probabilities[row, answer]:.2f}", f"{classes[int(labels[row])]} {truth[row]:.2f}"
            axes.set_title(f"{said}\ntruth {true}", fontsize=8, color="#b02a2a" if wrong[row] else "black")
    figure.savefig(path, dpi=110)
