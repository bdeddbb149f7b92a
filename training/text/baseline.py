"""TF-IDF with logistic regression on the same split: what to beat, and which words tell most."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from training.data.texts import Text, TextData
from training.text.assessment import metrics_of_one
from training.vision.classification.label_scores import best_threshold, metrics_of_several

PREFIX = "tfidf_"  # of its metrics
COMPARED = ("accuracy", "macro_f1", "micro_f1", "f1_")  # beginnings of those that stand beside the network's
FEATURES = 200_000  # words and pairs of words, or runs of characters
STRENGTHS = (1.0, 10.0, 100.0)  # inverse ones of the regularization; validation chooses
WORDS = 15  # of each class that are listed


@dataclass(frozen=True)
class Baseline:
    """Metrics of the test split under names with PREFIX, and the most telling words with their weights."""

    metrics: dict[str, float]
    telling: Mapping[str, list[tuple[str, float]]]


def measure_baseline(
    data: TextData, lowercase: bool, character_ngrams: tuple[int, int] | None = None
) -> Baseline:
    """Learn from the training split, choose the regularization by validation, measure on test.

    Words and pairs of words, or runs of so many characters, that two texts have; logarithmic counts
    (`sublinear_tf`).
    """
    vectorizer = TfidfVectorizer(
        sublinear_tf=True,
        analyzer="char" if character_ngrams else "word",
        ngram_range=character_ngrams or (1, 2),
        min_df=2,
        max_features=FEATURES,
        lowercase=lowercase,
    )
    features = vectorizer.fit_transform([one.text for one in data.train])
    validation, test = (
        vectorizer.transform([one.text for one in split]) for split in (data.validation, data.test)
    )
    truths = [_truth(split, data) for split in (data.train, data.validation, data.test)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [_model(data, strength).fit(features, truths[0]) for strength in STRENGTHS]
    best = max(fitted, key=lambda model: model.score(validation, truths[1]))
    probabilities = best.predict_proba(test)
    if data.has_several:
        chosen = best.predict_proba(validation)
        thresholds = [best_threshold(own, truth) for own, truth in zip(chosen.T, truths[1].T, strict=True)]
        metrics = metrics_of_several(probabilities, (probabilities >= thresholds).astype(float), truths[2])
    else:
        tensors = torch.from_numpy(probabilities), torch.from_numpy(truths[2])
        metrics = metrics_of_one(*tensors, tensors[0].argmax(1), data.classes)
    compared = {PREFIX + name: value for name, value in metrics.items() if name.startswith(COMPARED)}
    return Baseline(compared, _telling(best, vectorizer.get_feature_names_out(), data.classes))


def _truth(texts: Sequence[Text], data: TextData) -> np.ndarray:
    """int64 [N], or 0 and 1 [N, classes]."""
    if not data.has_several:
        return np.array([one.labels[0] for one in texts])
    truth = np.zeros((len(texts), len(data.classes)), np.int64)
    for row, one in enumerate(texts):
        truth[row, list(one.labels)] = 1
    return truth


def _model(data: TextData, strength: float) -> Any:
    model = LogisticRegression(C=strength, max_iter=300)
    return OneVsRestClassifier(model) if data.has_several else model


def _telling(model: Any, words: np.ndarray, classes: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """The words with the highest weights for each class."""
    if isinstance(model, OneVsRestClassifier):
        # a label that all texts have, or none, has no weights
        rows = [getattr(one, "coef_", np.zeros((1, len(words)))) for one in model.estimators_]
        weights = np.concatenate(rows)
    else:
        weights = np.concatenate([-model.coef_, model.coef_]) if len(classes) == 2 else model.coef_
    listed = {}
    for name, row in zip(classes, weights, strict=True):
        best = np.argsort(-row)[:WORDS]
        listed[name] = [(str(words[index]), round(float(row[index]), 3)) for index in best]
    return listed
