"""Measures the recipes for rows of a table over folds and seeds, beside trees and a linear model.

    marina bench tables                              all, three seeds each: ten minutes
    marina bench tables --only diabetes --seeds 1    one of them, one seed
    marina bench tables --only wine --set network=rbf --set epochs=60

The settings are those of docs/recipes/NAME.yaml. Scores are of all ten folds' test rows together: of a single
fold of 44 rows R2 says little.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

from sklearn.metrics import accuracy_score, r2_score

from benchmarks.recipe_seeds import measure_seeds
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


def line(row: dict[str, Any]) -> str:
    """A measurement in words."""
    listed = ", ".join(f"{who} {score:.3f}" for who, score in row["scores"].items())
    coverage = f"; interval covers {row['coverage']:.3f}" if row["coverage"] is not None else ""
    return f"{row['metric']}: {listed}{coverage}"


if __name__ == "__main__":
    measure_seeds(__doc__ or "", NAMES, measured, line)
