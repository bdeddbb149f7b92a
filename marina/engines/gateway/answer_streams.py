"""Requests whose answers leave one after another, and the steps in which a model computes them.

All streams of a model advance together, a few instances at a time: a step takes about STEP_SECONDS, or one
instance where that takes longer. Between two steps a batch of ordinary requests is computed, so that nobody
waits for a stream of thousands. A stream whose reader is slow rests until there is room in its buffer.

Streams in the background, those of jobs, advance when nothing else is to be done. While other requests come,
they rest nine times as long as a step takes: one request in ten finds the model busy with a job, and waits
for one step at most.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from handlers.protocol.errors import ModelError, NotSupported
from handlers.protocol.events import Item
from handlers.protocol.replies import Reply, reply_of
from handlers.protocol.requests import Row
from handlers.runtime.predictor import Predictor
from handlers.runtime.streams import Stream
from handlers.runtime.telemetry import STAGES, Telemetry
from marina.engines.gateway.failures import FAILED, ServiceUnavailable

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.02
BUFFER_ITEMS, BUFFER_BYTES = 64, 1_000_000
BUSY_SECONDS = 1.0  # since the last request of a caller; jobs rest meanwhile
REST = 9  # times the length of a step
TIMER_SECONDS = 0.002  # a timer may be early by so much


class Interrupted(Exception):
    """A stream in the background was ended, since its model or the process ends; it can be opened again."""


class Activity:
    """When the last request of a caller came to this process, in the event loop's seconds."""

    def __init__(self) -> None:
        self.seen_at = float("-inf")


class AnswerStream:
    """The answers to one request, one after another.

    Its methods are called in the event loop's thread. Whoever reads no further must `end` it.
    """

    def __init__(
        self, stream: Stream, row: Row, wake: Callable[[], None], since: float, is_background: bool
    ) -> None:
        self.stream, self.row, self.since, self.is_background = stream, row, since, is_background
        self.telemetry: Telemetry | None = None  # of the steps in which it took part
        self.started: float | None = None  # when its first step began, in the event loop's seconds
        self.is_ended = stream.refusal is not None  # nothing more is computed for it
        self.failure: Exception | None = None
        self.failed: Reply | None = None  # what a request that wants whole answers has got instead
        self._items: list[Item] = []
        self._bytes = 0
        self._changed, self._wake = asyncio.Event(), wake

    async def next_items(self) -> list[Item]:
        """The items that are there, at least one; none at the end. Raises ModelError where the model fails,
        Interrupted.
        """
        while not self._items:
            if self.failure:
                raise self.failure
            if self.is_ended:
                return []
            self._changed.clear()
            # no limit: the engine ends a worker whose step hangs
            await self._changed.wait()
        items, had_room = self._items, self.has_room
        self._items, self._bytes = [], 0
        if not had_room:
            self._wake()
        return items

    @property
    def has_room(self) -> bool:
        """Whether its reader keeps up."""
        return len(self._items) < BUFFER_ITEMS and self._bytes < BUFFER_BYTES

    def take(self, items: Sequence[Item]) -> None:
        """Hand items to the reader; the last ones end it."""
        self._items += items
        if self.stream.wants_whole_answers and self.failed is None:
            self.failed = next((item.reply for item in items if item.reply.error), None)
        self._bytes += sum(len(item.reply.content) for item in items)
        if self.stream.is_done:
            self.is_ended = True
        self._changed.set()

    def end(self, failure: Exception | None = None) -> None:
        """Compute nothing more for it; the reader gets what is there, and then the failure."""
        if self.is_ended:
            return
        self.is_ended, self.failure = True, failure
        self._changed.set()
        self._wake()

    def count(self, telemetry: Telemetry) -> None:
        """Add the stages of a step that it took part in."""
        if self.telemetry is None:
            self.telemetry = Telemetry(telemetry.name, telemetry.version)
        for stage in STAGES:
            getattr(self.telemetry, stage).seconds += getattr(telemetry, stage).seconds
        self.telemetry.instances += telemetry.instances


class Step(NamedTuple):
    """What one step has computed: per stream its items, or the error that ends it."""

    outcomes: list[list[Item] | Exception]
    seconds: float


