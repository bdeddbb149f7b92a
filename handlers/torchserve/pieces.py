"""Answers in pieces by way of TorchServe: its front end sends each piece as a chunk when it is there.

What leaves are the server-sent events of `protocol.events`, as from the other engines. The front end gives a
worker no further batch before all of one is answered: who comes meanwhile waits, or is another worker's.
"""

from collections.abc import Iterator

from ..protocol.events import CONTENT_TYPE, KEEP_ALIVE, done_event, event_of, wants_events
from ..protocol.replies import Reply
from ..protocol.requests import Row
from ..runtime.predictor import Predictor
from ..runtime.streams import Stream
from .codec import Message


def messages_of(predictor: Predictor, rows: list[Row], ids: list[str]) -> Iterator[Message] | None:
    """What a batch is answered by, piece by piece; None for one that nobody wants events of, and for kinds
    whose answers come as a whole.
    """
    if not predictor.answers_in_pieces or not any(wants_events(headers) for _, headers in rows):
        return None
    return _messages(predictor, rows, ids)


def _messages(predictor: Predictor, rows: list[Row], ids: list[str]) -> Iterator[Message]:
    named = [*zip(ids, rows, strict=True)]
    streams = {one: predictor.open_stream(row, one) for one, row in named if wants_events(row[1])}
    refused = {one: stream.refusal for one, stream in streams.items() if stream.refusal}
    others = [(one, row) for one, row in named if one not in streams]
    replies = [*refused.values()]
    replies += predictor.reply([row for _, row in others], [one for one, _ in others]) if others else []
    whole = Message([*refused, *(one for one, _ in others)], replies, [None] * len(replies))
    going = {one: stream for one, stream in streams.items() if not stream.refusal}
    first = [Reply(KEEP_ALIVE, CONTENT_TYPE) for _ in going]  # a stream has a first piece and a last one
    yield Message([*whole.ids, *going], [*whole.replies, *first], [*whole.more, *[True] * len(going)])
    counts = {one: [0, 0] for one in going}
    while going:
        pieces = _pieces(predictor, going, counts)
        ended = {one for one, stream in going.items() if stream.is_done}
        going = {one: stream for one, stream in going.items() if one not in ended}
        if pieces:
            yield Message([*pieces], [*pieces.values()], [one not in ended for one in pieces])
    predictor.report(rows, ids, [refused.get(one) or Reply(b"") for one in ids])


def _pieces(predictor: Predictor, going: dict[str, Stream], counts: dict[str, list[int]]) -> dict[str, Reply]:
    """The next piece of each request that has one; an ended one has its last event."""
    found: dict[str, Reply] = {}
    steps = predictor.advance([*going.values()], len(going))
    for (one, stream), items in zip(going.items(), steps, strict=True):
        counts[one][0] += len(items)
        counts[one][1] += sum(bool(item.reply.error) for item in items)
        content = b"".join(event_of(item, stream.key) for item in items)
        if stream.is_done:
            content += done_event(*counts[one])
        if content:
            found[one] = Reply(content, CONTENT_TYPE)
    return found
