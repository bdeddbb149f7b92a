"""Learns a number from the rows of a table, and how wide an interval around it must be.

The columns are fitted on the training rows, the epoch is chosen on the validation rows, the interval is
calibrated on rows that nothing was learned from, and all metrics are measured on the test rows.
"""

from functools import partial
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
from training.tables.cross_validation import Pooled, cross_validate
from training.tables.drawing import draw_residuals
from training.tables.exporting import samples_of, trained_from
from training.tables.learning import TARGET, ValueLoss, ValueModule
from training.tables.networks import Value, body, outputs_of
from training.tables.preparation import PreparedTable, prepare
from training.tables.reporting import write_report
from training.tables.settings import TableSettings
from training.tensors.drawing import draw_losses
from training.tensors.evaluation import ERROR_METRICS, regression_metrics
from training.tensors.learning import Rows

POOLED_METRICS = (*ERROR_METRICS, "coverage")  # of `pooled_metrics`
METRICS = (*POOLED_METRICS, "interval_width", *(f"cv_{name}" for name in POOLED_METRICS))


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

    @property
    def calibration_share(self) -> float:
        """None without an interval."""
        return self.calibration if self.coverage else 0.0


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the least validation loss, calibrate, measure, draw the report.

    Raises CallError for data that doesn't fit the columns, and for too few rows for the coverage.
    """
    seed_everything(run.seed)
    with run.findings.reported():
        prepared = prepare(settings, run.findings, run.seed)
    learner = learn(settings, run, prepared)
    model = learner.best_model()
    width = interval_of(settings, model, prepared)
    test = prepared.splits["test"]
    found, truth = outputs_of(model, test.features).numpy(), test.targets.numpy()
    draw_losses(learner.history, run.report / "curves.png")
    draw_residuals(found, truth, width, settings.unit, run.report / "residuals.png")
    facts = write_report(model, prepared, settings.network, settings.compare, run.seed, run.report)
    in_folds = cross_validate(prepared.raw, settings, run, partial(fitted_model, settings), pooled_metrics)
    values = [{"value": value} for value in found.tolist()]
    return trained_from(
        "regressor",
        model,
        prepared,
        run.seed,
        metrics={**metrics_of(found, truth, width), **in_folds},
        postprocess=_postprocess(settings, width),
        samples=samples_of(prepared.table, test, values),
        training={**learner.training_facts(run), **facts},
    )


def fitted_model(
    settings: Settings, prepared: PreparedTable, run: Run
) -> tuple[torch.nn.Module, float | None]:
    """The best epoch, and the half width of its interval."""
    model = learn(settings, run, prepared).best_model()
    return model, interval_of(settings, model, prepared)


def pooled_metrics(pooled: Pooled) -> dict[str, float]:
    """mae, rmse and r2; with intervals their coverage."""
    metrics = regression_metrics(*pooled.answers)
    if pooled.widths:
        metrics["coverage"] = pooled.coverage
    return metrics


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


def interval_of(settings: Settings, model: torch.nn.Module, prepared: PreparedTable) -> float | None:
    """The interval's half width, from the calibration rows; None without a coverage."""
    if settings.coverage is None:
        return None
    calibration = prepared.splits["calibration"]
    residuals = outputs_of(model, calibration.features) - calibration.targets
    return half_width(residuals.numpy(), settings.coverage)


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
