"""How good forecasts are, from every origin of the test part, beside the naive ones and ridge regression."""

from dataclasses import dataclass

import numpy as np

from training.series.baselines import RIDGE, naive_forecasts, naive_scales, ridge_forecasts
from training.series.learning import values_of
from training.series.windows import Windows
from training.tensors.evaluation import regression_metrics

FORECAST_METRICS = ("mae", "rmse", "mase", "skill", "ridge_skill", "coverage", "interval_width")


@dataclass(frozen=True)
class Assessment:
    """Forecasts of the test windows and what is true, float64 [N, horizon], the ends of the intervals, the
    metrics, and the mean absolute error of each other way to forecast.
    """

    found: np.ndarray
    truth: np.ndarray
    ends: tuple[np.ndarray, np.ndarray] | None
    metrics: dict[str, float]
    beside: dict[str, float]


def assess(
    changes: np.ndarray,
    widths: np.ndarray | None,
    train: Windows,
    before: Windows,
    test: Windows,
    season: int,
) -> Assessment:
    """Measure scaled changes [N, horizon] that were forecast for the test windows; `before` are all windows
    that ridge regression may learn from.
    """
    found, truth = values_of(test, changes), test.truth()
    ends = None
    if widths is not None:
        ends = values_of(test, changes - widths), values_of(test, changes + widths)
    beside = {}
    for name, values in naive_forecasts(test, season).items():
        errors = np.abs(values - truth)
        if not np.isnan(errors).all():
            beside[name] = float(np.nanmean(errors))
    best_naive = min(beside.values())
    beside[RIDGE] = float(np.abs(ridge_forecasts(before, test) - truth).mean())
    metrics = metrics_of(found, truth, ends)
    scales = naive_scales(train, season)[test.flat.index[test.origins]]
    mase = float((np.abs(found - truth).mean(1) / scales).mean())
    metrics["mase"] = mase if np.isfinite(mase) else 0.0 if not np.any(found != truth) else 1e9
    metrics["skill"] = 1 - metrics["mae"] / best_naive if best_naive > 0 else 0.0
    metrics["ridge_skill"] = 1 - metrics["mae"] / beside[RIDGE] if beside[RIDGE] > 0 else 0.0
    return Assessment(found, truth, ends, metrics, beside)


def metrics_of(
    found: np.ndarray, truth: np.ndarray, ends: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, float]:
    """Errors (mae, rmse) over all steps; of the interval its coverage and mean width."""
    metrics = regression_metrics(found.ravel(), truth.ravel())
    del metrics["r2"]  # near 1 for every series with a trend
    if ends is not None:
        metrics["coverage"] = float(((truth >= ends[0]) & (truth <= ends[1])).mean())
        metrics["interval_width"] = float((ends[1] - ends[0]).mean())
    return metrics
