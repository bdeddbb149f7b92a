"""What goes over the wire, whoever carries it: calls as bytes and headers, answers and errors as they come back.

Nothing here sends anything: `marina.client.exchange` says what is sent when, the clients of marina/ how.
"""

import base64
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from marina.errors import CallError, RequestError, RequestRefused, ServerFault, ServerUnavailable

Api = Literal["inference", "management"]

OPTIONS = ("top_k", "confidence_threshold", "masks", "deterministic", "seed", "action_mask", "class_index", "format")
JSON, BYTES = "application/json", "application/octet-stream"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
BUSY = (408, 429, 502, 503, 504, 507)  # nothing is wrong with the request; another time it may be answered
DIED = "Worker died."
SLICE_BYTES, SLICE_BODIES = 1_000_000, 64  # of one request of several: larger ones are hardly faster, and take a worker for longer

Slice = tuple[int, list[tuple[bytes, str]]]  # the position of the first, and per body its bytes and content type


@dataclass(frozen=True)
class Call:
    """One call of an API, still without a token. `repeatable` ones may be carried out twice without harm."""

    method: str
    api: Api
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)  # by lower-case name
    repeatable: bool = True
    read: Callable[[Any], Any] = lambda answer: answer
    model: tuple[str, str | None] | None = None  # name and version of what is asked for a prediction


