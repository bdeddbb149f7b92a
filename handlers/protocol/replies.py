"""Replies: what becomes of an answer or an error on its way to the caller: bytes, their type, and a status
of its own.
"""

import json
import json.encoder
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

from .errors import ModelError, TooLarge
from .tensor_answers import TensorAnswer

JSON = "application/json"
# TorchServe kills a worker that answers more than max_response_size, by default 6,553,500
MAX_ANSWER_BYTES = 6_000_000
NOT_FINITE = "the model's answer is not finite; the request may be out of the range that it was trained on"


def _encoder() -> Callable[[Any], str]:
    """Compact JSON, as json.dumps writes it, which makes two objects for every answer: twice as long as
    the writing takes.
    """
    plain = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # a Python that has it not
        return plain.encode
    parts = make(
        None, plain.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
    )
    return lambda answer: "".join(parts(answer, 0))


_encode = _encoder()


@dataclass(frozen=True)
class Picture:
    """An answer that is a file, not JSON."""

    content: bytes
    content_type: str


class Reply(NamedTuple):
    """What one caller gets."""

    content: bytes
    content_type: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    error: str = ""  # the kind of the refusal or fault


def reply_of(answer: Any, request_id: str, most: int = MAX_ANSWER_BYTES) -> Reply:
    """An answer (JSON-ready, or a Picture) or error as it is sent; an answer may become an error: not
    finite, or over `most` bytes.
    """
    failure = answer
    if not isinstance(answer, Exception):
        try:
            reply = (
                Reply(answer.content, answer.content_type)
                if isinstance(answer, Picture)
                else Reply(_encode(answer).encode())
            )
        except ValueError:
            failure = ModelError(NOT_FINITE)
        else:
            if len(reply.content) <= most:
                return reply
            allowed = f"{most:,} are sent at most; send fewer instances, or ask for less of each"
            failure = TooLarge(f"the answer would have {len(reply.content):,} bytes; {allowed}")
        failure.is_v2 = isinstance(answer, TensorAnswer)
    status: HTTPStatus = failure.status
    content = {
        "code": status.value,
        "type": type(failure).__name__,
        "message": str(failure),
        "request_id": request_id,
    }
    if failure.is_v2:
        content["error"] = str(failure)
    return Reply(_encode(content).encode(), JSON, status, type(failure).__name__)
