"""Imports without what they would bring beside themselves: a worker's start is mostly imports that it
doesn't need.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """Stands for a module, and imports it when something of it is asked for; its version alone is "0"."""

    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def without(*names: str, later: tuple[str, ...] = ()) -> Iterator[None]:
    """While this lasts an import of `names` fails, as if they weren't installed, and `later` are stood for
    unless they are there.
    """
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    stand_ins = {name: LazyModule(name) for name in later if name not in sys.modules}
    # None stands for what there isn't
    sys.modules |= {**dict.fromkeys(names), **stand_ins}  # type: ignore[dict-item]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
        sys.modules.update(before)
