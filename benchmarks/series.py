"""Measures the recipe for series over seeds, beside the naive forecasts and ridge regression.

    marina bench series                              all, three seeds each: ten minutes
    marina bench series --only sunspots --seeds 1    one of them, one seed
    marina bench series --only co2 --set network=tcn --set layers=4

The settings are those of models/co2.yaml and docs/recipes/sunspots.yaml. Every origin of the test part, the
last times, is forecast; errors are means over all steps ahead. A seed draws the weights; the splits are by
time.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

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


def main() -> None:
    """Measure, print a line for each, write --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=NAMES, help="a recipe; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting")
    parser.add_argument("--out", type=Path, help="file for the results")
    options = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in options.set)}
    results = []
    for name in options.only or NAMES:
        for seed in range(options.seeds):
            results.append(measured(name, seed, changes))
            row = results[-1]
            metrics = row["metrics"]
            others = ", ".join(f"{who} {error:.3f}" for who, error in row["beside"].items())
            covered = f", interval covers {metrics['coverage']:.3f}" if "coverage" in metrics else ""
            print(
                f"{name} seed {seed}: mae: {row['network']} {metrics['mae']:.3f}, {others}; mase "
                f"{metrics['mase']:.3f}, skill {metrics['skill']:.3f}{covered}",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
