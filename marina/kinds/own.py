"""Kinds of a project's own.

A folder kinds/<name>/ has predictor.py, and kind.py beside it where the tool needs more.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from handlers.runtime.predictor import Predictor
from marina.core.errors import CallError
from marina.core.kinds import KIND_FILE, PREDICTOR_FILE
from marina.kinds.kind import Kind


class OwnKind(Kind):
    """A kind of which there is a predictor alone."""

    def __init__(self, name: str) -> None:
        self.name = name


def load(name: str, folder: Path) -> Kind:
    """The kind in `folder`. Raises CallError if one of its files lacks what it must define."""
    predictor_class: type[Predictor] = _attribute(
        f"handlers.kinds.{name}",
        folder / PREDICTOR_FILE,
        "PREDICTOR",
        "a subclass of handlers.runtime.predictor.Predictor",
    )
    kind: Kind = OwnKind(name)
    if (folder / KIND_FILE).is_file():
        kind = _attribute(f"marina.kinds.{name}", folder / KIND_FILE, "KIND", "a marina.kinds.kind.Kind")
        kind.name = name
    kind.predictor_class = predictor_class
    return kind


def load_handler(path: Path) -> Predictor:
    """A predictor of a spec's own handler, not started. Raises CallError if there is none."""
    if not path.is_file():
        raise CallError(f"no file {path}, which the spec names as its handler")
    predictor_class: type[Predictor] = _attribute(
        "handlers.own", path, "PREDICTOR", "a subclass of handlers.runtime.predictor.Predictor"
    )
    return predictor_class()


def _attribute(module_name: str, path: Path, name: str, what: str) -> Any:
    module = _load(module_name, path)
    if not hasattr(module, name):
        raise CallError(f"{path} must define {name}, {what}")
    return getattr(module, name)


def _load(name: str, path: Path) -> ModuleType:
    """The module in `path` under the name that it has in an archive: relative imports work in both."""
    known = sys.modules.get(name)
    if (
        known is not None
        and known.__file__ == str(path)
        and getattr(known, "_source", None) == path.read_bytes()
    ):
        return known
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None  # it is a .py file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        del sys.modules[name]
        raise CallError(f"{path} can't be loaded: {type(error).__name__}: {error}") from error
    # another test's project may have the same path
    module._source = path.read_bytes()  # type: ignore[attr-defined]
    return module
