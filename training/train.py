"""Runs the recipe of a spec and hands its result to the export; below the floor nothing is left behind."""

import importlib
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from marina import paths
from marina.errors import CallError
from marina.spec import Section, Spec, validated
from training.export import export
from training.running.environment import write_down
from training.running.run import begun

TOGETHER = ("classifier", "detector", "segmenter")  # recipes that learn on several devices


def train(spec: Spec, fresh: bool = False, devices: int = 1, nodes: int = 1) -> Path:
    """Train the model of `spec` and return its export's folder; what was cut off goes on where it stood, unless `fresh`.

    Raises CallError for settings or data that can't be used and BelowFloor when the model is not good enough.
    """
    settings = settings_of(spec)
    if devices * nodes > 1 and spec.training.recipe not in TOGETHER:
        raise CallError(f"{spec.training.recipe} learns on one device; {' and '.join(TOGETHER)} learn on several")
    spec.export_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{spec.version}-", dir=spec.export_dir.parent))
    folder.chmod(0o755)  # mkdtemp keeps it private, an export is for everybody who may read the tree
    try:
        (folder / "report").mkdir()
        with begun(spec, settings.model_dump(mode="json"), fresh, devices, nodes, folder / "report"):
            trained = recipe(spec).train(settings, spec.training.seed, folder / "report")
            trained.training = {**settings.model_dump(mode="json"), **trained.training}
            write_down(spec, folder / "report")
            return export(spec, trained, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recipe(spec: Spec) -> ModuleType:
    """The module `training/<recipe>.py`. Raises CallError, with the known recipes, for another name."""
    known = sorted(path.stem for path in (paths.SOURCE / "training").glob("*.py") if _is_recipe(path))
    if spec.training.recipe not in known:
        raise CallError(f"models/{spec.name}.yaml: training.recipe: no {spec.training.recipe!r}; known: {', '.join(known)}")
    return importlib.import_module(f"training.{spec.training.recipe}")


def settings_of(spec: Spec) -> Any:
    """The recipe's settings for `spec`, defaults filled in; CallError for unknown keys."""
    model: type[Section] = recipe(spec).Settings
    return validated(model, spec.training.settings, f"models/{spec.name}.yaml: training")


def _is_recipe(path: Path) -> bool:
    return "\nclass Settings(" in path.read_text(encoding="utf-8")
