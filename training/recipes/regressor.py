"""Learns a number from the rows of a table, and how wide an interval around it must be.

The columns are fitted on the training rows, the epoch is chosen on the validation rows, the interval is
calibrated on rows that nothing was learned from, and all metrics are measured on the test rows.
"""

import time
from typing import Any

import numpy as np
import torch
from pydantic import Field

from marina.core.errors import CallError
from training.export.trained import Trained
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.tables.conformal import half_width
from training.tables.exporting import samples_of, trained_from
from training.tables.learning import TARGET, ValueLoss, ValueModule
from training.tables.networks import Value, body, outputs_of
from training.tables.preparation import PreparedTable, prepare
from training.tables.settings import TableSettings
from training.tensors.drawing import draw_losses
from training.tensors.evaluation import regression_metrics
from training.tensors.learning import Rows


class Settings(TableSettings):
    """The settings of this recipe."""

    loss: ValueLoss = Field(
        default="mse", description="huber bends at one deviation of the target; mape needs targets without 0"
    )
    unit: str = Field(default="", description="of the target")
    coverage: float | None = Field(
        default=0.9, gt=0, lt=1, description="share of true values in the answered interval; null: none"
    )
    calibration: float = Field(
        default=0.15, gt=0, lt=0.5, description="share of the training rows that calibrates the interval"
    )


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the least validation loss, calibrate, measure, draw the report.

    Raises CallError for data that doesn't fit the columns, and for too few rows for the coverage.
    """
    started, computed = time.monotonic(), time.process_time()
    seed_everything(run.seed)
    share = settings.calibration if settings.coverage else 0.0
    with run.findings.reported():
        prepared = prepare(settings, run.findings, run.seed, "number", share)
    learner = learn(settings, run, prepared)
    model = best_of(learner)
    width = None
    if settings.coverage:
        calibration = prepared.splits["calibration"]
        residuals = outputs_of(model, calibration.features) - calibration.targets
        width = half_width(residuals.numpy(), settings.coverage)
    test = prepared.splits["test"]
    found, truth = outputs_of(model, test.features).numpy(), test.targets.numpy()
    draw_losses(learner.history, run.report / "curves.png")
    values = [{"value": value} for value in found.tolist()]
    return trained_from(
        "regressor",
        model,
        prepared,
        run.seed,
        metrics=metrics_of(found, truth, width),
        postprocess=_postprocess(settings, width),
        samples=samples_of(prepared.table, test, values),
        training=learner.training_facts(started, computed),
    )


def learn(settings: Settings, run: Run, prepared: PreparedTable) -> ValueModule:
    """Fit the network of the settings to the training rows."""
    training, validation = prepared.splits["train"], prepared.splits["validation"]
    if settings.loss == "mape" and not bool(training.targets.all()):
        raise CallError("loss: mape divides by the target, which is 0 in some rows; take another, like mae")
    inner = body(settings, prepared.table, training.features, 1, run.seed)
    held_out = ((validation.features,), {TARGET: validation.targets})
    learner = ValueModule(Value(inner, training.targets), settings, held_out)
    rows = ((training.features,), {TARGET: training.targets})
    fit(learner, Rows(rows, settings.batch_size, run.seed), run, fingerprint=prepared.raw.fingerprint)
    return learner


def best_of(learner: ValueModule) -> torch.nn.Module:
    """The best epoch, on the CPU in eval mode."""
    model = learner.average.cpu().eval()
    model.load_state_dict(learner.best_state)
    return model


def metrics_of(found: np.ndarray, truth: np.ndarray, width: float | None) -> dict[str, float]:
    """mae, rmse, r2; of the interval its coverage and its width."""
    metrics = regression_metrics(found, truth)
    if width is not None:
        metrics["coverage"] = float((np.abs(found - truth) <= width).mean())
        metrics["interval_width"] = 2 * width
    return metrics


def _postprocess(settings: Settings, width: float | None) -> dict[str, Any]:
    interval = {} if width is None else {"half_width": width, "coverage": settings.coverage}
    unit = {"unit": settings.unit} if settings.unit else {}
    return {"type": "value", **interval, **unit}
