"""Streams of answers that come piece by piece: {"delta": "..."} for each token, the whole answer last."""

import time
from collections.abc import Sequence
from typing import Any

from ..decoding.generation import Generation
from ..decoding.loop import Decoder
from ..protocol.events import Item
from ..protocol.replies import Reply, reply_of
from ..runtime.streams import Stream

SHOT_SECONDS = 0.005  # of tokens that are made at once where nobody sees them one by one


class GenerationStream(Stream):
    """One request, with the answers that are in the making by their positions, and those that wait until
    the ones before them are done: whoever wants whole answers gets them in their order.
    """

    def __init__(self, read: Stream) -> None:
        super().__init__(read.request_id, refusal=read.refusal)
        self.waiting, self.total = read.waiting, read.total
        self.protocol, self.is_list = read.protocol, read.is_list
        self.key = read.key
        self.running: dict[int, Generation] = {}
        self.finished: dict[int, Reply] = {}
        self._next = 0  # position of the next whole answer

    @property
    def is_done(self) -> bool:
        """Whether no item is to come."""
        return not self.waiting and not self.running

    def items(self, replies: dict[int, Reply], deltas: list[Item]) -> list[Item]:
        """What leaves after a step: pieces and answers as they are there, or whole answers in their order."""
        if not self.wants_whole_answers:
            return [*deltas, *(Item(position, reply) for position, reply in replies.items())]
        self.finished |= replies
        ready = []
        while self._next in self.finished:
            ready.append(Item(self._next, self.finished.pop(self._next)))
            self._next += 1
        return ready


def opened(read: Stream) -> Stream:
    """A stream of pieces, for what was asked; explanations are whole."""
    return read if read.key == "explanation" else GenerationStream(read)


def advance_all(predictor: Any, decoder: Decoder, streams: Sequence[Stream]) -> list[list[Item]]:
    """One token more for each answer of these streams; explanations one by one, as of all kinds.

    A stream has as many answers in the making as there are rows for it, and one at least.
    """
    predictor.telemetry.start_batch()
    share = max(1, predictor.most_rows // max(1, len(streams)))
    replies: list[dict[int, Reply]] = [{} for _ in streams]
    rows = 0
    current: list[tuple[int, int, Generation]] = []
    for place, stream in enumerate(streams):
        if rows >= predictor.most_rows:
            break
        if not isinstance(stream, GenerationStream):
            instance = stream.waiting.popleft()
            answer = predictor._tried(predictor._explained_alone, instance)
            replies[place][instance.position] = _reply(predictor, answer, stream)
            rows += 1
            continue
        _begin(predictor, stream, share, replies[place])
        current += [(place, position, one) for position, one in stream.running.items()]
        rows += sum(one.options.num_beams for one in stream.running.values())
    with predictor.telemetry.inference:
        generations = [one for _, _, one in current]
        decoder.set_active(generations)
        _step(decoder, shows_pieces=any(not one.wants_whole_answers for one in streams))
    with predictor.telemetry.postprocess:
        deltas = _finish(predictor, streams, current, replies)
    return [
        stream.items(found, pieces)
        if isinstance(stream, GenerationStream)
        else [Item(position, reply) for position, reply in found.items()]
        for stream, found, pieces in zip(streams, replies, deltas, strict=True)
    ]


def _step(decoder: Decoder, *, shows_pieces: bool) -> None:
    """One token more, or several where nobody sees them one by one: until an answer ends, or time is up."""
    count, started = len(decoder.active), time.monotonic()
    decoder.step()
    while not shows_pieces and len(decoder.active) == count and time.monotonic() - started < SHOT_SECONDS:
        if not count:
            return
        decoder.step()


def _begin(predictor: Any, stream: GenerationStream, share: int, replies: dict[int, Reply]) -> None:
    """Begin the next answers of a stream; what is refused of its instances has its error."""
    while stream.waiting and len(stream.running) + len(replies) < share:
        instance = stream.waiting.popleft()
        prepared = predictor._tried(predictor._alone, instance)
        if isinstance(prepared, Exception):
            replies[instance.position] = _reply(predictor, prepared, stream)
        else:
            predictor.telemetry.instances += 1
            is_shown = not stream.wants_whole_answers
            stream.running[instance.position] = predictor.generation(prepared, is_shown=is_shown)


def _finish(
    predictor: Any,
    streams: Sequence[Stream],
    current: list[tuple[int, int, Generation]],
    replies: list[dict[int, Reply]],
) -> list[list[Item]]:
    """Put the answers that are done into `replies`; the pieces of each stream."""
    deltas: list[list[Item]] = [[] for _ in streams]
    for place, position, one in current:
        stream = streams[place]
        assert isinstance(stream, GenerationStream)
        if not stream.wants_whole_answers and not one.failure and (delta := one.delta()):
            deltas[place].append(Item(position, reply_of({"delta": delta}, stream.request_id)))
        if one.is_done:
            del stream.running[position]
            replies[place][position] = _reply(predictor, one.answer(), stream)
    return deltas


def _reply(predictor: Any, answer: Any, stream: Stream) -> Reply:
    return reply_of(answer, stream.request_id, predictor.max_answer_bytes)
