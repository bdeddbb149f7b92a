"""A row of the page "Limits"."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """What ends, the constants that hold the limit ("module:NAME"), their unit, and what to do then."""

    what: str
    constants: str
    unit: str
    change: str
