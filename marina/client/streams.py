"""Answers one after another, as the clients hand them on: server-sent events -> `StreamItem`s."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from marina.client import wire
from marina.client.wire import Call, NoResponse, Reply
from marina.core.errors import RequestError, ServerFault, ServerUnavailable

if TYPE_CHECKING:
    from httpx import HTTPError
    from httpx_sse import ServerSentEvent

EVENTS = "text/event-stream"


@dataclass(frozen=True)
class StreamItem:
    """What became of one instance: its position in the request, and its answer, or the error in its
    place.
    """

    index: int
    answer: Any = None
    error: RequestError | None = None


def stream_call(call: Call) -> Call:
    """A prediction or explanation whose answers come one after another."""
    headers = {**call.headers, "accept": EVENTS}
    return replace(call, headers=headers, read_reply=lambda _, content: content)


def is_stream(headers: Mapping[str, str]) -> bool:
    """Whether a reply is one of events; a server without them answers as a whole."""
    return headers.get("content-type", "").startswith(EVENTS)


def read_event(call: Call, url: str, event: "ServerSentEvent") -> StreamItem | None:
    """The item of an event; None for the last one. Raises a RequestError where the model fails."""
    try:
        data = json.loads(event.data)
        if event.event == "done":
            return None
        if event.event != "error":
            return StreamItem(data["index"], data.get("prediction", data.get("explanation")))
        error = wire.find_error(call, url, Reply(int(data["code"]), {}, event.data.encode()), 0)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ServerFault(
            f"{call.method} {url}: an event can't be understood: {event.data[:200]!r}"
        ) from problem
    assert error
    if "index" not in data:
        raise error
    return StreamItem(data["index"], error=error)


def cut_off(call: Call, url: str, reason: str = "it has no last event") -> ServerUnavailable:
    """The error of a stream that ended too early."""
    message = f"the stream is cut off ({reason})"
    return ServerUnavailable(f"{call.method} {url}: {message}", message=message)


def whole_answer(answer: Any) -> list[StreamItem]:
    """The items of an answer that came as a whole."""
    answers = [answer]
    if isinstance(answer, dict):
        answers = answer.get("predictions", answer.get("explanations", answers))
    return [StreamItem(index, one) for index, one in enumerate(answers)]


def no_response(error: "HTTPError") -> NoResponse:
    """What an error of httpx means."""
    import httpx  # the tool starts without it

    if isinstance(error, httpx.TimeoutException):
        return NoResponse("late")
    is_unconnected = isinstance(error, httpx.ConnectError)
    return NoResponse("unconnected" if is_unconnected else "broken", wire.root_cause(error))
