"""Payloads: from what one instance carries - bytes, text, numbers, the row of a tensor - to bytes or
numbers of one shape.
"""

import base64
import math
import re
from typing import Any

import numpy as np

from ..protocol.errors import BadRequest, quoted

MAX_NESTED = 3  # objects in each other that are opened for their one key
# base64 and nothing else, a data URL in front or not; no file of any format is made of these alone
TEXT = re.compile(rb"\s*+(?:data:[\w.+/;=-]*+,)?+[A-Z0-9+/_=\s-]*+\Z", re.IGNORECASE)
STANDARD = str.maketrans("-_", "+/")


def only_key(payload: Any, *keys: str, also: tuple[str, ...] = ()) -> Any:
    """The value of the one key of `payload`, which must be one of `keys` or of the names that are taken
    `also`; what is no JSON object stays as it is.

    An object under that key is opened in the same way: clients send {"image": {"b64": text}}. Raises
    BadRequest with the known keys.
    """
    for _ in range(MAX_NESTED):
        if not isinstance(payload, dict):
            return payload
        unknown = sorted(str(key) for key in payload if key not in keys and key not in also)
        if unknown:
            raise BadRequest(f"unknown keys: {quoted(unknown)}; known: {', '.join(keys)}")
        if len(payload) != 1:
            raise BadRequest(f"send exactly one of the keys {', '.join(keys)}")
        (payload,) = payload.values()
    raise BadRequest(f"{keys[0]} is an object in an object in an object; send {{{keys[0]!r}: ...}} alone")


def bytes_of(payload: Any) -> bytes:
    """The bytes of a file: as they are, or from base64 text, which may also have come as the body itself or
    in a form.

    Of base64 the alphabet for URLs is taken too, line breaks and white space are skipped, padding may be
    missing, and a data URL may be in front. Raises BadRequest.
    """
    if isinstance(payload, bytes):
        return _from_form(payload)
    if not isinstance(payload, str):
        raise BadRequest(
            'send the file\'s bytes as they are, or as base64 text in JSON; several as {"instances": [...]}, '
            'pixels as a tensor {"inputs": [...]}'
        )
    data = _from_base64("".join(payload.split()))
    if data is None:
        raise BadRequest(
            "the text is not valid base64; send what `base64 FILE` writes, no path and no address of a file"
        )
    return data


def _from_form(payload: bytes) -> bytes:
    """`payload` itself, or what it is the base64 of; in a form a space stands for the + that its encoding
    lost.
    """
    if not (TEXT.match(payload[:64]) and TEXT.match(payload)):
        return payload
    joined = b"".join(line.strip() for line in payload.splitlines())
    data = _from_base64(joined.decode().replace(" ", "+"))
    return payload if data is None else data


def _from_base64(text: str) -> bytes | None:
    """What base64 text without white space stands for; None where it is none."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            return None
    text = text.rstrip("=").translate(STANDARD)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


def numbers_of(payload: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """The numbers of a nested list, or of a tensor's row, of exactly `shape`: float64 or int64 of that shape.

    Raises BadRequest for another shape, for what is no number, and for NaN and infinity.
    """
    if isinstance(payload, np.ndarray):
        if payload.shape != shape or payload.dtype.kind not in "iuf":
            raise BadRequest(
                f"{name} must be numbers of shape {list(shape)} there, not {payload.dtype} of "
                f"{list(payload.shape)}"
            )
        if not np.isfinite(payload).all():
            raise BadRequest(f"{name} must hold finite numbers")
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
        raise BadRequest(f"{name} must be a nested list of shape {list(shape)} there, not {size}")
    if len(shape) > 1:
        for part in value:
            _collect(part, shape[1:], name, numbers)
        return
    # the common case, at a fifth of its time
    if not (set(map(type, value)) <= {float} and all(map(math.isfinite, value))):
        for part in value:
            _check(part, name)
    numbers += value


def _check(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name} must hold numbers, not {type(value).__name__}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise BadRequest(f"{name} must hold finite numbers")
