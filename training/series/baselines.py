"""What a forecaster must beat: the last value, the season before, and ridge regression on the same window."""

import numpy as np
from sklearn.linear_model import RidgeCV

from training.series.learning import values_of
from training.series.windows import Windows

LAST, SEASONAL, CHANGED, RIDGE = (
    "last value",
    "seasonal naive",
    "seasonal naive and change",
    "ridge on the window",
)
RIDGE_WINDOWS = 20_000  # that ridge learns from, at most


def naive_forecasts(windows: Windows, season: int) -> dict[str, np.ndarray]:
    """Name -> values float64 [N, horizon]; NaN where the series doesn't reach back so far.

    `CHANGED` adds to the season before the change since its last value (a random walk with the season's own
    steps); both are left out where a season has one value.
    """
    flat, origins = windows.flat, windows.origins
    ahead = np.arange(windows.series.horizon)
    last = flat.filled[origins - 1]
    naive = {LAST: np.repeat(last[:, None], len(ahead), 1)}
    if season == 1:
        return naive
    starts = np.array(flat.starts)[flat.index[origins]]
    before = origins[:, None] - season + ahead % season
    is_there = before >= starts[:, None]
    naive[SEASONAL] = np.where(is_there, flat.filled[np.maximum(before, 0)], np.nan)
    back = origins - 1 - season
    change = np.where(back >= starts, last - flat.filled[np.maximum(back, 0)], np.nan)
    naive[CHANGED] = naive[SEASONAL] + change[:, None] * (ahead // season + 1)
    return naive


def naive_scales(train: Windows, season: int) -> np.ndarray:
    """The mean absolute error of the seasonal naive forecast, the last value where a season has one, over the
    horizons of the training windows: float64 by the series' index, NaN without such a window.

    It is the denominator of MASE (Hyndman and Koehler 2006, "Another look at measures of forecast accuracy",
    section 3), which knows one step ahead, for several.
    """
    naive = naive_forecasts(train, season)
    errors = np.abs(naive.get(SEASONAL, naive[LAST]) - train.truth()).mean(1)
    is_there = ~np.isnan(errors)
    index, count = train.flat.index[train.origins][is_there], len(train.flat.names)
    sums, counts = np.bincount(index, errors[is_there], count), np.bincount(index, minlength=count)
    pooled = errors[is_there].mean() if is_there.any() else np.nan
    scales = np.where(counts > 0, sums / np.maximum(counts, 1), pooled)
    return np.where(scales > 0, scales, pooled)


def ridge_forecasts(train: Windows, test: Windows) -> np.ndarray:
    """Values float64 [N, horizon] of a ridge regression on the network's own features."""
    learned = train.spread(RIDGE_WINDOWS).batch(slice(None))
    targets = learned.targets.numpy().astype(np.float64)
    model = RidgeCV(np.logspace(-3, 3, 13)).fit(learned.features.numpy().astype(np.float64), targets)
    changes = [
        model.predict(test.batch(slice(start, start + 4096)).features.numpy().astype(np.float64))
        for start in range(0, len(test), 4096)
    ]
    return values_of(test, np.concatenate(changes).reshape(len(test), -1))
