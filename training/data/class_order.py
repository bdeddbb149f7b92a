"""The order of classes that are known by their names alone."""

import re
from collections.abc import Iterable

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once: by value where all names are numbers ("2" before "10"), else in alphabetical order."""
    alphabetical = sorted(set(names))
    if all(NUMBER.fullmatch(name) for name in alphabetical):
        return tuple(sorted(alphabetical, key=float))
    return tuple(alphabetical)
