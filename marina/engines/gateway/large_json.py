"""JSON of a large body, parsed in steps: json.loads holds the interpreter until it has finished, in whichever
thread, so that 20 MB would keep all other callers waiting for a third of a second.

Outer arrays and objects are walked through here, and what they hold is parsed by json's own scanner: the
elements of arrays 64 KB at a time where that is possible, everything else one by one.
"""

import json
import re
from contextlib import suppress
from typing import Any

STEP = 64 * 1024
CLOSING = {"[": "]", "{": "}", '"': '"'}
TRIES = 2  # places at which several elements may end
MAX_DEPTH = 20  # what is nested more deeply is parsed in one step

_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # not in the stubs
_skip_space = re.compile(r"[ \t\n\r]*").match
_find_inner = re.compile(r'[\[{"]').search


def loads(text: str) -> Any:
    """As json.loads. Raises ValueError for what is no JSON, RecursionError for what is nested too deeply."""
    try:
        value, end = _value(text, _skip(text, 0), 0)
    except StopIteration:  # the scanner's word for a value that is none
        raise ValueError("no JSON") from None
    if _skip(text, end) != len(text):
        raise ValueError("more text behind the JSON")
    return value


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The value that begins there, and where it ends."""
    first = text[at : at + 1]
    if first == "[" and depth < MAX_DEPTH:
        return _array(text, at, depth)
    if first == "{" and depth < MAX_DEPTH:
        return _object(text, at, depth)
    found: tuple[Any, int] = _scan(text, at)
    return found


def _array(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    close = text.find("]", at)
    if close >= 0 and not _find_inner(text, at + 1, close):
        return (_numbers(text, at + 1, close), close + 1) if close - at > STEP else _scan(text, at)
    items: list[Any] = []
    at = _skip(text, at + 1)
    pause = wait = 0  # elements until several are tried at once again
    while True:
        several, end = _several(text, at) if not wait else ([], at)
        if several:
            items += several
            at, pause = end, 0
        else:
            wait, pause = (wait - 1, pause) if wait else (pause, 2 * pause + 1)
            item, at = _value(text, at, depth + 1)
            items.append(item)
        at, is_last = _next(text, at, "]")
        if is_last:
            return items, at


def _several(text: str, at: int) -> tuple[list[Any], int]:
    """The elements of an array from there on that end within STEP, and where the last of them ends; none
    where they are longer, or hold in themselves what stands between them.
    """
    first = text[at : at + 1]
    end = at + STEP if first in CLOSING else at
    for _ in range(TRIES):
        end = text.rfind(f"{CLOSING.get(first)},", at, end)
        if end < 0:
            break
        part = f"[{text[at : end + 1]}]"
        with suppress(StopIteration, ValueError):  # it was no end of an element
            found, length = _scan(part, 0)
            if length == len(part):
                return found, end + 1
    return [], at


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    items: dict[str, Any] = {}
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return items, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise ValueError("a key must be a string")
        key, at = _scan(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise ValueError("a key needs a value")
        items[key], at = _value(text, _skip(text, at + 1), depth + 1)
        at, is_last = _next(text, at, "}")
        if is_last:
            return items, at


def _numbers(text: str, start: int, end: int) -> list[Any]:
    """The elements between two brackets that have no brackets or strings among them."""
    items: list[Any] = []
    while True:
        comma = text.find(",", start + STEP, end)
        stop = comma if comma >= 0 else end
        part = f"[{text[start:stop]}]"
        found, length = _scan(part, 0)
        if not found or length != len(part):
            raise ValueError("an element is missing")
        items += found
        if stop == end:
            return items
        start = stop + 1


def _next(text: str, at: int, close: str) -> tuple[int, bool]:
    """Where the next element begins, or the value ends that this was the last of."""
    at = _skip(text, at)
    mark = text[at : at + 1]
    if mark == close:
        return at + 1, True
    if mark != ",":
        raise ValueError("a comma is missing")
    return _skip(text, at + 1), False


def _skip(text: str, at: int) -> int:
    found = _skip_space(text, at)
    assert found  # it also matches nothing
    return found.end()
