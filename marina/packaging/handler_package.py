"""The handlers as they lie in an archive.

They are a package with a name of its own, so that several archives of different versions live in one process
without sharing modules.

    classifier_handler.py        the entry point, which TorchServe imports by its bare name
    handlers_digits_1_0/         the package `handlers`; its modules import each other relatively
        kinds/counter/           a kind of the project's own, where the model is of one
        custom.py                the spec's own handler, where it has one

`load_predictor` loads it into this process, under that name.
"""

import importlib
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.runtime.export import Export
from handlers.runtime.predictor import Predictor
from marina.core import kinds, paths
from marina.core.errors import CallError

if TYPE_CHECKING:  # servers load packages, and read no specs
    from marina.core.spec import Spec

PACKAGE, CUSTOM = "handlers", "custom"
IMPORT = re.compile(rf"^(\s*(?:from|import)\s+){PACKAGE}(?=[.\s])", re.MULTILINE)
ENTRY_POINT = '''"""TorchServe's entry point for {about}."""

from handlers.{module} import PREDICTOR
from handlers.torchserve.adapter import TorchServeHandler


class {name}Handler(TorchServeHandler):
    """Answers by the predictor of the model."""

    predictor_class = PREDICTOR
'''


def package_name(spec: "Spec") -> str:
    """The name of the handlers' package in the archive of `spec`: an identifier with its name and version."""
    return f"{PACKAGE}_{re.sub(r'[^A-Za-z0-9]', '_', f'{spec.name}_{spec.version}')}"


def entry_point(spec: "Spec") -> str:
    """File name of the archive's entry point."""
    return f"{spec.kind}_handler.py"


def write_handlers(spec: "Spec", folder: Path) -> None:
    """Write the package and the entry point of `spec` into `folder`.

    Raises CallError if its own files are missing.
    """
    name = package_name(spec)
    shutil.copytree(paths.HANDLERS, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for other in (folder / name).glob("*_handler.py"):
        other.unlink()
    own_kind = kinds.own_folder(spec.kind, spec.home)
    if own_kind:
        target = folder / name / "kinds" / spec.kind
        target.mkdir()
        for file in sorted(own_kind.glob("*.py")):
            if file.name != kinds.KIND_FILE:  # the tool's own half
                renamed = "__init__.py" if file.name == kinds.PREDICTOR_FILE else file.name
                _copy(file, target / renamed, name)
    if spec.handler:
        _copy(spec.home / spec.handler, folder / name / f"{CUSTOM}.py", name)
    built_in = paths.HANDLERS / entry_point(spec)
    if built_in.is_file() and not spec.handler:
        source = built_in.read_text(encoding="utf-8")
    else:
        camel = "".join(word.capitalize() for word in spec.kind.split("_"))
        module = CUSTOM if spec.handler else f"kinds.{spec.kind}"
        source = ENTRY_POINT.format(about=f"a {spec.kind} of the project's own", module=module, name=camel)
    (folder / entry_point(spec)).write_text(_renamed(source, name), encoding="utf-8")


def load_predictor(folder: Path) -> Predictor:
    """The predictor of the unpacked archive in `folder`, not started.

    Its modules are those of the archive, whatever else this process has loaded; what it had loaded of another
    archive of the same name and version is dropped. Raises CallError for an archive that was built before
    handlers were a package: such a one serves on TorchServe.
    """
    packages = sorted(folder.glob(f"{PACKAGE}_*/__init__.py"))
    if not packages:
        raise CallError(
            f"{folder} was built by an earlier Marina; build the archive again with: marina archive"
        )
    name = packages[0].parent.name
    for loaded in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        del sys.modules[loaded]
    module_spec = importlib.util.spec_from_file_location(
        name, packages[0], submodule_search_locations=[str(packages[0].parent)]
    )
    assert module_spec is not None  # it is a .py file
    assert module_spec.loader is not None
    package = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = package
    module_spec.loader.exec_module(package)
    predictor: Predictor = importlib.import_module(f"{name}.kinds").predictor_of(
        Export.open(folder).metadata["kind"]
    )
    return predictor


def _copy(source: Path, target: Path, package: str) -> None:
    if not source.is_file():
        raise CallError(f"no file {source}, which the spec names as its handler")
    target.write_text(_renamed(source.read_text(encoding="utf-8"), package), encoding="utf-8")


def _renamed(source: str, package: str) -> str:
    """`source` with its imports of `handlers` from `package`."""
    return IMPORT.sub(rf"\g<1>{package}", source)
