"""A field of a request's body as a predictor gets it, by the content type that it came with."""

import json
from typing import Any

_parse = json.JSONDecoder().raw_decode


def field_value(content: bytes, content_type: bytes) -> Any:
    """JSON parsed, text decoded; what can't be, and whatever else it is, stays bytes."""
    try:
        if content_type == b"application/json":
            return _json(content.decode())  # UTF-8 and nothing else
        return content.decode() if content_type.startswith(b"text") else content
    except (ValueError, RecursionError):
        return content


def _json(text: str) -> Any:
    """As json.loads, which looks for white space and other encodings first."""
    try:
        value, end = _parse(text)
    except json.JSONDecodeError:
        end = -1
    return value if end == len(text) else json.loads(text)
