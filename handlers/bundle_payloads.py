"""Payloads: from what one instance carries - bytes, text, numbers, the row of a tensor - to bytes or numbers of one shape."""

import base64
import binascii
import math
from typing import Any

import numpy as np

from bundle_errors import NotUnderstood


def only_key(payload: Any, *keys: str) -> Any:
    """The value of the one key of `payload`, which must be one of `keys`; what is no JSON object stays as it is.

    Raises NotUnderstood with the known keys.
    """
    if not isinstance(payload, dict):
        return payload
    unknown = sorted(str(key) for key in payload if key not in keys)
    if unknown:
        raise NotUnderstood(f"unknown keys: {', '.join(unknown)[:200]}; known: {', '.join(keys)}")
    if len(payload) != 1:
        raise NotUnderstood(f"send exactly one of the keys {', '.join(keys)}")
    return next(iter(payload.values()))


def bytes_of(payload: Any) -> bytes:
    """Raw bytes, or base64 text (with or without a data URL in front). Raises NotUnderstood."""
    if isinstance(payload, bytes):
        return payload
    if not isinstance(payload, str):
        raise NotUnderstood("send the file's bytes as they are, or as base64 text in JSON")
    text = payload.split(",", 1)[1] if payload.startswith("data:") and "," in payload else payload
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NotUnderstood("the text is not valid base64") from None


def numbers_of(payload: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """The numbers of a nested list, or of a tensor's row, of exactly `shape`: float64 or int64 of that shape.

    Raises NotUnderstood for another shape, for what is no number, and for NaN and infinity.
    """
    if isinstance(payload, np.ndarray):
        if payload.shape != shape or payload.dtype.kind not in "iuf":
            raise NotUnderstood(f"{name} must be numbers of shape {list(shape)} there, not {payload.dtype} of {list(payload.shape)}")
        if not np.isfinite(payload).all():
            raise NotUnderstood(f"{name} must hold finite numbers")
        return payload
    numbers: list[int | float] = []
    _collect(payload, shape, name, numbers)
    return np.array(numbers).reshape(shape)


def _collect(value: Any, shape: tuple[int, ...], name: str, numbers: list[int | float]) -> None:
    if not shape:
        _check(value, name)
        numbers.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        size = f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
        raise NotUnderstood(f"{name} must be a nested list of shape {list(shape)} there, not {size}")
    if len(shape) > 1:
        for part in value:
            _collect(part, shape[1:], name, numbers)
        return
    if not (set(map(type, value)) <= {float} and all(map(math.isfinite, value))):  # the common case, at a fifth of its time
        for part in value:
            _check(part, name)
    numbers += value


def _check(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotUnderstood(f"{name} must hold numbers, not {type(value).__name__}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise NotUnderstood(f"{name} must hold finite numbers")
