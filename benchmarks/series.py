"""Measures the recipe for series over seeds, beside the naive forecasts and ridge regression.

    marina bench series                              all, three seeds each: ten minutes
    marina bench series --only sunspots --seeds 1    one of them, one seed
    marina bench series --only co2 --set network=tcn --set layers=4

The settings are those of models/co2.yaml and docs/recipes/sunspots.yaml. Every origin of the test part, the
last times, is forecast; errors are means over all steps ahead. A seed draws the weights; the splits are by
time.
"""

import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.recipe_seeds import measure_seeds
from marina.core import paths
from marina.core.spec import parse
from training.recipes import forecaster
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.series.preparation import prepare

FOLDERS = {"co2": "models", "sunspots": "docs/recipes"}
NAMES = tuple(FOLDERS)


def measured(name: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One seed of one recipe: its metrics, and the mean absolute error of each other way to forecast."""
    text = (paths.SOURCE / FOLDERS[name] / f"{name}.yaml").read_text(encoding="utf-8")
    settings = forecaster.Settings(**{**parse(text, name, name).training.settings, **changes})
    seed_everything(seed)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = Run(Path(folder), seed)
        prepared = prepare(settings, run.findings)
        _, _, _, assessment = forecaster.fitted_forecaster(settings, prepared, run)
    return {
        "name": name,
        "seed": seed,
        "network": settings.network,
        "metrics": assessment.metrics,
        "beside": assessment.beside,
    }


def line(row: dict[str, Any]) -> str:
    """A measurement in words."""
    metrics = row["metrics"]
    others = ", ".join(f"{who} {error:.3f}" for who, error in row["beside"].items())
    covered = f", interval covers {metrics['coverage']:.3f}" if "coverage" in metrics else ""
    return (
        f"mae: {row['network']} {metrics['mae']:.3f}, {others}; mase {metrics['mase']:.3f}, skill "
        f"{metrics['skill']:.3f}{covered}"
    )


if __name__ == "__main__":
    measure_seeds(__doc__ or "", NAMES, measured, line)
