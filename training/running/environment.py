"""What made a model, for its report: the spec as it was used, and the machine with its versions."""

import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

import marina
from marina import paths
from marina.spec import Spec
from training.running.run import current

PACKAGES = ("torch", "torchvision", "lightning", "numpy", "gymnasium")


def write_down(spec: Spec, report: Path) -> None:
    """Write spec.yaml and environment.json into `report`."""
    (report / "spec.yaml").write_text(spec.as_yaml(), encoding="utf-8")
    (report / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Versions, machine, threads and devices of the run that is going on; the commit where the source is a git checkout."""
    run = current()
    return {
        "trained": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "marina": marina.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "torch threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": run.processes,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _commit() -> str | None:
    """The source's commit, with a plus where files differ from it; None outside of git."""
    git = shutil.which("git")
    if git is None or not (paths.SOURCE / ".git").exists():
        return None
    commit, changes = (
        subprocess.run([git, "-C", str(paths.SOURCE), *words], check=False, capture_output=True, text=True)
        for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return (commit.stdout.strip() + ("+" if changes.stdout.strip() else "")) or None
