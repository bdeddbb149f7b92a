"""Replies: what becomes of an answer or an error on its way to the caller: bytes, their type, and a status of its own."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from bundle_errors import ModelFault, TooLarge

MAX_ANSWER_BYTES = 6_000_000  # TorchServe kills a worker that answers more than max_response_size, by default 6,553,500
NOT_FINITE = "the model's answer is not finite; the request may be out of the range that it was trained on"

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode  # json.dumps would make an encoder for every answer


@dataclass(frozen=True)
class Picture:
    """An answer that is a file, not JSON."""

    content: bytes
    content_type: str


def checked(answer: Any, most: int = MAX_ANSWER_BYTES) -> Any:
    """An answer as a Picture or as JSON's bytes, or the error that it is or becomes: not finite, or longer than `most` bytes."""
    if isinstance(answer, Exception):
        return answer
    try:
        reply = answer if isinstance(answer, Picture) else _compact(answer)
    except ValueError:
        return ModelFault(NOT_FINITE)
    if len(reply.content) > most:
        allowed = f"{most:,} are sent at most; send fewer instances, or ask for less of each"
        return TooLarge(f"the answer would have {len(reply.content):,} bytes; {allowed}")
    return reply


def sent(reply: Any, index: int, context: Any) -> bytes:
    """The bytes of one checked answer or error; sets status and content type of that request alone."""
    if isinstance(reply, Exception):
        status: HTTPStatus = reply.status  # type: ignore[attr-defined]
        context.set_response_status(status.value, status.phrase, index)
        failure = {"code": status.value, "type": type(reply).__name__, "message": str(reply)}
        reply = _compact({**failure, "request_id": context.get_request_id(index)})
    context.set_response_content_type(index, reply.content_type)
    content: bytes = reply.content
    return content


def _compact(answer: Any) -> Picture:
    """Compact JSON; ValueError for NaN and infinity, which are no JSON."""
    return Picture(_encode(answer).encode(), "application/json")
