"""Figures about a trained classifier: learning curves, confusion matrix, reliability diagram, and its worst
mistakes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torchmetrics.functional.classification as measures
from matplotlib.figure import Figure

from handlers.kinds.decision import Decision
from training.vision.classification.calibration import BINS, calibration_error

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
    """Rows are true classes, columns the answers (both int64 [N]), colored by share of the row."""
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
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", fontsize=9, color=colour
            )
    axes.set(xlabel="answer", ylabel="truth", title=f"{np.trace(counts)} of {counts.sum()} right")
    figure.savefig(path, dpi=110)


def draw_reliability(
    before: torch.Tensor, after: torch.Tensor, labels: torch.Tensor, temperature: float, path: Path
) -> None:
    """Accuracy by confidence (Guo et al. 2017, figure 1), without and with the temperature; below, the number
    of answers by confidence.

    `before` and `after` are probabilities [N, classes].
    """
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for probabilities, colour, name in (
        (before, SECOND, "as trained"),
        (after, INK, f"temperature {temperature:.2f}"),
    ):
        confidence, answers = probabilities.max(1)
        right = (answers == labels).double()
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        filled = [index for index in range(BINS) if bool((bins == index).any())]
        places = [float(confidence[bins == index].mean()) for index in filled]
        heights = [float(right[bins == index].mean()) for index in filled]
        top.plot(
            places,
            heights,
            color=colour,
            marker="o",
            markersize=4,
            label=f"{name}: ECE {calibration_error(probabilities, labels):.3f}",
        )
        below.hist(confidence.numpy(), bins=BINS, range=(0, 1), color=colour, histtype="step", linewidth=1.4)
    top.set(ylabel="accuracy", ylim=(0, 1.02))
    top.legend(frameon=False)
    below.set(xlabel="probability of the most probable class", ylabel="answers", xlim=(0, 1), yscale="symlog")
    for axes in (top, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def draw_trade_off(
    probabilities: torch.Tensor, labels: torch.Tensor, decision: Decision, classes: Sequence[str], path: Path
) -> None:
    """Receiver operating characteristic, and precision by recall, of the decision's class; its threshold is
    marked.
    """
    own, truth = probabilities[:, decision.class_index], (labels == decision.class_index).long()
    false_share, true_share, _ = measures.binary_roc(own, truth)
    precision, recall, _ = measures.binary_precision_recall_curve(own, truth)
    predicted = own >= decision.threshold
    found = float((predicted & (truth == 1)).sum() / (truth == 1).sum().clamp(min=1))
    wrongly = float((predicted & (truth == 0)).sum() / (truth == 0).sum().clamp(min=1))
    exact = float((predicted & (truth == 1)).sum() / predicted.sum().clamp(min=1))
    name, mark = classes[decision.class_index], f"from {decision.threshold:.3g} on"
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(
        false_share, true_share, color=INK, label=f"AUROC {float(measures.binary_auroc(own, truth)):.3f}"
    )
    left.plot([wrongly], [found], "o", color=SECOND, label=mark)
    left.set(
        xlabel=f"share of the others called {name}",
        ylabel=f"recall of {name}",
        xlim=(-0.01, 1),
        ylim=(0, 1.02),
    )
    right.plot(
        recall,
        precision,
        color=INK,
        label=f"average precision {float(measures.binary_average_precision(own, truth)):.3f}",
    )
    right.plot([found], [exact], "o", color=SECOND, label=mark)
    right.set(xlabel=f"recall of {name}", ylabel=f"precision of {name}", xlim=(0, 1.01), ylim=(0, 1.02))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower center")
    figure.savefig(path, dpi=110)


def draw_mistakes(
    picture: Callable[[int], torch.Tensor],
    labels: torch.Tensor,
    probabilities: torch.Tensor,
    answers: torch.Tensor,
    classes: Sequence[str],
    path: Path,
    wide: int = 1,
) -> None:
    """The 24 wrong answers that give the true class the lowest probability, as the network sees them.

    If none is wrong, the 24 least certain ones. `picture(row)` gives uint8 [C, H, W]; `wide`, 1 to 8, is its
    ratio of width to height.
    """
    truth = probabilities.gather(1, labels[:, None]).squeeze(1)
    wrong = answers != labels
    chosen = [int(row) for row in truth.argsort() if wrong[row] or not wrong.any()][:24]
    columns = min(8 // wide, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.5 * max(wide * columns, 4), 1.8 * rows + 0.5), layout="constrained")
    figure.suptitle(
        f"{int(wrong.sum())} of {len(labels)} wrong" + ("" if wrong.any() else ": the least certain"),
        fontsize=11,
    )
    for axes, row in zip(
        figure.subplots(rows, columns, squeeze=False).ravel(),
        [*chosen, *[-1] * (rows * columns)],
        strict=False,
    ):
        axes.set_axis_off()
        if row >= 0:
            image = picture(row).permute(1, 2, 0).squeeze(-1).numpy()
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            answer = int(answers[row])
            title = (
                f"{classes[answer]} {probabilities[row, answer]:.2f}\n"
                f"truth {classes[int(labels[row])]} {truth[row]:.2f}"
            )
            axes.set_title(title, fontsize=8, color="#b02a2a" if wrong[row] else "black")
    figure.savefig(path, dpi=110)
