"""Measures the memory and time that many rows of a table take in training.

    marina bench rows                         a million rows, as CSV and as Parquet
    marina bench rows --rows 100000

Rows have four numbers (one with missing cells), two categories, a date and the number to learn. Each training
is a process of its own with one epoch, no comparison with other models and no export; a thousand rows stand
beside, which is what the libraries take.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from marina.core import paths
from marina.core.scratch import scratch_folder

FEW = 1000
TIMEOUT = 3600.0  # seconds of one training
SETTINGS: dict[str, Any] = {
    "target": "value",
    "columns": {
        **dict.fromkeys(("a", "b", "c", "d"), "number"),
        "ward": "category",
        "sex": "category",
        "day": {"type": "date", "parts": ["elapsed", "weekday"]},
    },
    "epochs": 1,
    "batch_size": 4096,
    "compare": False,
}


def write_table(path: Path, rows: int) -> None:
    """A table of so many rows, whatever else the machine does: of seed 0."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {name: rng.normal(size=rows).round(5).tolist() for name in ("a", "b", "c", "d")}
    columns["d"] = [None if place % 10 == 0 else value for place, value in enumerate(columns["d"])]
    columns["ward"] = [f"ward {number}" for number in rng.integers(0, 12, rows)]
    columns["sex"] = ["f" if truth else "m" for truth in rng.integers(0, 2, rows)]
    days = np.datetime64("2020-01-01") + rng.integers(0, 1500, rows)
    columns["day"] = [str(day) for day in days]
    columns["value"] = (np.array(columns["a"]) * 2 + rng.normal(size=rows)).round(4).tolist()
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path)
        return
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def train(path: Path) -> None:
    """In the child: learn, and print what it took."""
    from training.recipes import regressor
    from training.runs.run import Run

    started = time.monotonic()
    regressor.train(regressor.Settings(data=str(path), **SETTINGS), Run(path.parent / "report"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"mib": round(peak), "seconds": round(time.monotonic() - started, 1)}))


def measured(suffix: str, rows: int, home: Path) -> dict[str, Any]:
    """One training in a process of its own."""
    path = home / f"rows{suffix}"
    write_table(path, rows)
    call = [sys.executable, "-m", "benchmarks.table_rows", "--train", str(path)]
    done = subprocess.run(
        call, cwd=paths.SOURCE, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT
    )
    result = json.loads(done.stdout.splitlines()[-1])
    return {"rows": rows, "form": suffix, "file_mib": round(path.stat().st_size / 2**20, 1), **result}


def main() -> None:
    """Measure each form with few rows and with many, print a line for each, write --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--form", action="append", choices=[".csv", ".parquet"], help="default: both")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="file for the results")
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return
    results = []
    with scratch_folder("marina-bench-") as home:
        for suffix in options.form or [".csv", ".parquet"]:
            for rows in (FEW, options.rows):
                found = measured(suffix, rows, home)
                results.append(found)
                print(
                    f"{rows:,} rows as {suffix} ({found['file_mib']} MiB): {found['mib']:,} MiB at most, "
                    f"{found['seconds']} s",
                    flush=True,
                )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
