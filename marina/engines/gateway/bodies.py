"""A request's body and headers -> the row that TorchServe's worker hands to a predictor.

    JSON                        {"body": what it says}; broken JSON stays bytes, for the predictor to refuse,
                                unless it is large
    text/...                    {"body": text}
    a form                      one entry per field
    anything else, or nothing   {"body": bytes}

Bodies are bounded in bytes, packed and unpacked, and in time.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from handlers.protocol.bodies import broken_json, unpacked
from handlers.protocol.errors import BadRequest, TooLarge
from handlers.protocol.fields import field_value
from handlers.protocol.kserve import BINARY_HEADER
from handlers.protocol.requests import Row
from marina.engines.gateway import large_json
from marina.engines.gateway.failures import RequestTimeout
from marina.engines.gateway.forms import read_multipart, read_urlencoded

LARGE_BYTES = 256 * 1024  # a body above it is read in a thread
KNOWN_HEADERS = 256  # callers whose headers are remembered
MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
ENCODING = "content-encoding"
SINGLE = (b"host", b"authorization", b"content-type", ENCODING.encode())

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Mapping[str, str]
Field = tuple[bytes, bytes]  # of ASGI's headers


@dataclass(frozen=True)
class Limits:
    """What a request may take: bytes of its body, packed or not, and seconds until it has arrived."""

    max_request_size: int = 20_000_000
    body_seconds: float = 60.0


class HungUp(Exception):
    """The caller has gone; nobody reads an answer."""


class HeaderReader:
    """Headers by lower-case name; those that callers repeat are read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Field, ...], Headers] = {}

    def read(self, headers: Iterable[Field], own: tuple[Field, ...]) -> Headers:
        """The last of several with one name counts; `own` are the gateway's, which no caller sets.

        Raises BadRequest for two of a header that a proxy in front may have read otherwise.
        """
        pairs: tuple[Field, ...] = (*headers, *own)
        known = self._known.get(pairs)
        if known is None:
            if len(self._known) >= KNOWN_HEADERS:  # callers that never say the same, as with a traceparent
                self._known.clear()
            names = [name for name, _ in pairs]
            for name in SINGLE:
                if names.count(name) > 1:
                    raise BadRequest(f"the header {name.decode()} is there twice; send it once")
            known = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
            self._known[pairs] = known
        return known


async def read_body(receive: Receive, headers: Headers, limits: Limits) -> bytes:
    """The whole body.

    Raises TooLarge as soon as it is longer than it may be, RequestTimeout when the rest of it comes too
    slowly (its beginning is the server's to wait for), HungUp.
    """
    announced = headers.get("content-length", "0")
    if not announced.isdecimal():
        raise BadRequest("content-length must be the body's number of bytes")
    if int(announced) > limits.max_request_size:
        raise _too_large(limits)
    message = await receive()
    if message.get("more_body"):
        try:
            async with asyncio.timeout(limits.body_seconds):
                return await _whole_body(message, receive, limits)
        except TimeoutError:
            raise RequestTimeout(limits.body_seconds) from None
    return _content(message, limits)


def read_row(body: bytes, headers: Headers, value_of: Callable[[bytes, bytes], Any] = field_value) -> Row:
    """The row of a whole body and its headers; `value_of` parses what a field has under its content type.

    Raises BadRequest for a form that can't be read.
    """
    content_type = headers.get("content-type", "")
    mime_type = content_type.partition(";")[0].strip().lower()
    if mime_type == MULTIPART:
        form = read_multipart(body, content_type)
    elif mime_type == URLENCODED:
        form = read_urlencoded(body)
    else:
        return {"body": value_of(body, mime_type.encode())}, headers
    return {name: value_of(content, kind) for name, (content, kind) in form.items()}, headers


async def read_large_row(body: bytes, headers: Headers, limits: Limits) -> Row:
    """As `read_row`, of a body that is large or packed, in a thread.

    Raises TooLarge, NotSupported or BadRequest also for one that can't be unpacked.
    """
    return await asyncio.get_running_loop().run_in_executor(None, _unpacked_row, body, headers, limits)


async def hung_up(receive: Receive) -> None:
    """Return when the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole_body(message: Message, receive: Receive, limits: Limits) -> bytes:
    parts, size = [], 0
    while message.get("more_body"):
        parts.append(_content(message, limits))
        size += len(parts[-1])
        if size > limits.max_request_size:
            raise _too_large(limits)
        message = await receive()
    return _content({**message, "body": b"".join([*parts, message.get("body", b"")])}, limits)


def _content(message: Message, limits: Limits) -> bytes:
    if message["type"] == "http.disconnect":
        raise HungUp
    body: bytes = message.get("body", b"")
    if len(body) > limits.max_request_size:
        raise _too_large(limits)
    return body


def _unpacked_row(body: bytes, headers: Headers, limits: Limits) -> Row:
    plain = {name: value for name, value in headers.items() if name != ENCODING}
    whole = unpacked(body, headers.get(ENCODING, ""), limits.max_request_size)
    return read_row(whole, plain, field_value if BINARY_HEADER in headers else large_value)


def large_value(content: bytes, content_type: bytes = b"") -> Any:
    """As `field_value`; JSON is parsed without holding up other threads, also where it comes without its type
    and a predictor would parse it. Raises BadRequest for JSON that is broken, unless it is said to be a text.
    """
    if len(content) < LARGE_BYTES:
        return field_value(content, content_type)
    encoding = json.detect_encoding(content)
    if content[:128].decode(encoding, "ignore").lstrip()[:1] not in ("{", "["):
        return field_value(content, content_type)
    try:
        return large_json.loads(content.decode(encoding))
    except (ValueError, RecursionError):
        if content_type.startswith(b"text"):  # it may begin like JSON
            return field_value(content, content_type)
        raise broken_json() from None


def _too_large(limits: Limits) -> TooLarge:
    most = f"{limits.max_request_size:,} bytes (max_request_size)"
    return TooLarge(f"the body has more than {most}; send fewer instances at once")
