"""What is fitted and measured where an example may have several labels, or none: a threshold per label from
validation; F1, average precision and exact matches of test.
"""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)

# of `metrics_of_several`, beside macro_f1
LABEL_METRICS = ("micro_f1", "exact_match", "mean_average_precision")


def best_thresholds(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, ...]:
    """The `best_threshold` of each class, of logits and labels 0 and 1, both float32 [N, classes]."""
    pairs = zip(logits.sigmoid().T.numpy(), labels.T.numpy(), strict=True)
    return tuple(best_threshold(own, truth) for own, truth in pairs)


def metrics_of_several(
    probabilities: np.ndarray, answers: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """micro_f1 and macro_f1, exact_match (the share of examples with exactly their labels), and mean average
    precision over the classes that occur; all arrays [N, classes].
    """
    present = labels.any(0)
    return {
        "micro_f1": float(f1_score(labels, answers, average="micro", zero_division=0)),
        "macro_f1": float(
            f1_score(labels[:, present], answers[:, present], average="macro", zero_division=0)
        ),
        "exact_match": float((labels == answers).all(1).mean()),
        "mean_average_precision": float(
            average_precision_score(labels[:, present], probabilities[:, present])
        ),
    }


def best_threshold(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The threshold with the best F1 of one class (both [N]), half-way to the next lower probability; 0.5
    where it doesn't occur.
    """
    if not truth.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(truth, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    lower = probabilities[probabilities < thresholds[best]]
    return float((thresholds[best] + (lower.max() if len(lower) else 0.0)) / 2)


def rows_by_label(
    probabilities: np.ndarray,
    answers: np.ndarray,
    labels: np.ndarray,
    thresholds: tuple[float, ...],
    classes: list[str],
) -> list[dict[str, Any]]:
    """One row per label: its pictures; precision, recall and F1 of the answers; average precision (None
    without a picture) and threshold. All arrays [N, classes].
    """
    rows = []
    for index, name in enumerate(classes):
        truth, found = labels[:, index], answers[:, index]
        average = float(average_precision_score(truth, probabilities[:, index])) if truth.any() else None
        rows.append(
            {
                "class": name,
                "pictures": int(truth.sum()),
                "precision": float(precision_score(truth, found, zero_division=0)),
                "recall": float(recall_score(truth, found, zero_division=0)),
                "f1": float(f1_score(truth, found, zero_division=0)),
                "average_precision": average,
                "threshold": thresholds[index],
            }
        )
    return rows
