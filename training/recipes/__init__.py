"""Ways of learning, one module each: what a spec names under `training.recipe`.

A recipe is a module with a pydantic model `Settings` and a function `train(settings, run) -> Trained`. It may
also say `MULTI_DEVICE = True` (it learns on several devices), `IS_IMPORT = True` (it exports a model that
learned elsewhere, so that there may be nothing to measure it by) and `METRICS`, the names that a floor may
have, with * for a part that depends on the data; a floor of another name is then refused before training. And
it may have the functions `load_data(settings, run) -> ImageData` and `augmented(settings, data, count,
views)`, for `marina data`.
Besides those in this folder there are the user's own: `package.module` or `file.py` in the home folder.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from marina.core.errors import CallError
from marina.core.spec import Section, Spec, validate
from training.data import ImageData
from training.export.trained import Trained
from training.imports.user_code import load_module
from training.runs.run import Run


@dataclass(frozen=True)
class Recipe:
    """A recipe by the name that a spec gives it."""

    name: str
    module: ModuleType

    @property
    def multi_device(self) -> bool:
        """Whether it learns on several devices."""
        return bool(getattr(self.module, "MULTI_DEVICE", False))

    @property
    def is_import(self) -> bool:
        """Whether it exports a model that learned elsewhere."""
        return bool(getattr(self.module, "IS_IMPORT", False))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Patterns of the metrics that it may measure; none where it doesn't say."""
        return tuple(getattr(self.module, "METRICS", ()))

    def settings(self, spec: Spec) -> Any:
        """Its settings for `spec`, defaults filled in. Raises CallError for wrong ones, for a missing floor,
        and for one of a metric that it can't measure.
        """
        if not spec.floor and not self.is_import:
            raise CallError(
                f"models/{spec.name}.yaml: floor: write at least one metric with the least that is exported, "
                "like {accuracy: 0.9}"
            )
        unknown = [name for name in spec.floor if not any(fnmatchcase(name, each) for each in self.metrics)]
        if self.metrics and unknown:
            raise CallError(
                f"models/{spec.name}.yaml: floor: no metric {unknown[0]!r}; the recipe {self.name} measures "
                f"{', '.join(self.metrics)}"
            )
        model: type[Section] = self.module.Settings
        return validate(model, spec.training.settings, f"models/{spec.name}.yaml: training")

    def load_data(self, settings: Any, run: Run) -> ImageData:
        """What it learns from. Raises CallError for a recipe that learns from no pictures."""
        load: Callable[..., ImageData] | None = getattr(self.module, "load_data", None)
        if load is None:
            raise CallError(f"recipe {self.name} learns from no pictures or clips that could be shown")
        return load(settings, run)

    def augmented(self, settings: Any, data: ImageData, count: int, views: int) -> list[list[Image.Image]]:
        """For `count` training pictures, each as it is and in `views` variations. Raises CallError for a
        recipe that can't show it.
        """
        vary: Callable[..., list[list[Image.Image]]] | None = getattr(self.module, "augmented", None)
        if vary is None:
            raise CallError(f"recipe {self.name} has no augmentation that could be shown")
        return vary(settings, data, count, views)

    def train(self, settings: Any, run: Run) -> Trained:
        """Train. Raises CallError where its module gives something else than a Trained."""
        trained = self.module.train(settings, run)
        if not isinstance(trained, Trained):
            raise CallError(f"recipe {self.name}: train gave a {type(trained).__name__}, not a Trained")
        return trained


def names() -> list[str]:
    """The recipes of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str, where: str = "training.recipe", home: Path | None = None) -> Recipe:
    """The recipe `name`, of the project `home` where it is one of the user's own; `where` says who asks.

    Raises CallError, with what is missing or known.
    """
    if name in names():
        return Recipe(name, importlib.import_module(f"training.recipes.{name}"))
    if "." not in name:
        own = "or one of your own: package.module or file.py"
        raise CallError(f"{where}: no {name!r}; known: {', '.join(names())}; {own}")
    module = load_module(name, where, home)
    settings = getattr(module, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, Section)):
        raise CallError(f"{where}: {name} has no class Settings(marina.core.spec.Section) for its settings")
    if not callable(getattr(module, "train", None)):
        raise CallError(f"{where}: {name} has no function train(settings, run) that gives a Trained")
    return Recipe(name, module)


def recipe_of(spec: Spec) -> Recipe:
    """The recipe of `spec`. Raises CallError as `load` does."""
    return load(spec.training.recipe, f"models/{spec.name}.yaml: training.recipe", spec.home)
