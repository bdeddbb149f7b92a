"""Measures the recipes for rows of a table over folds and seeds, beside trees and a linear model.

    marina bench tables                              all, three seeds each: ten minutes
    marina bench tables --only diabetes --seeds 1    one of them, one seed
    marina bench tables --only wine --set network=rbf --set epochs=60

The settings are those of docs/recipes/NAME.yaml. Scores are of all ten folds' test rows together: of a single
fold of 44 rows R2 says little.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import yaml
from sklearn.metrics import accuracy_score, r2_score

from marina.core import paths
from marina.core.spec import parse
from training.data.tables import load_table
from training.recipes import regressor, tabular_classifier
from training.runs.run import Run
from training.tables.comparison import answers_beside
from training.tables.cross_validation import Pooled, folds_of
from training.tables.networks import outputs_of

NAMES = ("diabetes", "breast-cancer", "wine")
FOLDS = 10
OURS = "network"


def measured(name: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One seed of one recipe: the pooled score of each model, the interval's coverage."""
    text = (paths.SOURCE / "docs" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    spec = parse(text, name, name)
    is_class = spec.kind == "tabular_classifier"
    recipe: Any = tabular_classifier if is_class else regressor
    settings = recipe.Settings(**{**spec.training.settings, **changes})
    pooled: dict[str, Pooled] = {}
    raw, run = load_table(settings.data), Run(Path(), seed)
    for prepared, once in folds_of(raw, settings, FOLDS, run):
        test = prepared.splits["test"]
        with contextlib.redirect_stdout(io.StringIO()):
            model, width = recipe.fitted_model(settings, prepared, once)
        answers = {OURS: outputs_of(model, test.features).numpy(), **answers_beside(prepared, seed)}
        for who, found in answers.items():
            best = found.argmax(1) if is_class else found
            pooled.setdefault(who, Pooled()).add(best, test.targets.numpy(), width if who == OURS else None)
    score = accuracy_score if is_class else r2_score
    scores = {who: float(score(*reversed(one.answers))) for who, one in pooled.items()}
    coverage = pooled[OURS].coverage if pooled[OURS].widths else None
    metric = "accuracy" if is_class else "r2"
    return {"name": name, "metric": metric, "seed": seed, "scores": scores, "coverage": coverage}


def main() -> None:
    """Measure, print the table, write --out."""
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
            listed = ", ".join(f"{who} {score:.3f}" for who, score in row["scores"].items())
            coverage = f"; interval covers {row['coverage']:.3f}" if row["coverage"] is not None else ""
            print(f"{name} seed {seed}: {row['metric']}: {listed}{coverage}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
