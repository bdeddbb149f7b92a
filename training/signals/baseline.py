"""Logistic regression on a summary of each channel: what a network over steps must beat."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data.signals import Signal, SignalData
from training.text.assessment import metrics_of_one

PREFIX = "baseline_"  # of its metrics
COMPARED = ("accuracy", "macro_f1")
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse ones of the regularization; validation chooses


def summary_features(signals: Sequence[Signal]) -> np.ndarray:
    """Mean, deviation, least, largest, first and last value and the mean change of each channel, and the
    number of steps: float64 [N, 7 C + 1].
    """
    rows = []
    for one in signals:
        values = one.values.astype(np.float64)
        changes = np.abs(np.diff(values, axis=0)).mean(0) if len(values) > 1 else np.zeros(values.shape[1])
        parts = (values.mean(0), values.std(0), values.min(0), values.max(0), values[0], values[-1], changes)
        rows.append(np.concatenate([*parts, [len(values)]]))
    return np.stack(rows)


def measure_baseline(data: SignalData) -> dict[str, float]:
    """Learn from the training split, choose the regularization by validation, measure on test: accuracy and
    macro F1 with PREFIX.
    """
    features = [summary_features(split) for split in (data.train, data.validation, data.test)]
    truths = [np.array([one.label for one in split]) for split in (data.train, data.validation, data.test)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [
            make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(
                features[0], truths[0]
            )
            for strength in STRENGTHS
        ]
    best = max(fitted, key=lambda model: model.score(features[1], truths[1]))
    probabilities = torch.from_numpy(best.predict_proba(features[2]))
    labels = torch.from_numpy(truths[2])
    metrics = metrics_of_one(probabilities, labels, probabilities.argmax(1), data.classes)
    return {PREFIX + name: metrics[name] for name in COMPARED}
