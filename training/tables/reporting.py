"""What a report about rows says beside the metrics: other models on the same rows, and the columns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import accuracy_score, r2_score
from torch import nn

from training.tables.comparison import answers_beside, permutation_importance
from training.tables.drawing import draw_boundary, draw_comparison, draw_importance
from training.tables.networks import outputs_of
from training.tables.preparation import PreparedTable

OURS = "this network"


def write_report(
    module: nn.Module, prepared: PreparedTable, network: str, compare: bool, seed: int, report: Path
) -> dict[str, Any]:
    """Draw the pictures; for the metadata {"importance": column -> drop, "beside": model -> score}."""
    metric = "accuracy" if prepared.classes else "r2"
    score_of: Callable[[Any, Any], float] = accuracy_score if prepared.classes else r2_score

    def score(features: torch.Tensor, targets: torch.Tensor) -> float:
        return score_answers(outputs_of(module, features).numpy(), targets)

    def score_answers(answers: Any, targets: torch.Tensor) -> float:
        return float(score_of(targets.numpy(), answers.argmax(1) if prepared.classes else answers))

    test = prepared.splits["test"]
    importance = permutation_importance(prepared.table, test, score, seed)
    draw_importance(importance, metric, report / "importance.png")
    if prepared.classes:
        draw_boundary(module, prepared, importance, report / "boundary.png")
    facts: dict[str, Any] = {"importance": {name: round(drop, 4) for name, drop in importance.items()}}
    if compare:
        beside = answers_beside(prepared, seed)
        scores = {name: score_answers(answers, test.targets) for name, answers in beside.items()}
        own = score(test.features, test.targets)
        draw_comparison({f"{OURS} ({network})": own, **scores}, metric, report / "comparison.png")
        facts["beside"] = {name: {metric: round(value, 4)} for name, value in scores.items()}
    return facts
