"""What a classifier of several labels per picture reaches: thresholds from validation, metrics of test,
figures, and samples that are answered rightly.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchmetrics.functional.classification as measures
from matplotlib.figure import Figure
from torch import nn

from training.data import ImageData
from training.export.trained import Sample
from training.vision.classification import drawing
from training.vision.classification.label_scores import (
    best_thresholds,
    metrics_of_several,
    rows_by_label,
)
from training.vision.classification.learner import Learner, logits_of
from training.vision.records import Rows

UNSURE = 0.02  # a probability that is nearer to its threshold proves nothing as a sample
SURE = 0.1  # one that is further away comes first
SAMPLES, SHOWN, CURVES = 64, 24, 10


@dataclass(frozen=True)
class LabelAssessment:
    """Answers to the test split, and what they are worth; all tensors float32 [N, classes]."""

    probabilities: torch.Tensor
    labels: torch.Tensor  # 0 and 1
    answers: torch.Tensor  # the same
    thresholds: tuple[float, ...]
    metrics: dict[str, float]
    temperature: float = 1.0

    @property
    def postprocess(self) -> dict[str, Any]:
        """What the handler must know of it."""
        return {"type": "labels", "thresholds": list(self.thresholds)}

    @property
    def certainty(self) -> torch.Tensor:
        """How far the nearest probability is from its threshold, float32 [N]."""
        return (self.probabilities - torch.tensor(self.thresholds)).abs().min(1).values

    @property
    def is_right(self) -> torch.Tensor:
        """Which pictures have exactly their labels, bool [N]."""
        return (self.answers == self.labels).all(1)


def assess(network: nn.Module, validation: Rows, test: Rows) -> LabelAssessment:
    """Choose a threshold per label by F1 on validation, measure on test.

    Metrics: micro_f1, macro_f1 and mean_average_precision over the labels that occur, exact_match.
    """
    validated, logits = (logits_of(network, part) for part in (validation, test))
    labels = test.tensors[1]
    thresholds = best_thresholds(validated, validation.tensors[1])
    probabilities = logits.sigmoid()
    answers = (probabilities >= torch.tensor(thresholds)).float()
    metrics = metrics_of_several(probabilities.numpy(), answers.numpy(), labels.numpy())
    return LabelAssessment(probabilities, labels, answers, thresholds, metrics)


def write_report(
    assessment: LabelAssessment,
    learner: Learner,
    classes: list[str],
    picture: Callable[[int], torch.Tensor],
    report: Path,
) -> None:
    """Curves, precision by recall, mistakes and classes.json; `picture` gives a test example, uint8 [C, H,
    W].
    """
    drawing.draw_curves(learner.history, learner.best_epoch, report / "curves.png")
    probabilities, answers = assessment.probabilities.numpy(), assessment.answers.numpy()
    rows = rows_by_label(probabilities, answers, assessment.labels.numpy(), assessment.thresholds, classes)
    (report / "classes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw_precision_recall(assessment, classes, report / "precision_recall.png")
    draw_mistakes(assessment, classes, picture, report / "mistakes.png")


def draw_precision_recall(assessment: LabelAssessment, classes: list[str], path: Path) -> None:
    """Precision by recall of the labels with most pictures, CURVES at most; points are their thresholds."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    counts = assessment.labels.sum(0)
    for index in counts.argsort(descending=True, stable=True)[:CURVES].tolist():
        truth, own = assessment.labels[:, index].long(), assessment.probabilities[:, index]
        if not truth.any():
            continue
        precision, recall, _ = measures.binary_precision_recall_curve(own, truth)
        average = float(measures.binary_average_precision(own, truth))
        (line,) = axes.plot(recall, precision, label=f"{classes[index]}: {average:.3f}", linewidth=1.4)
        found = assessment.answers[:, index] == 1
        right = float((found & (truth == 1)).sum())
        if right:
            axes.plot(right / int(truth.sum()), right / int(found.sum()), "o", color=line.get_color())
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="average precision", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def draw_mistakes(
    assessment: LabelAssessment, classes: list[str], picture: Callable[[int], torch.Tensor], path: Path
) -> None:
    """The SHOWN pictures with the most wrong decisions, what is missing and what is too much in them; if none
    is wrong, the least certain ones.
    """
    wrong = (assessment.answers != assessment.labels).sum(1)
    order = sorted(range(len(wrong)), key=lambda row: (-int(wrong[row]), float(assessment.certainty[row])))
    chosen = [row for row in order if wrong[row] or not wrong.any()][:SHOWN]
    columns = min(6, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.1 * max(columns, 3), 2.5 * rows + 0.5), layout="constrained")
    mistaken = int((wrong > 0).sum())
    rest = "" if mistaken else ": the least certain"
    figure.suptitle(f"{mistaken} of {len(wrong)} not exactly right{rest}", fontsize=11)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, row in zip(places, [*chosen, *[-1] * len(places)], strict=False):
        axes.set_axis_off()
        if row >= 0:
            axes.imshow(picture(row).permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(_in_words(assessment, classes, row), fontsize=7)
    figure.savefig(path, dpi=110)


def _in_words(assessment: LabelAssessment, classes: list[str], row: int) -> str:
    """The right labels, those that are missing and those that are too many."""
    pairs = list(zip(classes, assessment.labels[row] == 1, assessment.answers[row] == 1, strict=True))
    lines = [
        ", ".join(name for name, truth, found in pairs if truth and found) or "–",
        "".join(f"−{name} " for name, truth, found in pairs if truth and not found),
        "".join(f"+{name} " for name, truth, found in pairs if found and not truth),
    ]
    return "\n".join(line if len(line) <= 32 else line[:31] + "…" for line in lines if line)


def samples(data: ImageData, assessment: LabelAssessment) -> list[Sample]:
    """Pictures of the test split that have exactly their labels, sure answers first, from each set of labels
    in turn.
    """
    certainty, right = assessment.certainty.tolist(), assessment.is_right.tolist()
    rows = [row for row in range(len(right)) if right[row] and certainty[row] > UNSURE]
    rows.sort(key=lambda row: (certainty[row] < SURE, row))
    seen: Counter[tuple[int, ...]] = Counter()
    turns = []
    for row in rows:
        labels = tuple(data.test[row].labels.tolist())
        turns.append((seen[labels], row))
        seen[labels] += 1
    turns.sort(key=lambda turn: turn[0])
    found = []
    for number, (_, row) in enumerate(turns[:SAMPLES], 1):
        body, content_type = data.test[row].encoded()
        names = [data.classes[label] for label in data.test[row].labels]
        found.append(Sample(f"labels-{number}", body, content_type, {"labels": names}))
    return found
