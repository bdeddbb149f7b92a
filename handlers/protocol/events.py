"""Answers one after another, as server-sent events (WHATWG HTML Living Standard, section 9.2).

    data: {"index":0,"prediction":{...}}                    an answer; "explanation" where one was asked for
    event: error                                            an instance that is refused or failed
    data: {"index":1,"code":400,"type":"BadRequest","message":"...","request_id":"..."}
    event: done                                             the last one: without it the answer is cut off
    data: {"count":2,"errors":1}

Every `data` is one line of JSON.
"""

from collections.abc import Mapping
from typing import NamedTuple

from .replies import Reply

CONTENT_TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which clients skip


class Item(NamedTuple):
    """What became of one instance: its position in the request, and its answer or error as JSON."""

    position: int
    reply: Reply


def wants_events(headers: Mapping[str, str]) -> bool:
    """Whether a call, by its headers in lower case, asks for events."""
    return CONTENT_TYPE in headers.get("accept", "")


def event_of(item: Item, key: str) -> bytes:
    """The event of an item, whose answer has the name `key`."""
    if item.reply.error:
        return b'event: error\ndata: {"index":%d,%s\n\n' % (item.position, item.reply.content[1:])
    return b'data: {"index":%d,"%s":%s}\n\n' % (item.position, key.encode(), item.reply.content)


def done_event(count: int, errors: int) -> bytes:
    """The last event."""
    return b'event: done\ndata: {"count":%d,"errors":%d}\n\n' % (count, errors)
