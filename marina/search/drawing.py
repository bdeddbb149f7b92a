"""Pictures of a search: its history, what mattered, and the trials as lines over their settings."""

import json
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

LEAST_FOR_IMPORTANCE = 4  # trials


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have a value."""
    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE]


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of the values' variance that each setting explains (fANOVA, Hutter et al. 2014); empty where
    there are too few trials, or one value alone.
    """
    trials = complete(study)
    if len(trials) < LEAST_FOR_IMPORTANCE or len({trial.value for trial in trials}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    return {name: float(share) for name, share in found.items()}


def draw_history(study: optuna.Study, file: Path) -> None:
    """Each trial's value, and the best so far; pruned trials with what they had."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    trials, is_less = complete(study), study.direction == optuna.study.StudyDirection.MINIMIZE
    numbers, values = [trial.number for trial in trials], [float(trial.value or 0) for trial in trials]
    axes.plot(numbers, values, "o", label="trial")
    best = (np.minimum if is_less else np.maximum).accumulate(values)
    axes.step(numbers, best, where="post", label="best so far")
    pruned = [
        (t.number, t.value) for t in study.trials if t.state == TrialState.PRUNED and t.value is not None
    ]
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="gray", label="pruned")
    axes.set(xlabel="trial", ylabel="value on validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper right", ncols=3)
    figure.savefig(file, dpi=110)


def draw_importance(shares: dict[str, float], file: Path) -> None:
    """A bar for each setting, the most important one first."""
    figure = Figure(figsize=(9, 0.9 + 0.45 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = list(reversed(shares))
    bars = axes.barh(names, [shares[name] for name in names])
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.set(xlabel="share of the variance", xlim=(0, 1.08))
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=110)


def draw_parallel(study: optuna.Study, file: Path) -> None:
    """A line for each trial over one axis per setting and one for its value, which colors it."""
    trials = sorted(complete(study), key=lambda trial: float(trial.value or 0))
    if study.direction == optuna.study.StudyDirection.MINIMIZE:
        trials.reverse()
    names = sorted({name for trial in trials for name in trial.params})
    columns = [_Axis([trial.params.get(name) for trial in trials], trials[0], name) for name in names]
    columns.append(_Axis([trial.value for trial in trials], None, "value"))
    figure = Figure(figsize=(max(6.0, 2.1 * len(columns)), 4.2), layout="constrained")
    axes = figure.subplots()
    colors = mpl.colormaps["viridis"](np.linspace(0, 1, len(trials)))
    for row, color in enumerate(colors):
        places = [column.places[row] for column in columns]
        axes.plot(
            range(len(columns)), places, color=color, alpha=0.8, lw=2.5 if row == len(trials) - 1 else 1.2
        )
    for place, column in enumerate(columns):
        axes.axvline(place, color="gray", lw=0.8)
        for height, text in column.ticks:
            axes.annotate(
                text,
                (place, height),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    axes.set_xticks(range(len(columns)), [column.name for column in columns])
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(columns) - 0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(file, dpi=110)


class _Axis:
    """Places 0..1 of values on an axis, with texts at some: numbers by size or logarithm, others evenly."""

    def __init__(self, values: list[Any], trial: FrozenTrial | None, name: str) -> None:
        self.name = name
        kind = trial.distributions.get(name) if trial else None
        if isinstance(kind, optuna.distributions.CategoricalDistribution):
            choices = list(kind.choices)
            steps = max(1, len(choices) - 1)
            self.places = [choices.index(value) / steps for value in values]
            self.ticks = [
                (place / steps, str(json.loads(str(choice)))) for place, choice in enumerate(choices)
            ]
            return
        scale = np.log10 if getattr(kind, "log", False) else np.asarray
        numbers = scale(np.array(values, float))
        low, high = float(numbers.min()), float(numbers.max())
        span = (high - low) or 1.0
        self.places = ((numbers - low) / span).tolist()
        marks = np.linspace(low, high, 5)
        shown = 10**marks if getattr(kind, "log", False) else marks
        self.ticks = [((mark - low) / span, f"{value:.3g}") for mark, value in zip(marks, shown, strict=True)]
