"""An HTML page on a search of training settings; the layout is search.html.jinja."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from marina import __version__
from marina.core.errors import WorkError
from marina.core.spec import Spec
from marina.evaluation.pages import Figure, data_url, facts, number_text, render, table
from marina.search import drawing
from marina.search.study import Space, settings_of

TEMPLATE = "search.html.jinja"
SHOWN = 50  # trials


def page(spec: Spec, study: optuna.Study) -> str:
    """The HTML. Raises WorkError where no trial has a value."""
    trials = drawing.complete(study)
    if not trials:
        raise WorkError(f"{spec.name}: none of {len(study.trials)} trials came to its end; {_reasons(study)}")
    best, counts = study.best_trial, dict.fromkeys(TrialState, 0)
    for trial in study.trials:
        counts[trial.state] += 1
    tiles = [
        ("best value", number_text(float(best.value or 0))),
        ("trials with a value", str(counts[TrialState.COMPLETE])),
        ("pruned", str(counts[TrialState.PRUNED])),
        ("failed", str(counts[TrialState.FAIL])),
    ]
    content = {
        **{"name": spec.name, "about": spec.about, "marina_version": __version__},
        "metric": spec.search.metric or "what the recipe chooses an epoch by (a loss has a minus)",
        "tiles": tiles,
        "best": facts(settings_of(best, spec.search.space)),
        "figures": _figures(study),
        "trials": _trials(study, spec.search.space),
    }
    return render(TEMPLATE, content)


def _reasons(study: optuna.Study) -> str:
    refused = {str(trial.user_attrs["refused"]) for trial in study.trials if "refused" in trial.user_attrs}
    return "; ".join(sorted(refused)[:3]) or "give more --trials"


def _figures(study: optuna.Study) -> list[Figure]:
    figures = []
    with TemporaryDirectory(prefix="marina-search-") as folder:
        file = Path(folder) / "figure.png"
        drawing.draw_history(study, file)
        figures.append(Figure(data_url(file), "History", "The value of each trial, and the best so far."))
        if shares := drawing.importance(study):
            drawing.draw_importance(shares, file)
            text = "Share of the values' variance that each setting explains (fANOVA). Few trials say little."
            figures.append(Figure(data_url(file), "Importance", text))
        drawing.draw_parallel(study, file)
        text = "A line for each trial with a value; the brighter the better, and the best one is thick."
        figures.append(Figure(data_url(file), "Settings and values", text))
    return figures


def _trials(study: optuna.Study, space: Space) -> Any:
    """The table of trials, best first, then those without a value."""
    is_less = study.direction == optuna.study.StudyDirection.MINIMIZE

    def rank(trial: FrozenTrial) -> tuple[bool, float]:
        value = trial.value if trial.value is not None else 0.0
        return trial.state != TrialState.COMPLETE, value if is_less else -value

    names = sorted({name for trial in study.trials for name in trial.params})
    rows = []
    for trial in sorted(study.trials, key=rank)[:SHOWN]:
        value = "" if trial.value is None else f"{trial.value:.4g}"
        settings = settings_of(trial, space)
        drawn = [str(settings.get(name, "")) for name in names]
        state = {"complete": "", "fail": "failed"}.get(trial.state.name.lower(), trial.state.name.lower())
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        rows.append([trial.number, value, *drawn, len(trial.intermediate_values), f"{seconds:.0f} s", state])
    return table(["trial", "value", *names, "epochs", "time", ""], rows)