@dataclass(frozen=True)
class Reply:
    """What a server answered; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Lost:
    """No whole answer came: no connection (then nothing was sent), no time left, or a connection that broke."""

    how: Literal["unconnected", "late", "broken"]
    reason: str = ""


def prediction(
    name: str,
    body: Any,
    version: str | None = None,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    what: Literal["predictions", "explanations"] = "predictions",
) -> Call:
    """A prediction or an explanation of one body; see `encoded` for bodies and `option_headers` for options."""
    content, natural_type = encoded(body)
    own = {"content-type": content_type or natural_type, **option_headers(options or {})}
    own |= {key.lower(): value for key, value in (headers or {}).items()}
    path = f"/{what}/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
    return Call("POST", "inference", path, content, own, model=(name, version) if what == "predictions" else None)


def predictions(
    name: str, bodies: list[tuple[bytes, str]], version: str | None, headers: Mapping[str, str] | None, options: Mapping[str, Any]
) -> Call:
    """A prediction of several encoded bodies at once (KServe's v1 protocol, files as base64 text); answered with a list."""
    instances = (content if content_type == JSON else b'"' + base64.b64encode(content) + b'"' for content, content_type in bodies)
    call = prediction(name, b'{"instances":[' + b",".join(instances) + b"]}", version, JSON, headers, options)
    return replace(call, read=lambda answer: list(answer["predictions"]))


def ping() -> Call:
    """TorchServe's own word for its health."""
    return Call("GET", "inference", "/ping", read=lambda answer: str(answer["status"]))


def models() -> Call:
    """Registered models: name -> file of the default version."""
    read = lambda answer: {model["modelName"]: model["modelUrl"] for model in answer["models"]}  # noqa: E731
    return management("GET", "", {"limit": 1000}, read=read)


def describe(name: str, version: str, customized: bool) -> Call:
    """One version, "all", or the default one ("")."""
    return management("GET", f"/{quote(name, safe='')}/{quote(version, safe='')}".rstrip("/"), {"customized": "true"} if customized else {})


def management(
    method: str,
    path: str,
    query: Mapping[str, Any] | None = None,
    *,
    repeatable: bool = True,
    read: Callable[[Any], Any] = lambda answer: answer,
) -> Call:
    """A call of the management API below /models."""
    asked = f"?{urlencode(query)}" if query else ""
    return Call(method, "management", f"/models{path}{asked}", repeatable=repeatable, read=read)


def encoded(body: Any) -> tuple[bytes, str]:
    """(bytes, content type) of a body.

    bytes               as they are
    Path                the file's bytes; a .json file is JSON
    PIL image           PNG, turned as its EXIF says
    numpy array         uint8 [height, width] or [height, width, 3]: a picture, as PNG; other numbers: {"observation": [...]}
    anything else       JSON; arrays inside it become lists

    Raises CallError for what can't be sent, with what can.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), BYTES
    if isinstance(body, Path):
        return _file(body), JSON if body.suffix.lower() == ".json" else BYTES
    if isinstance(body, _class("PIL.Image", "Image")):
        return _png(body), BYTES
    if isinstance(body, _class("numpy", "ndarray")):
        return _array(body)
    return _json(body).encode(), JSON


def slices(bodies: Iterable[Any], most_bodies: int = SLICE_BODIES, most_bytes: int = SLICE_BYTES) -> Iterator[Slice]:
    """Bodies by the request that takes them; they are read as the slices are, not all at once."""
    position, held, size = 0, list[tuple[bytes, str]](), 0
    for body in bodies:
        one = encoded(body)
        if held and (len(held) >= most_bodies or size + len(one[0]) > most_bytes):
            yield position, held
            position, held, size = position + len(held), [], 0
        held.append(one)
        size += len(one[0])
    if held:
        yield position, held


def option_headers(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as headers; None leaves one out. Raises CallError for one that no kind of model knows."""
    if unknown := sorted(options.keys() - set(OPTIONS)):
        known = f"known: {', '.join(OPTIONS)}; what a handler of your own takes is sent with headers={{...}}"
        raise CallError(f"unknown options: {', '.join(unknown)}; {known}")
    texts = {name: value if isinstance(value, str) else _json(value) for name, value in options.items() if value is not None}
    if wrong := [name for name, text in texts.items() if not (text.isascii() and text.isprintable())]:
        raise CallError(f"{wrong[0]} must be plain text, not {texts[wrong[0]]!r}")
    return {name.replace("_", "-"): text for name, text in texts.items()}  # proxies drop names with an underscore


def answer_of(call: Call, reply: Reply) -> Any:
    """What a reply says: JSON parsed, files as bytes, other text as it is. Raises ServerFault for what can't be understood."""
    content_type = reply.headers.get("content-type", "")
    if content_type.startswith(("image/", BYTES)):
        return reply.content
    try:
        answer = json.loads(reply.content)
    except (ValueError, RecursionError) as error:
        if content_type.startswith(JSON):
            raise _not_understood(call, reply) from error
        answer = reply.content.decode("utf-8", "replace")
    try:
        return call.read(answer)
    except (KeyError, TypeError) as error:
        raise _not_understood(call, reply) from error


def failure_of(call: Call, url: str, outcome: Reply | Lost, seconds: float) -> RequestError | None:
    """The error that a reply is, or that its absence is; None for a success. `seconds` is what the call had."""
    at = f"{call.method} {url}"
    if isinstance(outcome, Lost):
        words = {
            "unconnected": f"no connection ({outcome.reason}); is the server running? (marina serve)",
            "late": f"no answer within {seconds:g} s",
            "broken": f"the connection broke ({outcome.reason})",
        }[outcome.how]
        return ServerUnavailable(f"{at}: {words}", message=words)
    if 200 <= outcome.status < 300:
        return None
    told = _told(outcome)
    words, error_type = str(told.get("message") or "").strip() or _words(outcome), str(told.get("type") or "")
    request_id = str(told.get("request_id") or outcome.headers.get("x-request-id", ""))
    kind = _kind(outcome.status, error_type, words)
    return kind(f"{at}: {outcome.status}: {words}", outcome.status, message=words, error_type=error_type, request_id=request_id)


def cause_of(error: BaseException) -> str:
    """What is at the bottom of an error of a library: "[Errno 111] Connection refused" instead of the names of all its layers."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return str(error) or type(error).__name__


def _told(reply: Reply) -> dict[str, Any]:
    """The JSON object of an error answer; empty where there is none."""
    try:
        told = json.loads(reply.content)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _not_understood(call: Call, reply: Reply) -> ServerFault:
    return ServerFault(f"{call.method} {call.path}: the answer can't be understood: {_shown(reply)!r}", reply.status)


def _kind(status: int, error_type: str, words: str) -> type[RequestError]:
    """Whose fault it is. TorchServe says 503 too where a handler raised, and 500 or 507 where a worker died under a request."""
    if words == DIED or (status in BUSY and not (status == 503 and error_type == "InternalServerException")):
        return ServerUnavailable
    return RequestRefused if status < 500 else ServerFault


def _words(reply: Reply) -> str:
    if reply.status == 413:
        return "the request is larger than the server takes (max_request_size); send less at once"
    if 300 <= reply.status < 400:
        return f"redirected to {reply.headers.get('location', 'nowhere')}; use that address"
    return _shown(reply) or "no words"


def _shown(reply: Reply) -> str:
    return reply.content[:200].decode("utf-8", "replace").strip()


def _class(module: str, name: str) -> Any:
    """A class of a heavy module, without importing it: whoever holds one of its objects has imported it."""
    return getattr(sys.modules.get(module), name, ())


def _file(path: Path) -> bytes:
    if not path.is_file():
        raise CallError(f"no file {path}")
    return path.read_bytes()


def _png(image: Any) -> bytes:
    from PIL import ImageOps

    buffer = io.BytesIO()
    image = ImageOps.exif_transpose(image)
    image = image if image.mode in PNG_MODES else image.convert("RGB")
    image.save(buffer, "PNG", compress_level=1)  # level 6 takes several times as long for a tenth fewer bytes
    return buffer.getvalue()


def _array(array: Any) -> tuple[bytes, str]:
    if array.dtype == "uint8" and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) and array.size:
        from PIL import Image

        return _png(Image.fromarray(array)), BYTES
    if array.dtype.kind not in "iuf":
        wanted = "a picture (uint8 [height, width] or [height, width, 3]) or numbers (an observation)"
        raise CallError(f"an array to predict must be {wanted}, not {array.dtype} {list(array.shape)}")
    return _json({"observation": array.tolist()}).encode(), JSON


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        known = "send bytes, a Path, a PIL image, an array, or what JSON can say with finite numbers"
        raise CallError(f"{type(value).__name__} can't be sent: {error}; {known}") from error


def _plain(value: Any) -> Any:
    """Arrays and their numbers inside JSON, as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
