"""Runs the recipe of a spec and exports what it gives; below the floor nothing is left behind."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from marina.core import signals
from marina.core.errors import CallError
from marina.core.spec import Spec
from training import recipes
from training.export.runtimes.trial_process import shared_trial_process
from training.export.staging import staging_folder
from training.export.writer import export
from training.findings import reporting_to
from training.imports.user_code import importable
from training.runs.environment import write_provenance
from training.runs.run import STAGING, is_helper, open_run
from training.runs.threads import torch_threads
from training.tracking.session import tracked

HELPER = "marina-helper-"


def train(spec: Spec, fresh: bool = False, devices: int = 1, nodes: int = 1, strict: bool = False) -> Path:
    """Train the model of `spec` and return the folder of its export; an interrupted run is resumed, unless
    `fresh`.

    Raises CallError for settings or data that can't be used, with `strict` also for findings on them, and
    BelowFloor when the model is not good enough.
    """
    recipe = recipes.recipe_of(spec)
    settings = recipe.settings(spec)
    if devices * nodes > 1 and not recipe.multi_device:
        several = [name for name in recipes.names() if recipes.load(name).multi_device]
        raise CallError(f"{recipe.name} learns on one device; {' and '.join(several)} learn on several")
    with signals.raised(), _folder(spec) as folder:
        (folder / "report").mkdir()
        if spec.export.runtimes and not is_helper():
            shared_trial_process().start()  # its imports take seconds and are done when the export begins
        written = settings.model_dump(mode="json")
        opened = open_run(spec, written, folder / "report", fresh, devices, nodes, strict)
        with importable(home=spec.home), opened as run, tracked(spec, written, run) as session:
            with reporting_to(run.findings):
                trained = recipe.train(settings, replace(run, log_metrics=session.log_metrics))
            run.findings.report()
            trained.findings = run.findings.as_json()
            trained.training = {**written, **trained.training}
            write_provenance(spec, run)
            for left in folder.glob(f"{HELPER}*"):
                shutil.rmtree(left)
            session.log_result(trained.metrics, trained.data, run.report)
            # the runtimes that an export tries set torch's threads to one, for the whole process
            with torch_threads(1):
                return export(spec, trained, folder)


@contextmanager
def _folder(spec: Spec) -> Iterator[Path]:
    """Where the export is built; for a process that helps another one, a folder in that one's, or in the one
    for temporary files where that one is on another machine.
    """
    if is_helper():
        with TemporaryDirectory(prefix=HELPER, dir=os.environ.get(STAGING)) as folder:
            yield Path(folder)
    else:
        with staging_folder(spec) as staging:
            yield staging


def settings_of(spec: Spec) -> Any:
    """The recipe's settings for `spec`, defaults filled in. Raises CallError for wrong ones."""
    return recipes.recipe_of(spec).settings(spec)
