"""Brings a fitted regressor of scikit-learn with its pipeline: linear models, trees, boosted trees.

Nothing is learned. Columns and their types are the pipeline's; its graph in ONNX must answer like
scikit-learn.
"""

import time

import numpy as np
from pydantic import Field

from training.export.trained import Trained
from training.recipes.regressor import metrics_of
from training.runs.run import Run
from training.tables.imported import ImportSettings, imported, samples_of, trained_from
from training.tensors.evaluation import ERROR_METRICS

IS_IMPORT = True
METRICS = ERROR_METRICS


class Settings(ImportSettings):
    """What a spec may say under `training`."""

    unit: str = Field(default="", description="of the target")


def train(settings: Settings, run: Run) -> Trained:
    """Bring the pipeline, and measure it where there is data.

    Raises CallError, with what to give instead, for what can't be had or isn't trusted.
    """
    started = time.monotonic()
    made = imported(settings, run)
    found = made.module(made.features).numpy()
    metrics = metrics_of(found, np.array(made.truths), None) if made.truths else {}
    unit = {"unit": settings.unit} if settings.unit else {}
    return trained_from(
        "regressor",
        settings,
        made,
        started,
        metrics=metrics,
        postprocess={"type": "value", **unit},
        samples=samples_of(made, [{"value": value} for value in found.tolist()]),
    )
