"""Requests: from TorchServe's rows to what a kind decodes, and answers back to the protocol that was used.

    body                                   instances        answer
    raw bytes, multipart field, own JSON   one              the kind's own answer
    {"instances": [...]} (KServe v1)       one per element  {"predictions": [answer, ...]}

What is not covered: KServe v2 ("inputs") and gRPC.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bundle_errors import NotUnderstood, TooLarge

MAX_INSTANCES = 10_000


@dataclass(frozen=True)
class Option:
    """An option of one request: a number within bounds; sent as header, form field or JSON key."""

    kind: type[int] | type[float]
    least: float
    most: float

    def read(self, name: str, value: Any) -> int | float:
        """The number in `value` (a JSON number, or text from a header or form). Raises NotUnderstood with the bounds."""
        text = value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value
        wanted = f"{'a whole number' if self.kind is int else 'a number'} from {self.least:g} to {self.most:g}"
        if isinstance(text, bool) or not isinstance(text, int | float | str):
            raise NotUnderstood(f"{name} must be {wanted}")
        try:
            number = self.kind(text) if isinstance(text, str) else text
        except (ValueError, OverflowError):
            raise NotUnderstood(f"{name} must be {wanted}, not {str(text)[:40]!r}") from None
        if (self.kind is int and not isinstance(number, int)) or not self.least <= number <= self.most:
            raise NotUnderstood(f"{name} must be {wanted}, not {str(text)[:40]!r}")
        return number


@dataclass(frozen=True)
class Request:
    """One request: its payloads (bytes or parsed JSON, one per instance) and its options."""

    instances: list[Any]
    options: dict[str, Any] = field(default_factory=dict)
    many: bool = False

    def answer(self, answers: list[Any]) -> Any:
        """The answers of the instances in the protocol that the request used."""
        return {"predictions": answers} if self.many else answers[0]


def read_request(row: Mapping[str, Any], headers: Mapping[str, Any], options: Mapping[str, Option]) -> Request:
    """One row of TorchServe as a `Request`; `options` are those that the kind knows.

    Raises NotUnderstood for rows without exactly one payload and for options that are unknown or out of bounds.
    """
    found = {name: value for header, value in headers.items() if (name := header.lower().replace("-", "_")) in options}
    fields = dict(row)
    found |= {name: fields.pop(name) for name in options if name in fields}
    if not fields:
        raise NotUnderstood("the request has no body; send the bytes as they are (curl -T FILE) or as the form field 'data'")
    if len(fields) > 1:
        known = ", ".join(["data", *options])
        raise NotUnderstood(f"the form has the fields {', '.join(sorted(fields))[:200]}; send one payload; known fields: {known}")
    payload = next(iter(fields.values()))
    if isinstance(payload, bytearray):
        payload = bytes(payload)
    if isinstance(payload, bytes) and payload[:1] in (b"{", b"["):
        payload = _parse_json(payload)
    many = False
    if isinstance(payload, dict):
        found |= {name: payload[name] for name in options if name in payload}
        payload = {key: value for key, value in payload.items() if key not in options}
        many = "instances" in payload
    instances = _instances(payload) if many else [payload]
    return Request(instances, {name: options[name].read(name, value) for name, value in found.items()}, many)


def _instances(payload: dict[str, Any]) -> list[Any]:
    instances = payload["instances"]
    if len(payload) > 1:
        raise NotUnderstood(f"unknown keys beside 'instances': {', '.join(sorted(set(payload) - {'instances'}))[:200]}")
    if not isinstance(instances, list) or not instances:
        raise NotUnderstood("'instances' must be a list with at least one element")
    if len(instances) > MAX_INSTANCES:
        raise TooLarge(f"{len(instances):,} instances in one request; send at most {MAX_INSTANCES:,}")
    return instances


def _parse_json(data: bytes) -> Any:
    """The JSON in `data`; TorchServe hands broken JSON, and JSON without its content type, over as bytes."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise NotUnderstood("the body looks like JSON but can't be parsed; check it with a JSON validator") from None


def only_key(payload: Any, *keys: str) -> Any:
    """The value of the one key of `payload`, which must be one of `keys`. Raises NotUnderstood with the known keys."""
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


def flat_numbers(value: Any, shape: tuple[int, ...], name: str) -> list[float]:
    """The numbers of a nested list of exactly `shape`, in row order. Raises NotUnderstood for another shape, for what is no
    number, and for NaN and infinity.
    """
    numbers: list[float] = []
    _collect(value, shape, name, numbers)
    return numbers


def _collect(value: Any, shape: tuple[int, ...], name: str, numbers: list[float]) -> None:
    if shape:
        if not isinstance(value, list) or len(value) != shape[0]:
            size = f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
            raise NotUnderstood(f"{name} must be a nested list of shape {list(shape)} there, not {size}")
        for part in value:
            _collect(part, shape[1:], name, numbers)
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotUnderstood(f"{name} must hold numbers, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise NotUnderstood(f"{name} must hold finite numbers")
    numbers.append(number)
