"""A classifier's metrics, and what is fitted after training: the temperature of its logits and the threshold
of its decision.

Both are fitted on the validation split; all metrics are measured on the test split.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as measures

from handlers.kinds.decision import Decision

BINS = 15  # of the calibration error and the reliability diagram, as in Guo et al. 2017


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature that minimizes the negative log-likelihood of `logits` / temperature (Guo et al. 2017,
    section 4.2).

    Searched from 1/8 to 8. If every answer is right, the likelihood grows without end as the temperature
    falls, so the temperature can't be fitted: it is 1.
    """
    if bool((logits.argmax(1) == labels).all()):
        return 1.0
    exponent = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([exponent], lr=0.1, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / exponent.exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return math.exp(min(max(float(exponent.detach()), -math.log(8)), math.log(8)))


def fit_decision(
    probabilities: torch.Tensor, labels: torch.Tensor, class_index: int, recall: float
) -> Decision:
    """The highest threshold that reaches `recall` of the class, which gives the fewest false positives.

    It lies half-way between the lowest probability that it must include and the next lower one.
    `probabilities` [N, classes]; `labels` int64 [N], which must contain the class.
    """
    own = probabilities[:, class_index].double()
    found = own[labels == class_index].sort(descending=True).values
    last = float(found[max(0, math.ceil(recall * len(found) - 1e-9) - 1)])
    lower = own[own < last]
    below = float(lower.max()) if len(lower) else 0.0
    return Decision(class_index, (last + below) / 2)


CLASS_METRICS = ("accuracy", "macro_f1", "ece", "auroc", "recall_*", "precision_*")  # of `metrics_of`


def metrics_of(
    probabilities: torch.Tensor,
    labels: torch.Tensor,
    answers: torch.Tensor,
    classes: Sequence[str],
    listed: Sequence[int],
) -> dict[str, float]:
    """Accuracy and macro F1 of `answers`, expected calibration error, AUROC if all classes occur; recall and
    precision of the classes `listed`.
    """
    count = len(classes)
    metrics: dict[str, Any] = {
        "accuracy": measures.multiclass_accuracy(answers, labels, count, average="micro"),
        "macro_f1": measures.multiclass_f1_score(answers, labels, count, average="macro"),
        "ece": calibration_error(probabilities, labels),
    }
    if len(set(labels.tolist())) == count:
        metrics["auroc"] = measures.multiclass_auroc(probabilities, labels, count, average="macro")
    for index in listed:
        name = re.sub(r"[^a-z0-9]+", "_", classes[index].lower()).strip("_") or str(index)
        metrics[f"recall_{name}"] = measures.multiclass_recall(answers, labels, count, average=None)[index]
        metrics[f"precision_{name}"] = measures.multiclass_precision(answers, labels, count, average=None)[
            index
        ]
    return {name: float(value) for name, value in metrics.items()}


def calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Expected calibration error of the most probable class: the mean gap between confidence and accuracy
    over 15 equal bins.
    """
    return float(
        measures.multiclass_calibration_error(
            probabilities, labels, probabilities.shape[1], n_bins=BINS, norm="l1"
        )
    )


def by_class(
    probabilities: torch.Tensor, labels: torch.Tensor, answers: torch.Tensor, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per class: its number of pictures; precision, recall and F1 of the answers; AUROC against the
    rest (None if one of both is missing).
    """
    count = len(classes)
    precision = measures.multiclass_precision(answers, labels, count, average=None)
    recall = measures.multiclass_recall(answers, labels, count, average=None)
    f1 = measures.multiclass_f1_score(answers, labels, count, average=None)
    rows = []
    for index, name in enumerate(classes):
        own = labels == index
        auroc = (
            float(measures.binary_auroc(probabilities[:, index], own.long()))
            if bool(own.any() and not own.all())
            else None
        )
        scores = {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "auroc": auroc,
        }
        rows.append({"class": name, "pictures": int(own.sum()), **scores})
    return rows
