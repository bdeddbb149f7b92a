"""The page "Limits": what ends whatever doesn't end by itself. The numbers are read from the code."""

import importlib
from dataclasses import dataclass
from pathlib import Path

import yaml
from refusals import NOTE

INTRO = """# Limits

Nothing waits for ever: whatever comes from elsewhere (an environment, a file, a program, the network) has a
limit in steps, seconds or bytes. The message that it ends with names the limit and what to change. Ctrl-C
ends every command at any time.

"""
OUTRO = """Without a limit are code of your own that a spec names (`file.py:function`, a recipe) and a
benchmark: both may take as long as they like. A limit in seconds can't end a library that never lets Python's
other threads run.
"""


@dataclass(frozen=True)
class Limit:
    """What ends, the constants that hold the limit ("module:NAME"), their unit, and what to do then."""

    what: str
    constants: str
    unit: str
    change: str


def _tables() -> dict[str, tuple[Limit, ...]]:
    content = yaml.safe_load((Path(__file__).parent / "limits.yaml").read_text(encoding="utf-8"))
    return {title: tuple(Limit(**row) for row in rows) for title, rows in content.items()}


TABLES = _tables()
SET_ELSEWHERE = """Set in the spec or in a call, with their own defaults: `training.max_bytes`, `max_pixels`
and `max_frames` of a file ([recipes](recipes.md)), `serving.startup_timeout_s` and
`serving.response_timeout_s` of a worker ([spec](spec.md)), `max_request_size` and `max_response_size` of a
server (`config.properties`), `timeout` and `retries` of a client ([client](client-api.md)).

"""


def limits_page() -> str:
    """A table for each part."""
    parts = [INTRO]
    for title, limits in TABLES.items():
        rows = [f"| {each.what} | {_values(each)} | {each.change} |\n" for each in limits]
        parts.append(f"## {title}\n\n| what | limit | then |\n|---|---|---|\n{''.join(rows)}\n")
    return "".join(parts) + SET_ELSEWHERE + OUTRO + NOTE


def constants() -> set[str]:
    """The constants on the page, "module:NAME"."""
    return {
        f"{each.constants.partition(':')[0]}:{name}"
        for limits in TABLES.values()
        for each in limits
        for name in each.constants.partition(":")[2].split()
    }


def _values(limit: Limit) -> str:
    module, _, names = limit.constants.partition(":")
    values = [getattr(importlib.import_module(module), name) for name in names.split()]
    return f"{', '.join(f'{value:,.10g}' for value in values)} {limit.unit}"
