"""Code of the user's own project: `package.module` or `file.py`, looked for in the project's home folder.

Each function takes that folder as `home`; without one it is what `paths.find_home` finds. `sys.path` is as it
was when the `with` block of `importable` ends.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from marina.core import paths
from marina.core.errors import CallError


@contextmanager
def importable(folder: Path | None = None, home: Path | None = None) -> Iterator[None]:
    """Look for imports in `folder`, then in the home and the working folder, then where Python does."""
    before = list(sys.path)
    sys.path[:0] = [str(place) for place in (folder, home or _found_home(), Path.cwd()) if place]
    try:
        yield
    finally:
        sys.path[:] = before


def load_module(place: str, what: str, home: Path | None = None) -> ModuleType:
    """The module that `place` names; `what` is the setting, for the message.

    Raises CallError where there is none, and for whatever it raises itself, with file and line.
    """
    if place.endswith(".py"):
        path = find_file(place, what, home)
        with importable(path.parent, home):
            return _of_file(path)
    with importable(None, home):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name and f"{place}.".startswith(f"{error.name}."):
                close = difflib.get_close_matches(error.name, _own_modules(home), n=3)
                hint = f"; did you mean {', '.join(close)}?" if close else ""
                raise CallError(
                    f"{what} {place!r}: no module {error.name!r} in the project's folder or installed{hint}"
                ) from error
            raise CallError(f"{what} {place!r} imports {error.name!r}, which is not installed") from error
        except (Exception, SystemExit) as error:
            raise raised(error, place) from error


def load_function(name: str, what: str) -> Callable[..., Any]:
    """The function `package.module:function` or `file.py:function`.

    Raises CallError, with those there are.
    """
    place, _, function = name.rpartition(":")
    module = load_module(place, what)
    if not callable(getattr(module, function, None)):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise CallError(f"{place} has no function {function!r}; it has {', '.join(public) or 'none'}")
    return getattr(module, function)  # type: ignore[no-any-return]


def folder_of(place: str) -> Path | None:
    """The folder of a file.py, whose neighbors it may import; None for a module."""
    return find_file(place, "file").parent if place.endswith(".py") else None


def find_file(name: str, what: str, home: Path | None = None) -> Path:
    """The file called `name`: an absolute path, or one in the home folder, or in the working folder."""
    folders = [folder for folder in (home or _found_home(), Path.cwd()) if folder]
    for folder in folders:
        path = folder / paths.expanded(name)
        if path.is_file():
            return path.resolve()
    raise CallError(f"{what} {name!r}: no such file in {folders[0]}")


def _found_home() -> Path | None:
    """The project's folder; None outside of a project, where only installed packages are found."""
    try:
        return paths.find_home()
    except CallError:
        return None


def _own_modules(home: Path | None) -> set[str]:
    """The modules that lie in the project's folder and in the working folder."""
    folders = {folder for folder in (home or _found_home(), Path.cwd()) if folder}
    files = [path for folder in folders for path in folder.glob("*.py")]
    packages = [path.parent for folder in folders for path in folder.glob("*/__init__.py")]
    return {path.stem for path in [*files, *packages]}


def called(function: Callable[..., Any], what: str) -> Any:
    """What `function`, which is not our code, gives; a CallError with file and line for what it raises."""
    try:
        return function()
    except CallError:
        raise
    except (Exception, SystemExit) as error:
        raise raised(error, what) from error


def raised(error: BaseException, what: str) -> CallError:
    """The error of code that isn't ours, with file and line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return CallError(f"{what} raised {type(error).__name__} at {where.filename}:{where.lineno}: {error}")


def _of_file(path: Path) -> ModuleType:
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise raised(error, path.name) from error
    return module
