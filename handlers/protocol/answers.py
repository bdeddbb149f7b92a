"""Answers to the instances of one request, in the protocol in which it came."""

from collections.abc import Callable, Mapping
from typing import Any

from .errors import ModelError, NotSupported, RequestError
from .replies import Picture
from .requests import Request
from .tensor_answers import tensor_answer

Schema = Callable[[], dict[str, Any] | None]


def in_protocol(
    request: Request, answers: list[Any], key: str, schema: Schema, model: Mapping[str, Any], ragged: bool
) -> Any:
    """The answers as the request's protocol has them, in v1 under `key`; only v2 needs the `schema` of one
    answer, and the name and version of the `model`.

    Raises NotSupported for a picture in a protocol without one, BadRequest for an unknown output, and
    ValueError for numbers that are not finite.
    """
    if request.protocol == "own":
        return answers[0]
    if request.protocol == "rows":
        return {"rows": [_or_error(answer) for answer in answers]}
    if any(isinstance(answer, Picture) for answer in answers):
        raise NotSupported("a picture answers one instance; ask for one at a time, or for JSON")
    if request.tensors is None:
        return {key: answers}
    return tensor_answer(
        answers,
        schema() or {},
        model["name"],
        model["version"],
        request.tensors.request_id,
        ragged=ragged,
        names=request.tensors.outputs,
        ignored=request.tensors.ignored,
    )


def _or_error(answer: Any) -> Any:
    """An answer, or what its row did wrong."""
    if not isinstance(answer, RequestError | ModelError):
        return answer
    code, kind = answer.status.value, type(answer).__name__
    return {"error": {"code": code, "type": kind, "message": str(answer)}}
