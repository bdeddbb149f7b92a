"""The registry of kinds: what `kind` in a spec may say.

The built-in kinds register themselves when `marina.kinds` is imported, which happens when the registry is
first asked. A project adds kinds of its own as folders:

    kinds/counter/predictor.py   what answers requests (`PREDICTOR`, a class); travels in the archive
    kinds/counter/kind.py        what the tool must know (`KIND`, an object); optional
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from marina.core import paths
from marina.core.errors import CallError

PREDICTOR_FILE, KIND_FILE = "predictor.py", "kind.py"


class RegisteredKind(Protocol):
    """What the spec and training need of a kind; the tool's own view of it is `marina.kinds.kind.Kind`."""

    name: str
    export_defaults: Mapping[str, Any]

    def predictor(self) -> Any:
        """A new predictor, not started (`handlers.runtime.predictor.Predictor`)."""


_built_in: dict[str, RegisteredKind] = {}


def register(kind: RegisteredKind) -> None:
    """Add a built-in kind under its name."""
    _built_in[kind.name] = kind


def names(home: Path | None = None) -> list[str]:
    """All kinds: the built-in ones, and those of the project `home`."""
    own = paths.kinds(home).glob(f"*/{PREDICTOR_FILE}")
    return sorted({*_registered(), *(file.parent.name for file in own)})


def get(name: str, home: Path | None = None) -> Any:
    """The kind of this name, a `marina.kinds.kind.Kind`.

    Raises CallError, with the known names, for an unknown one.

    A project's own kind is loaded from its folder each time: another project may have one of the same name.
    """
    if name in _registered():
        return _built_in[name]
    folder = paths.kinds(home) / name
    if not (folder / PREDICTOR_FILE).is_file():
        raise CallError(
            f"no kind {name!r}; known: {', '.join(names(home))}; one of your own lies in kinds/{name}/"
        )
    return importlib.import_module("marina.kinds.own").load(name, folder)


def predictor_of(name: str, handler: str | None = None, home: Path | None = None) -> Any:
    """A new predictor of the kind of this name, or of the file `handler` in the project `home`, not started.

    Raises CallError as `get`, and for a handler's file that lacks a predictor.
    """
    if handler:
        return importlib.import_module("marina.kinds.own").load_handler((home or paths.find_home()) / handler)
    return get(name, home).predictor()


def _registered() -> dict[str, RegisteredKind]:
    importlib.import_module("marina.kinds")
    return _built_in


def own_folder(name: str, home: Path | None = None) -> Path | None:
    """The folder of a project's own kind; None for a built-in one."""
    return None if name in _registered() else paths.kinds(home) / name
