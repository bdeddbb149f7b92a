"""Learns to forecast series from their last values, and how wide an interval around each forecast must be.

Splits are by time. The epoch is chosen on the validation part; every origin of the test part is forecast and
measured, beside the naive forecasts and ridge regression. The interval comes from fits that leave out a block
of the times before the test each.
"""

import json
from typing import Any

import numpy as np
import torch

from marina.core.errors import BelowFloor
from training.export.trained import HELD_OUT, Sample, Trained
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.series.assessment import FORECAST_METRICS, Assessment, assess
from training.series.drawing import draw_beside, draw_errors, draw_forecasts
from training.series.intervals import half_widths
from training.series.learning import ForecastModule, changes_of, learn, values_of
from training.series.preparation import PreparedSeries, prepare
from training.series.settings import ForecastSettings as Settings
from training.series.windows import Windows
from training.tensors.drawing import draw_losses

__all__ = ["Settings", "train"]

METRICS = FORECAST_METRICS

EXAMPLE_ROWS = 4
SAMPLES = 64


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the least validation loss, calibrate, measure, draw the report.

    Raises CallError for data that doesn't fit the columns or is too short, and BelowFloor for forecasts that
    are no better than the naive ones (MASE of 1 or more), whatever the spec's floor.
    """
    seed_everything(run.seed)
    with run.findings.reported():
        prepared = prepare(settings, run.findings)
    learner, model, widths, assessment = fitted_forecaster(settings, prepared, run)
    check_mase(assessment)
    test = prepared.splits["test"]
    draw_losses(learner.history, run.report / "curves.png")
    draw_forecasts(test, assessment, settings.unit, run.report / "forecasts.png")
    draw_errors(test, assessment, settings.seasonal_period, run.report / "errors.png")
    draw_beside(assessment, run.report / "comparison.png")
    facts = learner.training_facts(run)
    facts["beside"] = {name: {"mae": round(error, 6)} for name, error in assessment.beside.items()}
    return _trained(settings, prepared, model, widths, assessment, facts)


def fitted_forecaster(
    settings: Settings, prepared: PreparedSeries, run: Run
) -> tuple[ForecastModule, torch.nn.Module, np.ndarray | None, Assessment]:
    """The learner, its best epoch, the interval's half widths, and how good it is."""
    splits = prepared.splits
    learner = learn(settings, splits["train"], splits["validation"], run, prepared.raw.fingerprint)
    model = learner.best_model()
    before = prepared.before_test()
    widths = half_widths(settings, before, max(1, learner.best_epoch), run)
    changes, _ = changes_of(model, splits["test"])
    parts = (splits["train"], before, splits["test"])
    return learner, model, widths, assess(changes, widths, *parts, settings.seasonal_period)


def check_mase(assessment: Assessment) -> None:
    """Raise BelowFloor for forecasts that nobody needs."""
    mase = assessment.metrics["mase"]
    if mase >= 1:
        raise BelowFloor(
            f"mase {mase:.4g} is not below 1: the forecasts are no better than the naive ones are in the "
            "training part; nothing was exported"
        )


def _trained(
    settings: Settings,
    prepared: PreparedSeries,
    model: torch.nn.Module,
    widths: np.ndarray | None,
    assessment: Assessment,
    facts: dict[str, Any],
) -> Trained:
    splits = prepared.splits
    train = splits["train"]
    example = train.batch(np.arange(EXAMPLE_ROWS) % len(train)).features
    postprocess: dict[str, Any] = {"type": "forecast"}
    if widths is not None:
        postprocess |= {"half_widths": widths.tolist(), "coverage": settings.coverage}
    return Trained(
        kind="forecaster",
        module=model,
        example=(example,),
        validation=(splits["validation"].spread(HELD_OUT).batch(slice(None)).features,),
        metrics=assessment.metrics,
        preprocess=prepared.series.as_config(),
        postprocess=postprocess,
        samples=samples_of(splits["test"], model),
        data=prepared.facts(),
        training=facts,
    )


def samples_of(test: Windows, model: torch.nn.Module) -> list[Sample]:
    """Golden requests from the test part, each with its forecast."""
    windows = test.spread(SAMPLES)
    changes, _ = changes_of(model, windows)
    return [
        Sample(
            f"test-{row}", json.dumps(windows.request(row)).encode(), "application/json", {"value": values}
        )
        for row, values in enumerate(values_of(windows, changes).tolist())
    ]
