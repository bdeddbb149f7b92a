"""Measures the recipes for series and signals over seeds, beside simple ways to answer.

    marina bench series                              all, three seeds each: ten minutes
    marina bench series --only sunspots --seeds 1    one of them, one seed
    marina bench series --only co2 --set network=tcn --set layers=4

The settings are those of models/co2.yaml and docs/recipes/. Every origin of the test part, the last times, is
forecast; errors are means over all steps ahead. A seed draws the weights; the splits are by time. Of signals
it draws the validation part, too.
"""

import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.recipe_seeds import measure_seeds
from marina.core import paths
from marina.core.spec import parse
from training.data.signal_files import read_signals
from training.recipes import forecaster, sequence_classifier
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.series.preparation import prepare
from training.signals.baseline import PREFIX, measure_baseline

Measured = tuple[str, dict[str, float], dict[str, float]]  # network, metrics, other ways to answer
FOLDERS = {"co2": "models", "sunspots": "docs/recipes", "japanese-vowels": "docs/recipes"}
NAMES = tuple(FOLDERS)


def measured(name: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One seed of one recipe: its metrics, and those of other ways to answer."""
    text = (paths.SOURCE / FOLDERS[name] / f"{name}.yaml").read_text(encoding="utf-8")
    training = parse(text, name, name).training
    measure = classified if training.recipe == "sequence_classifier" else forecast
    seed_everything(seed)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        network, metrics, beside = measure({**training.settings, **changes}, Run(Path(folder), seed))
    return {"name": name, "seed": seed, "network": network, "metrics": metrics, "beside": beside}


def forecast(settings: dict[str, Any], run: Run) -> Measured:
    """The mean absolute error of a forecaster and of each other way to forecast."""
    read = forecaster.Settings(**settings)
    prepared = prepare(read, run.findings)
    _, _, _, assessment = forecaster.fitted_forecaster(read, prepared, run)
    return read.network, assessment.metrics, assessment.beside


def classified(settings: dict[str, Any], run: Run) -> Measured:
    """The accuracy of a classifier of signals, and of logistic regression on their summaries."""
    read = sequence_classifier.Settings(**settings)
    raw = read_signals(read.data, read.columns)
    data = sequence_classifier.split_of(read, raw, run)
    *_, assessment = sequence_classifier.fitted_classifier(read, raw, data, run)
    accuracy = measure_baseline(data)[f"{PREFIX}accuracy"]
    return read.network, assessment.metrics, {"logistic regression on summaries": accuracy}


def line(row: dict[str, Any]) -> str:
    """A measurement in words."""
    metrics = row["metrics"]
    others = ", ".join(f"{who} {figure:.3f}" for who, figure in row["beside"].items())
    if "mae" not in metrics:
        return f"accuracy: {row['network']} {metrics['accuracy']:.3f}, {others}; ece {metrics['ece']:.3f}"
    covered = f", interval covers {metrics['coverage']:.3f}" if "coverage" in metrics else ""
    return (
        f"mae: {row['network']} {metrics['mae']:.3f}, {others}; mase {metrics['mase']:.3f}, skill "
        f"{metrics['skill']:.3f}{covered}"
    )


if __name__ == "__main__":
    measure_seeds(__doc__ or "", NAMES, measured, line)
