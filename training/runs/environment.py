"""What made a model, for its report: the spec as it was used, and the machine with its versions."""

import json
import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import psutil
import torch

import marina
from handlers.runtime.machine import processor_name, usable_cores
from marina.core import paths, programs
from marina.core.errors import WorkError
from marina.core.spec import Spec
from training.runs.run import Run

GIT_SECONDS = 60.0
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "gymnasium")


def write_provenance(spec: Spec, run: Run) -> None:
    """Write spec.yaml and environment.json into the report of `run`."""
    (run.report / "spec.yaml").write_text(spec.as_yaml(), encoding="utf-8")
    (run.report / "environment.json").write_text(
        json.dumps(environment(run), indent=1) + "\n", encoding="utf-8"
    )


def environment(run: Run) -> dict[str, Any]:
    """Versions, machine, threads and devices of `run`; the commit where the source is a
    git checkout.
    """
    return {
        "trained": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "marina": marina.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "torch threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": run.processes,
    }


def _commit() -> str | None:
    """The source's commit, with a plus where files differ from it; None outside of git."""
    git = shutil.which("git")
    if git is None or not (paths.SOURCE / ".git").exists():
        return None
    asked = (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            programs.run([git, "-C", str(paths.SOURCE), *words], GIT_SECONDS, "see what it waits for")
            for words in asked
        )
    except WorkError:  # no reason to lose what was learned
        return None
    return (commit.stdout.strip() + ("+" if changes.stdout.strip() else "")) or None
