"""Fuzzes the targets in turns for some minutes; `make fuzz` does so for ten.

    .venv/bin/python -m tests.fuzz.run --minutes 1 --target pictures --seed 7

Each round is a process of its own with a seed that is printed, so that a crash, a hang and too much memory
are findings like any other. Inputs that fail are minimized, kept in cache/fuzz, and tried first at the next
run.
"""

import argparse
import faulthandler
import os
import random
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.support.fuzz_targets import TARGETS, Target
from tests.support.repository import ROOT

KEPT = ROOT / "cache" / "fuzz"
ROUND_SECONDS, BATCH = 20.0, 500
MAX_SECONDS, HANG_SECONDS = 5.0, 60.0  # of the processor for one input; until it counts as a hang
MAX_MEMORY_MIB = 1024  # that one input may add
FAILED = 1


def main() -> int:
    """0 where every input was handled, 1 where one wasn't."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; default: random")
    parser.add_argument("--round-seconds", type=float, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.target or sorted(TARGETS)
    seed = random.SystemRandom().randrange(1 << 30) if given.seed is None else given.seed
    if given.round_seconds is not None:
        return run_round(TARGETS[names[0]], seed, given.round_seconds)
    return run_all(names, seed, given.minutes)


def run_all(names: list[str], seed: int, minutes: float) -> int:
    """Rounds of all targets in turns until the time is over; one that failed is left out from then on."""
    end, failed = time.monotonic() + 60 * minutes, []
    while (left := end - time.monotonic()) > 1 and names:
        for name in list(names):
            seconds = min(ROUND_SECONDS, left / len(names))
            print(f"{name}, seed {seed}: ", end="", flush=True)
            if not passed_round(name, seed, seconds):
                failed.append(name)
                names = [other for other in names if other != name]
            seed += 1
    print(f"failed: {', '.join(failed)}; what fails is in {KEPT}" if failed else "every input was handled")
    return FAILED if failed else 0


def passed_round(name: str, seed: int, seconds: float) -> bool:
    """One round in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--target", name, "--seed", str(seed)]
    result = subprocess.run(
        [*command, "--round-seconds", str(seconds)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(result.stdout.strip() or f"ended with {result.returncode}", flush=True)
    if result.returncode:
        print(result.stderr[-6000:], flush=True)
        current = current_input(name)
        if current.is_file():
            current.replace(KEPT / f"{name}-{seed}.txt")
    return result.returncode == 0


def run_round(target: Target, seed: int, seconds: float) -> int:
    """Batches of inputs until the time is over."""
    KEPT.mkdir(parents=True, exist_ok=True)
    end, count = time.monotonic() + seconds, 0
    while count == 0 or time.monotonic() < end:
        try:
            count += run_batch(target, seed + count)
        except BaseException:  # whatever a check lets through is a finding
            traceback.print_exc()
            print(f"failed after {count:,} inputs; the smallest such input is kept")
            return FAILED
    print(f"{count:,} inputs")
    return 0


def run_batch(target: Target, seed: int) -> int:
    """How many inputs were tried. Raises what the smallest one that fails raises."""
    count = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=BATCH,
        deadline=None,
        database=DirectoryBasedExampleDatabase(KEPT / "examples" / target.name),
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )
    @hypothesis.given(target.inputs)
    def try_input(value: Any) -> None:
        nonlocal count
        count += 1
        current_input(target.name).write_text(repr(value), encoding="utf-8", errors="backslashreplace")
        check_within_bounds(target, value)

    try_input()
    return count


def check_within_bounds(target: Target, value: Any) -> None:
    """The target's check, within time and memory."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    started, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        target.check(value)
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - started
    mebibytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
    assert seconds < MAX_SECONDS, f"{seconds:.1f} s of the processor for one input"
    assert mebibytes < MAX_MEMORY_MIB, f"{mebibytes} MiB for one input"


def current_input(name: str) -> Path:
    """Where the input that is tried stands, for the case that the process doesn't survive it."""
    return KEPT / f"{name}.current"


if __name__ == "__main__":
    sys.exit(main())
