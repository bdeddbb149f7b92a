"""Reports of errors that nobody foresaw: a file with the command, the versions and the traceback.

The files lie in run/errors/ of the project, or in the folder for temporary files where there is no project or
it can't be written; the newest KEPT of them stay. Only their owner may read them. The values of --header are
left out, because they may be secrets.
"""

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import marina
from marina.core import paths
from marina.core.errors import MarinaError

KEPT = 20
PACKAGES = (
    "torch",
    "torchvision",
    "torchserve",
    "lightning",
    "gymnasium",
    "openvino",
    "onnxruntime",
    "numpy",
)
HEADER = "--header"


def write_error_report(error: BaseException, arguments: Sequence[str]) -> Path | None:
    """Write the report of `error`, raised by `marina ARGUMENTS`; None where no file can be written."""
    text = _text(error, arguments)
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}.txt"
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            _remove_old(folder)
            return folder / name
    return None


def _folders() -> Iterator[Path]:
    with suppress(MarinaError, OSError):
        yield paths.errors()
    yield Path(tempfile.gettempdir()) / f"marina-errors-{os.getuid()}"


def _text(error: BaseException, arguments: Sequence[str]) -> str:
    facts = {
        "command": " ".join(["marina", *_without_secrets(arguments)]),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "folder": _working_folder(),
        "marina": marina.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **{name: _version(name) for name in PACKAGES},
    }
    lines = [f"{name}: {value}" for name, value in facts.items()]
    return "\n".join(lines) + "\n\n" + "".join(traceback.format_exception(error))


def _without_secrets(arguments: Sequence[str]) -> Iterator[str]:
    before = ""
    for argument in arguments:
        hidden = before == HEADER or argument.startswith(f"{HEADER}=")
        yield f"{argument.removeprefix(f'{HEADER}=').partition('=')[0]}=..." if hidden else argument
        before = argument


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError as error:  # it was removed
        return str(error)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _remove_old(folder: Path) -> None:
    for file in sorted(folder.glob("*.txt"))[:-KEPT]:
        file.unlink(missing_ok=True)