class StreamLane:
    """The streams of one model, and which of them advance next. `wake` is called when that may have
    changed.
    """

    def __init__(self, predictor: Predictor, name: str, most: int, wake: Callable[[], None]) -> None:
        self.predictor, self.name, self.most, self.wake = predictor, name, most, wake
        self.activity = Activity()  # of this process, once the model is in its table
        self.streams: deque[AnswerStream] = deque()  # who has waited for longest stands in front
        self.background: deque[AnswerStream] = deque()
        self.rest_until = 0.0  # for those in the background, in the event loop's seconds
        self.is_closed = False  # no further stream is opened
        self._opening = 0  # streams whose request is being read
        self._size = 1  # instances in a step

    async def open(
        self,
        row: Row,
        request_id: str,
        is_background: bool,
        max_instances: int,
        is_whole: bool = False,
    ) -> AnswerStream:
        """A stream whose request was read, in a thread beside the model's: one of thousands takes a while.
        Those in the background, and where it `is_whole`, have whole answers, no pieces.

        Raises ServiceUnavailable when there are as many as may be, or none any more; NotSupported for an
        archive without them.
        """
        if not hasattr(self.predictor, "advance"):
            raise NotSupported(
                f"the archive of {self.name} was built before streams and jobs; build and register it "
                "again: marina archive, marina register"
            )
        lane = self.background if is_background else self.streams
        if len(lane) + self._opening >= self.most:
            raise ServiceUnavailable(f"{self.name} has {self.most} open streams; try again in a second")
        since = asyncio.get_running_loop().time()
        self._opening += 1
        try:
            opened = await asyncio.to_thread(self._opened, row, request_id, max_instances)
        finally:
            self._opening -= 1
        opened.wants_whole_answers = is_background or is_whole
        stream = AnswerStream(opened, row, self.wake, since, is_background)
        if self.is_closed:
            raise ServiceUnavailable(f"{self.name} was unregistered meanwhile; try again in a second")
        if not stream.is_ended:
            lane.append(stream)
            self.wake()
        return stream

    def remove_ended(self) -> list[AnswerStream]:
        """Forget the streams that have ended, and return them."""
        ended = [stream for stream in (*self.streams, *self.background) if stream.is_ended]
        for stream in ended:
            (self.background if stream.is_background else self.streams).remove(stream)
        return ended

    def next_streams(self, now: float, is_idle: bool) -> list[AnswerStream]:
        """Those that the next step is for; in the background only if nobody waits."""
        ready = [stream for stream in self.streams if stream.has_room]
        if ready or not is_idle or now < self.rest_until:
            return ready
        return [stream for stream in self.background if stream.has_room]

    def step(self, streams: Sequence[AnswerStream]) -> Step:
        """Compute one step, in the model's thread."""
        started = time.perf_counter()
        outcomes = self._advanced([stream.stream for stream in streams], self._size)
        return Step(outcomes, time.perf_counter() - started)

    def finish(self, streams: Sequence[AnswerStream], step: Step, now: float) -> None:
        """Hand out what a step has computed."""
        for stream, outcome in zip(streams, step.outcomes, strict=True):
            stream.count(self.predictor.telemetry)
            if stream.started is None:
                stream.started = now - step.seconds
            if isinstance(outcome, Exception):
                stream.end(outcome)
            elif not stream.is_ended:
                stream.take(outcome)
        self._resize(sum(len(found) for found in step.outcomes if isinstance(found, list)), step.seconds)
        if streams[0].is_background:
            self._rest(step.seconds, now)
        else:
            self.activity.seen_at = now
            self.streams.rotate(-1)

    def shut(self) -> None:
        """Open no further streams, and end those in the background."""
        self.is_closed = True
        for stream in list(self.background):
            stream.end(Interrupted())

    def _rest(self, seconds: float, now: float) -> None:
        """Let those in the background rest after a step, if callers are about."""
        if now - self.activity.seen_at < BUSY_SECONDS:
            self.rest_until = now + REST * seconds
            asyncio.get_running_loop().call_later(REST * seconds + TIMER_SECONDS, self.wake)

    def _opened(self, row: Row, request_id: str, max_instances: int) -> Stream:
        try:
            return self.predictor.open_stream(row, request_id, max_instances)
        except Exception:  # a fault of the handler's, of whatever class
            logger.exception("%s failed on the beginning of a stream", self.name)
            return Stream(request_id, refusal=reply_of(ModelError(FAILED), request_id))

    def _advanced(self, streams: Sequence[Stream], size: int) -> list[list[Item] | Exception]:
        try:
            return list(self.predictor.advance(streams, size))
        except Exception:  # one of them may be to blame
            logger.exception("%s failed on a step of %d streams", self.name, len(streams))
        if len(streams) > 1:
            return [self._advanced([stream], size)[0] for stream in streams]
        return [ModelError(FAILED)]

    def _resize(self, computed: int, seconds: float) -> None:
        """Take more instances at a time while that is quick, fewer when it is slow."""
        if seconds > STEP_SECONDS:
            self._size = max(1, self._size // 2)
        elif seconds < STEP_SECONDS / 2 and computed >= self._size:
            self._size = min(2 * self._size, int(self.predictor.metadata["max_batch"]))
