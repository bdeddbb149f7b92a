"""Runs a benchmark for `marina bench`: a signal ends it in order, and without a traceback.

python -m benchmarks SCRIPT [OPTION ...]
"""

import runpy
import sys

from marina.core import signals

SECONDS = 5.0  # until a signal ends a benchmark that waits in a library


def main() -> None:
    """Run SCRIPT as if Python had been called with it."""
    script, *sys.argv[1:] = sys.argv[1:]
    sys.argv[0] = script
    try:
        with signals.raised(SECONDS):
            runpy.run_path(script, run_name="__main__")
    except KeyboardInterrupt as interrupt:
        sys.exit(128 + signals.number_of(interrupt))


if __name__ == "__main__":
    main()
