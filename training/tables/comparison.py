"""What users ask for beside a network: gradient-boosted trees and a linear model on the same rows, and how
much each column matters.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV

from handlers.inputs.columns import CategoryColumn
from handlers.inputs.tables import Table
from training.tables.preparation import Examples, PreparedTable

TREES, RIDGE, LOGISTIC = "gradient-boosted trees", "ridge", "logistic regression"
REPEATS = 5  # of each column's permutation
MOST_ROWS = 2000  # that the importance of columns is measured on
Score = Callable[[torch.Tensor, torch.Tensor], float]  # of features [N, F] and targets: more is better


def answers_beside(prepared: PreparedTable, seed: int) -> dict[str, np.ndarray]:
    """What trees and a linear model answer to the test rows: values [N], or probabilities [N, classes].

    They learn from all rows but the test's, the network's validation and calibration rows included, with
    scikit-learn's defaults; categories are one-hot.
    """
    table = Table(
        tuple(
            replace(column, dimension=0) if isinstance(column, CategoryColumn) else column
            for column in prepared.table.columns
        ),
        prepared.table.missing_values,
    )
    parts = [part for split, part in prepared.splits.items() if split != "test"]
    is_same = table == prepared.table

    def encoded(part: Examples) -> np.ndarray:
        return part.features.numpy() if is_same else part.values.encoded(table)

    features = np.concatenate([encoded(part) for part in parts])
    targets = np.concatenate([part.targets.numpy() for part in parts])
    test = encoded(prepared.splits["test"])
    if not prepared.classes:
        models: dict[str, Any] = {
            TREES: HistGradientBoostingRegressor(random_state=seed % (1 << 32)),
            RIDGE: RidgeCV(np.logspace(-3, 3, 13)),
        }
        return {name: model.fit(features, targets).predict(test) for name, model in models.items()}
    models = {
        TREES: HistGradientBoostingClassifier(random_state=seed % (1 << 32)),
        LOGISTIC: LogisticRegression(max_iter=2000),
    }
    return {name: model.fit(features, targets).predict_proba(test) for name, model in models.items()}


def permutation_importance(table: Table, examples: Examples, score: Score, seed: int) -> dict[str, float]:
    """How much the score of the test rows falls if a column's cells are given to other rows, the mean over
    REPEATS, most first (Breiman 2001, "Random Forests", section 10).
    """
    rng = np.random.default_rng(seed)
    count = min(len(examples), MOST_ROWS)
    features, targets = examples.features[:count], examples.targets[:count]
    before = score(features, targets)
    drops = {}
    for name, part in table.slices.items():
        scores = []
        for _ in range(REPEATS):
            mixed = features.clone()
            mixed[:, part] = features[torch.from_numpy(rng.permutation(count)), part]
            scores.append(score(mixed, targets))
        drops[name] = before - float(np.mean(scores))
    return dict(sorted(drops.items(), key=lambda item: -item[1]))
