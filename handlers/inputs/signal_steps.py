"""Whether the steps of a signal follow each other at a fixed rate."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

TOLERANCE = 0.01  # of a step, that each may be longer or shorter


def step_value(cell: Any) -> float | None:
    """A step's number, or the seconds of its time in ISO 8601; None for what is neither."""
    if isinstance(cell, datetime):
        return _seconds(cell)
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return float(cell) if math.isfinite(cell) else None
    if not isinstance(cell, str) or "_" in cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        try:
            return _seconds(datetime.fromisoformat(cell.strip()))
        except ValueError:
            return None
    return value if math.isfinite(value) else None


def check_steps(cells: Sequence[Any]) -> str:
    """What is wrong with the steps of one signal, in their order; "" for steps that follow each other at a
    fixed rate.
    """
    values = [step_value(cell) for cell in cells]
    if None in values:
        cell = cells[values.index(None)]
        return f"{str(cell)[:40]!r} is neither a number nor a time in ISO 8601"
    steps = np.diff(np.array(values, np.float64))
    if not len(steps):
        return ""
    if (steps <= 0).any():
        place = int((steps <= 0).argmax()) + 1
        return f"{cells[place]} comes behind {cells[place - 1]}; send every step once, the first one first"
    usual = float(np.median(steps))
    uneven = np.abs(steps - usual) > TOLERANCE * usual
    if uneven.any():
        place = int(uneven.argmax()) + 1
        return f"{cells[place]} comes {steps[place - 1]:g} behind {cells[place - 1]}, others {usual:g}"
    return ""


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
