"""One module per kind: what the tool must know of it (`KIND`). Importing this package registers all."""

from importlib import import_module
from pkgutil import iter_modules

from marina.core.kinds import register

for _module in iter_modules(__path__, f"{__name__}."):
    if _kind := getattr(import_module(_module.name), "KIND", None):
        register(_kind)
