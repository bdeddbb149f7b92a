"""Proves that an archive needs nothing of ours: it is loaded where there are torchserve, torch and torchvision alone.

The environment lies in run/stock/, is made once of the locked versions, and has no Marina, no pydantic, no training packages.
PyYAML is there too: TorchServe's workers need it and its metadata forgets it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from marina import archive, paths
from marina.errors import CallError, WorkError
from marina.spec import Spec

from bundle_checksums import file_digest
from bundle_golden import difference

PACKAGES = ("torchserve", "torch", "torchvision", "pyyaml")
LOCK = paths.SOURCE / "requirements.lock"


def check(spec: Spec) -> int:
    """Load the archive of `spec` there and compare its golden answers; returns how many there are.

    Raises CallError when there is no archive or no environment can be made, WorkError when it doesn't load or answers otherwise.
    """
    packed = paths.model_store() / spec.archive_name
    with archive.opened(spec) as contents, tempfile.TemporaryDirectory(prefix="marina-stock-") as folder:
        contents.root.extractall(folder)
        told = load(environment(), Path(folder))
    wrong = next(filter(None, map(difference, told["golden"], told["answers"])), "")
    if wrong:
        raise WorkError(f"{packed} answers differently with {', '.join(PACKAGES)} alone: {wrong}")
    return len(told["golden"])


def load(python: Path, folder: Path) -> dict[str, Any]:
    """What stock_load tells of the unpacked archive in `folder`, in another Python. Raises WorkError when it doesn't load."""
    done = _run([str(python), str(Path(__file__).with_name("stock_load.py")), str(folder)], cwd=folder)
    if done.returncode != 0:
        raise WorkError(f"the archive does not load with {', '.join(PACKAGES)} alone:\n{done.stderr.strip()[-1500:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def environment() -> Path:
    """The Python of the stock environment, made anew when the lock has changed. Raises CallError with uv's own words."""
    folder = paths.home() / "run" / "stock"
    made = folder / "made-of"
    python = folder / "bin" / "python"
    if made.is_file() and made.read_text(encoding="utf-8") == file_digest(LOCK):
        return python
    uv = Path(sys.executable).with_name("uv")
    if not uv.is_file():
        raise CallError(f"no {uv}, which makes the plain environment; run: make install")
    steps = [
        [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [str(uv), "pip", "install", "--quiet", "--python", str(python), "--constraint", str(LOCK), *PACKAGES],
    ]
    for step in steps:
        done = _run(step, cwd=paths.SOURCE)
        if done.returncode != 0:
            raise CallError(f"the plain environment can't be made: {done.stderr.strip()[-800:]}")
    made.write_text(file_digest(LOCK), encoding="utf-8")
    return python


def _run(command: list[str], cwd: str | Path) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables = {**inherited, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=variables)
