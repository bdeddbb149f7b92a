"""Searches for training settings with Optuna: a trial is a training without its export.

A trial learns like `marina train` and ends with its last epoch, before anything is measured on the test
split, which stays unseen. After each epoch Optuna may prune it. Trials are kept in SQLite in cache/search/,
so that a search can be interrupted, resumed, and shared by several processes.

Not covered: recipes that have no epochs on labeled examples, like policies.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from marina.core import paths
from marina.core.errors import CallError
from marina.core.search import WAIT_SECONDS, Range
from marina.core.spec import Spec, parse
from training import recipes
from training.findings import Findings, reporting_to
from training.imports.user_code import importable
from training.runs.fitting import FitModule
from training.runs.run import FitEnded, Run
from training.runs.schedules import FitSettings

KEPT = (TrialState.COMPLETE, TrialState.PRUNED)
NO_EPOCHS = "recipe {} has no epochs on labeled examples, which a search compares"
HEARTBEAT_SECONDS = 60  # a trial whose process has been silent for twice as long has failed
Say = Callable[[str], None]
Space = dict[str, Range | list[Any]]


def open_study(spec: Spec) -> optuna.Study:
    """The study of `spec`: the same for the same space, settings, seed and metric.

    Raises CallError where there is no space, or one of other settings than the recipe's, and for wrong
    settings in the spec itself.
    """
    if not spec.search.space:
        raise CallError(
            f"models/{spec.name}.yaml has no search.space; write what may change, like\n"
            "search:\n  space:\n    learning_rate: {low: 1e-4, high: 1e-1, log: true}\n"
            "    optimizer: [adamw, sgd]"
        )
    settings = recipes.recipe_of(spec).settings(spec)
    known = type(settings).model_fields
    if unknown := [name for name in spec.search.space if name not in known]:
        where = f"models/{spec.name}.yaml: search.space"
        raise CallError(f"{where}: no setting {unknown[0]!r} of the recipe; known: {', '.join(known)}")
    if not isinstance(settings, FitSettings):
        raise CallError(NO_EPOCHS.format(spec.training.recipe))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    said = [spec.training.model_dump(mode="json"), spec.search.model_dump(mode="json")]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    file = paths.cache(spec.home) / "search" / f"{spec.name}-{spec.version}.db"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _stable():
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{file}",
            engine_kwargs={"connect_args": {"timeout": WAIT_SECONDS}},
            heartbeat_interval=HEARTBEAT_SECONDS,
        )
    directions = optuna.study.StudyDirection
    direction = directions.MINIMIZE if is_loss(spec.search.metric) else directions.MAXIMIZE
    return optuna.create_study(
        storage=storage, study_name=f"{spec.name} {key}", direction=direction, load_if_exists=True
    )


def is_loss(metric: str | None) -> bool:
    """Whether less of it is better."""
    return metric is not None and "loss" in metric


def run_trials(spec: Spec, study: optuna.Study, count: int, say: Say, process: int = 0) -> None:
    """Train until `count` trials are done, those of earlier calls and of other processes included.

    Raises CallError for settings or data that no trial can use.
    """
    # another one per process and resumption: the same draws would be the same trials
    seed = spec.training.seed + 1_000 * process + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(2, count // 3)))
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    while _count_started(study) < count:
        study.optimize(
            lambda trial: _value(spec, trial),
            n_trials=1,
            callbacks=[lambda _, trial: say(_in_words(trial, spec.search.space))],
        )


def _count_started(study: optuna.Study) -> int:
    """Trials that are done or run; those of a process that was killed are neither."""
    with _stable():
        optuna.storages.fail_stale_trials(study)
    return sum(trial.state in (*KEPT, TrialState.RUNNING) for trial in study.get_trials(deepcopy=False))


@contextmanager
def _stable() -> Iterator[None]:
    """Heartbeats of trials are an experiment to Optuna, since 2021."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _in_words(trial: FrozenTrial, space: Space) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in settings_of(trial, space).items())
    value = f"{trial.value:.4g}" if trial.value is not None else "no value"
    reason = trial.user_attrs.get("refused", "")
    ended = "" if trial.state == TrialState.COMPLETE else f", {trial.state.name.lower()} {reason}".rstrip()
    return f"trial {trial.number}: {value} with {settings}{ended}"


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Settings that the trial draws from the space."""
    for name, choices in space.items():
        if isinstance(choices, list):
            trial.suggest_categorical(name, [json.dumps(each) for each in choices])  # it may be lists
        else:
            _number(trial, name, choices)
    return settings_of(trial, space)


def settings_of(trial: optuna.Trial | FrozenTrial, space: Space) -> dict[str, Any]:
    """The settings that were drawn; numbers to four digits, so that they can be read and written again."""
    settings = {}
    for name, value in trial.params.items():
        if isinstance(space[name], list):
            settings[name] = json.loads(value)
        else:
            settings[name] = float(f"{value:.4g}") if isinstance(value, float) else value
    return settings


def _number(trial: optuna.Trial, name: str, span: Range) -> float | int:
    drawn: float | int
    if span.is_whole:
        low, high = int(span.low), int(span.high)
        drawn = trial.suggest_int(name, low, high, step=int(span.step or 1), log=span.log)
    else:
        drawn = trial.suggest_float(name, span.low, span.high, step=span.step, log=span.log)
    return drawn


def with_settings(spec: Spec, settings: dict[str, Any]) -> Spec:
    """`spec` with these settings of its recipe. Raises CallError for wrong ones."""
    changes = {f"training.{name}": value for name, value in settings.items()}
    return parse(spec.as_yaml(), spec.name, f"models/{spec.name}.yaml", changes).moved(spec.home)


def _value(spec: Spec, trial: optuna.Trial) -> float:
    """The best epoch's value of one training; raises TrialPruned where Optuna stops it or the recipe refuses
    its settings together.
    """
    changed = with_settings(spec, suggested(trial, spec.search.space))
    recipe = recipes.recipe_of(changed)
    try:
        settings = recipe.settings(changed)
    except CallError as error:
        trial.set_user_attr("refused", str(error))
        raise optuna.TrialPruned(str(error)) from error
    values: list[float] = []

    def after_epoch(learner: FitModule) -> None:
        values.append(value_of(learner, spec.search.metric))
        trial.report(values[-1], len(values))
        if trial.should_prune():
            raise optuna.TrialPruned

    with TemporaryDirectory(prefix="marina-search-") as folder, importable(home=spec.home):
        run = Run(Path(folder), spec.training.seed, findings=Findings(quiet=True), after_epoch=after_epoch)
        try:
            with reporting_to(run.findings):
                recipe.train(settings, run)
        except FitEnded:
            return min(values) if is_loss(spec.search.metric) else max(values)
    raise CallError(NO_EPOCHS.format(recipe.name))


def value_of(learner: FitModule, metric: str | None) -> float:
    """The last epoch's `metric`, or what the recipe chooses epochs by. Raises CallError for an unknown
    one.
    """
    row = learner.history[-1]
    if metric is None:
        return learner.objective(row)
    if metric not in row:
        raise CallError(f"search.metric: no {metric!r} in an epoch's row; it has {', '.join(row)}")
    return row[metric]


logging.getLogger("alembic").setLevel(logging.WARNING)  # of Optuna's tables
