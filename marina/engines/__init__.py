"""What serves archives: one folder per engine, all behind `engine.Engine`.

A new engine is one folder and a line in `ENGINES`.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marina.engines.engine import Engine

ENGINES = {  # name -> module with ENGINE
    "torchserve": "marina.engines.torchserve.engine",
    "standalone": "marina.engines.standalone.engine",
    "ray": "marina.engines.ray.engine",
}


def get(name: str | None = None, home: Path | None = None) -> "Engine":
    """The engine of that name; without one, that of the project's marina.yaml, which by default is
    TorchServe.

    Raises CallError for an unknown name.
    """
    from marina.core.configuration import read_configuration
    from marina.core.errors import CallError

    name = name or read_configuration(home).engine
    if name not in ENGINES:
        raise CallError(f"no engine {name!r}; choose one of: {', '.join(ENGINES)}")
    engine: Engine = importlib.import_module(ENGINES[name]).ENGINE
    return engine
