"""Calls of the server as bytes and headers, and its replies as answers or errors.

Nothing here sends anything: `marina.client.exchange` decides what is sent when, the clients send it.
"""

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import quote, urlencode

from marina.client.encoding import BYTES, JSON, encode_body, option_headers
from marina.client.request_options import CallOptions, ManyOptions, RequestOptions
from marina.core.errors import RequestError, RequestRefused, ServerFault, ServerUnavailable

Api = Literal["inference", "management"]
Resource = Literal["predictions", "explanations"]

BUSY = (408, 429, 502, 503, 504, 507)  # the request is fine and may be answered later
DIED = "Worker died."
MAX_REPLY_BYTES = 256_000_000  # a server of Marina's answers with 20 MB at most (max_response_size)
READ_BYTES = 65_536  # of a reply at a time


@dataclass(frozen=True)
class Call:
    """A call of an API, without its token. A `repeatable` one does no harm when it is carried out twice."""

    method: str
    api: Api
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)  # by lower-case name
    repeatable: bool = True
    read: Callable[[Any], Any] = lambda answer: answer
    model: tuple[str, str | None] | None = None  # name and version, for a prediction
    read_reply: Callable[[int, Any], Any] | None = None  # of status and answer, in the place of `read`


@dataclass(frozen=True)
class Reply:
    """What a server answered; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class NoResponse:
    """There was no complete reply: no connection (nothing was sent), no time left, a broken connection, or
    more than MAX_REPLY_BYTES.
    """

    how: Literal["unconnected", "late", "broken", "endless"]
    reason: str = ""


def predict_call(
    name: str,
    body: Any,
    version: str | None = None,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    options: RequestOptions | None = None,
    resource: Resource = "predictions",
) -> Call:
    """A prediction or an explanation of one body; see `encode_body` and `option_headers`."""
    content, natural_type = encode_body(body)
    own = {"content-type": content_type or natural_type, **option_headers(options or {})}
    own |= {key.lower(): value for key, value in (headers or {}).items()}
    path = f"/{resource}/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
    return Call(
        "POST", "inference", path, content, own, model=(name, version) if resource == "predictions" else None
    )


def predict_many_call(
    name: str,
    bodies: list[tuple[bytes, str]],
    version: str | None,
    headers: Mapping[str, str] | None,
    options: RequestOptions,
) -> Call:
    """A prediction of several encoded bodies (KServe v1, files as base64); its answer is a list."""
    instances = (
        content if content_type == JSON else b'"' + base64.b64encode(content) + b'"'
        for content, content_type in bodies
    )
    call = predict_call(
        name, b'{"instances":[' + b",".join(instances) + b"]}", version, JSON, headers, options
    )
    return replace(call, read=lambda answer: list(answer["predictions"]))


def timed_call(
    name: str, body: Any, version: str | None, options: CallOptions, resource: Resource = "predictions"
) -> tuple[Call, float | None]:
    """As `predict_call`, from the options of a client's method; with the `timeout` among them."""
    own = options.copy()
    content_type, headers = own.pop("content_type", None), own.pop("headers", None)
    timeout = own.pop("timeout", None)
    return predict_call(name, body, version, content_type, headers, own, resource), timeout


def timed_many_call(
    name: str, bodies: Iterable[Any], version: str | None, options: ManyOptions
) -> tuple[Call, float | None]:
    """As `predict_many_call`, of bodies that are not encoded yet, with the `timeout` among the options."""
    own = options.copy()
    headers, timeout = own.pop("headers", None), own.pop("timeout", None)
    encoded = [encode_body(body) for body in bodies]
    return predict_many_call(name, encoded, version, headers, own), timeout


def ping_call() -> Call:
    """TorchServe's health, in its own words."""
    return Call("GET", "inference", "/ping", read=lambda answer: str(answer["status"]))


def models_call() -> Call:
    """Registered models: name -> file of the default version."""
    read = lambda answer: {model["modelName"]: model["modelUrl"] for model in answer["models"]}  # noqa: E731
    return management_call("GET", "", {"limit": 1000}, read=read)


