"""What a test sends, and what TorchServe makes of it."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from handlers.protocol.requests import form_fields

ALL = frozenset({"classifier", "detector", "segmenter", "policy", "video_classifier"})
CLASSIFIER, DETECTOR, SEGMENTER, POLICY = (
    frozenset({kind}) for kind in ("classifier", "detector", "segmenter", "policy")
)
VIDEO = frozenset({"video_classifier"})
IMAGES = CLASSIFIER | DETECTOR | SEGMENTER

JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
MULTIPART = ("Content-Type", "multipart/form-data; boundary=B")
BINARY = "Inference-Header-Content-Length"

Headers = tuple[tuple[str, str], ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of a multipart body; `content_type` makes it a file."""

    name: str
    content: bytes
    content_type: str | None = None


@dataclass(frozen=True)
class Sent:
    """One request: what is sent, and to which kinds of model."""

    name: str
    body: bytes = b""
    headers: Headers = ()
    kinds: frozenset[str] = ALL
    parts: tuple[Part, ...] = ()
    method: str = "POST"
    path: str = "predictions"  # or "explanations"

    def content(self) -> tuple[bytes, Headers]:
        """Body and headers as they go over the wire, but for the length."""
        return (
            (multipart(self.parts), (MULTIPART, *self.headers)) if self.parts else (self.body, self.headers)
        )


@dataclass(frozen=True)
class Bad(Sent):
    """A request that is refused. `in_front` where TorchServe itself refuses it, before any worker: `type` is
    then its own, and empty where it answers without a body.
    """

    status: int = 400
    type: str = "BadRequest"
    in_front: bool = False
    row: Row | None = None  # what TorchServe makes of the body, where `row_of` doesn't know


def row_of(sent: Sent) -> tuple[Row, dict[str, Any]]:
    """(fields, headers) as TorchServe's front end and its worker hand them to a handler.

    As observed on TorchServe 0.12: JSON is parsed where its content type is exactly application/json,
    text/... is decoded, both stay bytes where that fails; a form's part is a field; a file without a type is
    an octet stream; a header of several is the last; "explain" is the path's, whatever was sent; and each
    field has an entry of its own among the headers.
    """
    content_type = dict(sent.headers).get("Content-Type", "")
    if isinstance(sent, Bad) and sent.row is not None:
        row, types = sent.row, {}
    elif sent.parts:
        row = form_fields((part.name, _value(part.content, part.content_type or "")) for part in sent.parts)
        types = {part.name: part.content_type or "" for part in sent.parts}
    elif content_type == FORM[1]:
        row = form_fields((name, bytearray(value.encode())) for name, value in parse_qsl(sent.body.decode()))
        types = dict.fromkeys(row, "")
    else:
        plain = content_type.split(";")[0]
        row, types = {"body": _value(sent.body, plain)}, {"body": plain}
    own = {name: {"content-type": kind} for name, kind in types.items()}
    return row, {**own, "explain": str(sent.path == "explanations"), **dict(sent.headers), "url_path": ""}


def _value(content: bytes, content_type: str) -> Any:
    try:
        if content_type == "application/json":
            return json.loads(content.decode())
        if content_type.startswith("text"):
            return content.decode()
    except (ValueError, RecursionError):
        pass
    return bytearray(content)


def multipart(parts: tuple[Part, ...]) -> bytes:
    """A form with the boundary B."""
    return b"".join(_part(part) for part in parts) + b"--B--\r\n"


def _part(part: Part) -> bytes:
    file = f'; filename="x"\r\nContent-Type: {part.content_type}' if part.content_type else ""
    return (
        f'--B\r\nContent-Disposition: form-data; name="{part.name}"{file}\r\n\r\n'.encode()
        + part.content
        + b"\r\n"
    )
