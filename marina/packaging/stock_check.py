"""Proves that an archive loads with only torchserve, torch and torchvision installed.

The environment lies in run/stock/, is made once of the locked versions (in an installed package, which has no
lock: of the installed ones), and has no Marina, no pydantic, no training packages. PyYAML is there too:
TorchServe's workers need it and its metadata forgets it.
"""

import json
import os
import shutil
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.runtime.golden import difference
from marina.core import paths, programs
from marina.core.errors import CallError, WorkError
from marina.core.scratch import scratch_folder
from marina.core.spec import Spec
from marina.packaging import archive

if TYPE_CHECKING:
    import subprocess

PACKAGES = ("torchserve", "torch", "torchvision", "pyyaml")
INSTALL_SECONDS = 3600.0  # they have some gigabytes
LOAD_SECONDS = 900.0


def check(spec: Spec) -> int:
    """Load the archive of `spec` there and compare its golden answers; returns how many there are.

    Raises CallError when there is no archive or no environment can be made, WorkError when it doesn't load or
    answers otherwise.
    """
    packed = spec.archive_path
    with archive.opened(spec) as contents, scratch_folder("marina-stock-") as folder:
        contents.root.extractall(folder)
        report = load(environment(spec.home), folder)
    wrong = next(filter(None, map(difference, report["golden"], report["answers"])), "")
    if wrong:
        raise WorkError(f"{packed} answers differently with {', '.join(PACKAGES)} alone: {wrong}")
    return len(report["golden"])


def load(python: Path, folder: Path) -> dict[str, Any]:
    """What stock_load reports of the unpacked archive in `folder`, in another Python.

    Raises WorkError when it doesn't load.
    """
    script = str(Path(__file__).with_name("stock_load.py"))
    done = _run([str(python), script, str(folder)], LOAD_SECONDS, "see what it waits for", folder)
    if done.returncode != 0:
        raise WorkError(
            f"the archive does not load with {', '.join(PACKAGES)} alone:\n{done.stderr.strip()[-1500:]}"
        )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def environment(home: Path) -> Path:
    """The Python of the stock environment in the project `home`, made again when a version has changed.

    Raises CallError with uv's own words.
    """
    folder = home / "run" / "stock"
    made_of = folder / "made-of"
    python = folder / "bin" / "python"
    constraints = _constraints()
    if made_of.is_file() and made_of.read_text(encoding="utf-8") == constraints:
        return python
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        raise CallError("no uv, which makes the plain environment; install it with: pip install uv")
    with scratch_folder("marina-stock-") as scratch:
        file = scratch / "constraints.txt"
        file.write_text(constraints, encoding="utf-8")
        for step in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", str(file), *PACKAGES],
        ):
            done = _run(step, INSTALL_SECONDS, "see whether the package index is reached", scratch)
            if done.returncode != 0:
                raise CallError(f"the plain environment can't be made: {done.stderr.strip()[-800:]}")
    made_of.write_text(constraints, encoding="utf-8")
    return python


def _constraints() -> str:
    """The lock, or the versions that are installed here, without the part that names a build (+cpu)."""
    lock = paths.SOURCE / "requirements.lock"
    if lock.is_file():
        return lock.read_text(encoding="utf-8")
    pairs = {(package.name.lower(), package.version.partition("+")[0]) for package in distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(pairs) if name != "marina")


def _run(
    command: list[str], seconds: float, hint: str, cwd: str | Path
) -> "subprocess.CompletedProcess[str]":
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    variables = {**inherited, "PYTHONDONTWRITEBYTECODE": "1"}
    return programs.run(command, seconds, hint, cwd=cwd, env=variables)
