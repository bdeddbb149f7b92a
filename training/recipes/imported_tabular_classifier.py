"""Brings a fitted classifier of scikit-learn with its pipeline: linear models, trees, boosted trees.

Nothing is learned. Columns, their types and the classes are the pipeline's; its graph in ONNX must answer
like scikit-learn.
"""

import time
from typing import ClassVar

import torch
from pydantic import Field

from training.export.trained import Trained
from training.runs.run import Run
from training.tables.imported import ImportSettings, classes_of, imported, samples_of, trained_from
from training.vision.classification.calibration import CLASS_METRICS, metrics_of

IS_IMPORT = True
METRICS = CLASS_METRICS
UNSURE = 0.02  # between the first two classes: then an answer is a matter of rounding
TOP_K = 5


class Settings(ImportSettings):
    """What a spec may say under `training`."""

    target_type: ClassVar[str] = "category"

    classes: tuple[str, ...] = Field(
        default=(), description="of an .onnx that doesn't name them, in the order of its probabilities"
    )


def train(settings: Settings, run: Run) -> Trained:
    """Bring the pipeline, and measure it where there is data.

    Raises CallError, with what to give instead, for what can't be had or isn't trusted.
    """
    started = time.monotonic()
    made = imported(settings, run)
    classes = classes_of(made.model) or []
    probabilities = made.module(made.features).softmax(1)
    answers = probabilities.argmax(1)
    metrics: dict[str, float] = {}
    if made.truths:
        labels = torch.tensor([classes.index(truth) for truth in made.truths])
        listed = [0, 1] if len(classes) == 2 else []
        metrics = metrics_of(probabilities, labels, answers, classes, listed)
    first = probabilities.topk(2, 1).values
    is_sure = (first[:, 0] - first[:, 1] > UNSURE).tolist()
    expected = [
        {"class": classes[answer]} if sure else None
        for answer, sure in zip(answers.tolist(), is_sure, strict=True)
    ]
    return trained_from(
        "tabular_classifier",
        settings,
        made,
        started,
        metrics=metrics,
        postprocess={"type": "classification", "top_k": min(TOP_K, len(classes))},
        samples=samples_of(made, expected),
        classes=classes,
    )
