"""What benchmarks of recipes share: a measurement of each recipe for several seeds, printed line by line."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]


def measure_seeds(
    about: str,
    names: Sequence[str],
    measured: Callable[[str, int, dict[str, Any]], Row],
    line: Callable[[Row], str],
) -> None:
    """Read the command line, measure each recipe with each seed, print a line for each, write --out."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=names, help="a recipe; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting")
    parser.add_argument("--out", type=Path, help="file for the results")
    options = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in options.set)}
    results = []
    for name in options.only or names:
        for seed in range(options.seeds):
            results.append(measured(name, seed, changes))
            print(f"{name} seed {seed}: {line(results[-1])}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
