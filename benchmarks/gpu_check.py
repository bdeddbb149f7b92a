"""Checks on a machine with an NVIDIA GPU what the GPU is worth to Marina, and prints one table.

    make gpu-check

It trains a classifier in bfloat16 and a policy that sees pictures, exports ResNet-50, serves it on the
standalone engine with `device: gpu`, and compares: served beside a bare loop of the same handler, copies to
the GPU beside computing, JPEGs decoded by the GPU beside the CPU, training beside torchvision's usual loop,
the answers to golden samples beside those that the CPU gave. It needs no network, and no part starts after
eight minutes. Weights are random and of seed 0: what is measured is speed.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import gpu_parts
from benchmarks.gpu_parts import Budget, Row
from marina.core import paths
from marina.core.scratch import scratch_folder

MINUTES = 8.0
PARTS: tuple[tuple[str, Callable[[str, Budget, Path], list[Row]]], ...] = (
    ("serve ResNet-50 in bfloat16", gpu_parts.serving),
    ("copy batches to the GPU while it computes", gpu_parts.copies),
    ("decode JPEGs", gpu_parts.decoding),
    ("train a classifier in bfloat16", gpu_parts.training),
    ("train a policy that sees pictures", gpu_parts.policy),
    ("answer golden samples as the CPU does", gpu_parts.parity),
)
WHEELS = re.compile(r"^((?:torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==[^\s;\\]+)", re.MULTILINE)


def missing() -> str:
    """Why nothing can be measured here; empty where there is a GPU."""
    if torch.version.cuda is None:
        return "this torch is a build without CUDA"
    if not torch.cuda.is_available():
        return f"torch (CUDA {torch.version.cuda}) finds no NVIDIA GPU, or no driver for it"
    return ""


def wheels() -> list[str]:
    """The packages of the lock that a GPU needs, to be copied to a machine without network."""
    return WHEELS.findall((paths.SOURCE / "requirements.lock").read_text(encoding="utf-8"))


def explain(reason: str, console: Console) -> None:
    """Say that nothing ran, what would have, and what to bring."""
    console.print(f"not run: {reason}. On a machine with one it would, in at most {MINUTES:.0f} minutes:")
    for name, _ in PARTS:
        console.print(f"  - {name}")
    console.print(
        "Without a network there, bring the wheels of requirements.lock for its platform in a folder "
        "(uv pip download has them on a machine with one) and install with: uv pip install --no-index "
        "--find-links FOLDER --require-hashes -r requirements.lock. Those of the GPU are:"
    )
    console.print("  " + " ".join(wheels()), highlight=False)


def run(device: str, budget: Budget, console: Console) -> list[Row]:
    """Run the parts one after the other; none starts after the time is up."""
    rows: list[Row] = []
    until = time.monotonic() + MINUTES * 60
    with scratch_folder("marina-gpu-check-") as home:
        for number, (name, part) in enumerate(PARTS):
            if time.monotonic() > until:
                rows.append(Row(name, note=f"not run: {MINUTES:.0f} minutes were over"))
                continue
            console.print(f"{number + 1} of {len(PARTS)}: {name}")
            folder = home / f"part-{number}"
            folder.mkdir()
            try:
                rows += part(device, budget, folder)
            except Exception as error:  # one part that fails must not hide the others
                rows.append(Row(name, note=f"failed: {type(error).__name__}: {error}"))
    return rows


def show(rows: list[Row], device: str, console: Console) -> None:
    """The table."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    table = Table(title=f"{name}, torch {torch.__version__}, {os.cpu_count()} cores")
    for column in ("what", "measured", "beside", "ratio", "goal", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def main() -> int:
    """Read the arguments, check, show; 1 where a part failed or missed its goal."""
    parser = argparse.ArgumentParser(
        prog="make gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the rows there, as JSON")
    arguments = parser.parse_args()
    console = Console(width=max(120, Console().width))
    if reason := missing():
        explain(reason, console)
        return 0
    if find_spec("pynvml") is None:
        console.print("without nvidia-ml-py (extra gpu) the memory of the server is not shown")
    started = time.monotonic()
    rows = run("cuda:0", Budget(), console)
    show(rows, "cuda:0", console)
    console.print(f"{time.monotonic() - started:.0f} s")
    if arguments.out:
        written: list[dict[str, Any]] = [asdict(row) for row in rows]
        arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