def describe_call(name: str, version: str, customized: bool) -> Call:
    """One version, "all", or the default one ("")."""
    return management_call(
        "GET",
        f"/{quote(name, safe='')}/{quote(version, safe='')}".rstrip("/"),
        {"customized": "true"} if customized else {},
    )


def management_call(
    method: str,
    path: str,
    query: Mapping[str, Any] | None = None,
    *,
    repeatable: bool = True,
    read: Callable[[Any], Any] = lambda answer: answer,
) -> Call:
    """A call of the management API below /models."""
    parameters = f"?{urlencode(query)}" if query else ""
    return Call(method, "management", f"/models{path}{parameters}", repeatable=repeatable, read=read)


def parse_answer(call: Call, reply: Reply) -> Any:
    """The answer in a reply: parsed JSON, bytes or text. Raises ServerFault for an unexpected one."""
    content_type = reply.headers.get("content-type", "")
    if content_type.startswith(("image/", BYTES)):
        return reply.content
    try:
        answer = json.loads(reply.content)
    except (ValueError, RecursionError) as error:
        if content_type.startswith(JSON):
            raise _unexpected(call, reply) from error
        answer = reply.content.decode("utf-8", "replace")
    try:
        return call.read_reply(reply.status, answer) if call.read_reply else call.read(answer)
    except (KeyError, TypeError) as error:
        raise _unexpected(call, reply) from error


def find_error(call: Call, url: str, outcome: Reply | NoResponse, seconds: float) -> RequestError | None:
    """The error in a reply or in its absence; None for a success. `seconds` is the time that the call had."""
    at = f"{call.method} {url}"
    if isinstance(outcome, NoResponse):
        message = {
            "unconnected": f"no connection ({outcome.reason}); is the server running? (marina serve)",
            "late": f"no answer within {seconds:g} s",
            "broken": f"the connection broke ({outcome.reason})",
            "endless": f"the answer has more than {MAX_REPLY_BYTES:,} bytes "
            "(marina.client.wire.MAX_REPLY_BYTES), so it is no model's; check the address",
        }[outcome.how]
        fault = ServerFault if outcome.how == "endless" else ServerUnavailable
        return fault(f"{at}: {message}", message=message)
    if 200 <= outcome.status < 300:
        return None
    content = _error_content(outcome)
    message = str(content.get("message") or "").strip() or _default_message(outcome)
    error_type = str(content.get("type") or "")
    request_id = str(content.get("request_id") or outcome.headers.get("x-request-id", ""))
    error_class = _error_class(outcome.status, error_type, message)
    return error_class(
        f"{at}: {outcome.status}: {message}",
        outcome.status,
        message=message,
        error_type=error_type,
        request_id=request_id,
    )


def retry_after(reply: Reply) -> float:
    """Seconds of a Retry-After header: a number or a date (RFC 9110, section 10.2.3); 0 for anything else."""
    text = reply.headers.get("retry-after", "")
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def root_cause(error: BaseException) -> str:
    """The message of the innermost error: "[Errno 111] Connection refused" instead of a library's layers."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__


def _error_content(reply: Reply) -> dict[str, Any]:
    """The JSON object of an error reply; empty where there is none."""
    try:
        content = json.loads(reply.content)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _unexpected(call: Call, reply: Reply) -> ServerFault:
    return ServerFault(
        f"{call.method} {call.path}: the answer can't be understood: {_preview(reply)!r}", reply.status
    )


def _error_class(status: int, error_type: str, message: str) -> type[RequestError]:
    """Whose fault it is; TorchServe answers 503 also if a handler raised, 500 or 507 if a worker died."""
    if message == DIED or (
        status in BUSY and not (status == 503 and error_type == "InternalServerException")
    ):
        return ServerUnavailable
    return RequestRefused if status < 500 else ServerFault


def _default_message(reply: Reply) -> str:
    if reply.status == 413:
        return "the request is larger than the server takes (max_request_size); send less at once"
    if 300 <= reply.status < 400:
        return f"redirected to {reply.headers.get('location', 'nowhere')}; use that address"
    return _preview(reply) or "no message"


def _preview(reply: Reply) -> str:
    return reply.content[:200].decode("utf-8", "replace").strip()
