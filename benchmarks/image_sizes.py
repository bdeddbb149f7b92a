"""Adds up the Python packages of the two images of deploy/Containerfile that serve.

    .venv/bin/marina bench images

`server` has the dependencies of pyproject.toml, `standalone` its group `serving`, each with all that they
need in turn. Sizes are those of the files that are installed here, without compiled bytecode; MB are 10^6
bytes. The base image, with Python, is the same for both and not counted; nor are packages that are not
installed here, which are named: CUDA's libraries, where torch is a CPU build.
"""

import argparse
import json
import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from marina.core import paths

LARGEST = 6  # packages that are named


def declared() -> dict[str, list[str]]:
    """The requirements of each image."""
    project = tomllib.loads((paths.SOURCE / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        "server": project["project"]["dependencies"],
        "standalone": project["dependency-groups"]["serving"],
    }


def closure(requirements: Iterable[str]) -> tuple[dict[str, Distribution], set[str]]:
    """What is installed of `requirements` and all that they need, by name, and the names of what is not."""
    found: dict[str, Distribution] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        for extra in {"", *wanted.extras} - {known for of, known in seen if of == name}:
            seen.add((name, extra))
            waiting += _needed(found[name], extra)
    return found, missing


def _needed(package: Distribution, extra: str) -> list[Requirement]:
    """What a package needs, or further needs for an extra of it."""
    needed = []
    for line in package.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None:
            applies = not extra
        else:
            with_extra = requirement.marker.evaluate({"extra": extra})
            applies = with_extra and (not extra or not requirement.marker.evaluate({"extra": ""}))
        if applies:
            requirement.marker = None
            needed.append(requirement)
    return needed


def megabytes(package: Distribution) -> float:
    """The size of its files."""
    files = [Path(str(file.locate())) for file in package.files or ()]
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc") / 1e6


def measure() -> dict[str, Any]:
    """Per image the number of packages, their MB, the largest ones, and what is not installed here."""
    images = {}
    for image, requirements in declared().items():
        found, missing = closure(requirements)
        sizes = {name: megabytes(package) for name, package in found.items()}
        largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]
        images[image] = {
            "packages": len(sizes),
            "mb": round(sum(sizes.values())),
            "largest": {name: round(sizes[name]) for name in largest},
            "not_installed": sorted(missing),
        }
    return images


def main() -> None:
    """Print the table; `--out` also writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    images = measure()
    table = Table("image", "packages", "MB", "the largest (MB)")
    for image, size in images.items():
        largest = ", ".join(f"{name} {size_mb}" for name, size_mb in size["largest"].items())
        table.add_row(image, str(size["packages"]), f"{size['mb']:,}", largest)
    Console().print(table)
    for image, size in images.items():
        if size["not_installed"]:
            print(f"{image}: not installed here, so not counted: {', '.join(size['not_installed'])}")
    if out:
        out.write_text(json.dumps(images, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
