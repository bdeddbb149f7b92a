"""Brings a fitted regressor: a pipeline of scikit-learn (linear models, trees, boosted trees), or its ONNX.

Nothing is learned. Columns and their types are the pipeline's; its graph in ONNX must answer like
scikit-learn. Rows that nothing was learned from calibrate an interval, where there are such (split conformal
prediction, `training.tables.conformal`).
"""

import time

import numpy as np
import torch
from pydantic import Field, model_validator

from training.export.trained import Trained
from training.recipes.regressor import metrics_of
from training.runs.run import Run
from training.tables.conformal import half_width
from training.tables.imported import (
    ImportedPipeline,
    ImportSettings,
    imported,
    rows_of,
    samples_of,
    trained_from,
)
from training.tensors.evaluation import ERROR_METRICS

IS_IMPORT = True
METRICS = (*ERROR_METRICS, "coverage", "interval_width")


class Settings(ImportSettings):
    """What a spec may say under `training`."""

    unit: str = Field(default="", description="of the target")
    calibration: str | None = Field(
        default=None,
        description="a table that nothing was learned from, with the target: its errors make the interval",
    )
    coverage: float = Field(
        default=0.9, gt=0, lt=1, description="with calibration: share of true values in the interval"
    )

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        """Raise ValueError for an interval that couldn't be calibrated or measured."""
        if self.calibration is None and "coverage" in self.model_fields_set:
            raise ValueError("coverage needs calibration: a table that nothing was learned from")
        if self.calibration is not None and self.calibration == self.data:
            raise ValueError("calibration and data must be different rows: the coverage would flatter")
        return self


def train(settings: Settings, run: Run) -> Trained:
    """Bring the pipeline, and measure it where there is data.

    Raises CallError, with what to give instead, for what can't be had or isn't trusted.
    """
    started = time.monotonic()
    made = imported(settings, run)
    found = made.module(made.features).numpy()
    width = _half_width(settings, made, run)
    metrics = metrics_of(found, np.array(made.truths), width) if made.truths else {}
    unit = {"unit": settings.unit} if settings.unit else {}
    interval = {} if width is None else {"half_width": width, "coverage": settings.coverage}
    return trained_from(
        "regressor",
        settings,
        made,
        started,
        metrics=metrics,
        postprocess={"type": "value", **interval, **unit},
        samples=samples_of(made, [{"value": value} for value in found.tolist()]),
    )


def _half_width(settings: Settings, made: ImportedPipeline, run: Run) -> float | None:
    """Of the interval, from the errors on the rows of `calibration`; None without."""
    if settings.calibration is None:
        return None
    held_out = settings.model_copy(update={"data": settings.calibration})
    rows, truths = rows_of(held_out, run, made.table, [])
    features = torch.from_numpy(np.stack([made.table.encode(row) for row in rows]))
    return half_width(made.module(features).numpy() - np.array(truths), settings.coverage)
