"""Intervals around forecasts, at each step ahead: cross-conformal prediction over blocks of time.

The times before the test are cut into blocks. A fit without each block is wrong by so much on it; the
quantile of these errors is the interval's half width. All blocks together have seen more of a series' moods
than the last one alone.

Sources: Vovk 2015, "Cross-conformal predictors", section 3; Barber et al. 2021, "Predictive inference with
the jackknife+", section 4 (CV+). Series are not exchangeable, so that coverage is measured and no theorem.
"""

import math
from itertools import pairwise

import numpy as np

from marina.core.errors import CallError
from training.runs.run import Run
from training.series.learning import changes_of, learn, quiet
from training.series.settings import ForecastSettings
from training.series.windows import Windows
from training.tables.conformal import half_width


def half_widths(settings: ForecastSettings, windows: Windows, epochs: int, run: Run) -> np.ndarray | None:
    """Scaled changes float64 [horizon] that forecasts are off by, at most, in the share `coverage`; None
    without one.

    `windows` are those before the test, `epochs` those that a fit takes. Raises CallError for too few.
    """
    if settings.coverage is None:
        return None
    first, last = windows.first_numbers, windows.last_numbers
    edges = np.quantile(first, np.linspace(0, 1, settings.blocks + 1)).astype(np.int64)
    edges[-1] = last.max() + 1
    once = settings.model_copy(update={"epochs": epochs, "patience": 0})
    residuals = []
    for start, stop in pairwise(edges.tolist()):
        block = windows.of((first >= start) & (last < stop))
        others = windows.of((last < start) | (first >= stop))
        if len(block) and len(others):
            with quiet(run) as beside:
                model = learn(once, others, others.spread(256), beside, None).last_model()
            found, truth = changes_of(model, block)
            residuals.append(found - truth)
    errors = np.concatenate(residuals) if residuals else np.zeros((0, settings.horizon))
    least = math.ceil(settings.coverage / (1 - settings.coverage) - 1e-9)
    if len(errors) < least:
        raise CallError(
            f"coverage: {settings.coverage:g} needs {least:,} windows, and {settings.blocks} blocks have "
            f"{len(errors):,}; give longer series, fewer blocks, or coverage: null for values alone"
        )
    return np.array([half_width(errors[:, step], settings.coverage) for step in range(settings.horizon)])
