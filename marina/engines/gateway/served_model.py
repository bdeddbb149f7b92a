"""A version that answers in this process and gathers its own batches.

A request that comes when nothing is computing goes at once, with all that arrived in the same turn of the
event loop; what arrives while a batch computes is the next batch, up to batchSize. Nobody waits for company:
maxBatchDelay, which TorchServe needs for that, is accepted and has no effect here.

A model that answers within 2 ms computes on the event loop's thread, since a hand-over would cost more than
it saves; a larger one, and a batch with a large body, in a thread of its own, while the loop goes on
collecting.
"""

import asyncio
import logging
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from handlers.protocol.errors import BrokenArchive, ModelError
from handlers.protocol.replies import Reply, reply_of
from handlers.protocol.requests import MAX_INSTANCES, Row
from handlers.runtime.predictor import Predictor
from handlers.runtime.telemetry import Telemetry
from marina.core.errors import CallError
from marina.engines.gateway.answer_streams import AnswerStream, Interrupted, Step, StreamLane
from marina.engines.gateway.devices import device_of
from marina.engines.gateway.failures import FAILED, ServiceUnavailable, WaitedTooLong
from marina.engines.gateway.unpacking import model_config, unpack, with_settings
from marina.engines.gateway.whole_answers import answer_in_steps
from marina.packaging.handler_package import load_predictor

logger = logging.getLogger(__name__)

DEFAULTS = {"batchSize": 1, "jobQueueSize": 100, "clientTimeoutInMills": 30_000}
WORTH_A_THREAD_SECONDS = 0.002
REPORT_SECONDS = 0.1


class Waiting(NamedTuple):
    """A request that was accepted: `since` when, in the event loop's seconds."""

    row: Row
    request_id: str
    since: float
    reply: "asyncio.Future[Reply]"
    is_large: bool


class Batch(NamedTuple):
    """A batch that was answered: `started` when, in the event loop's seconds; `telemetry` as it was then."""

    requests: Sequence[Waiting]
    replies: Sequence[Reply]
    started: float
    telemetry: Telemetry


class ServedModel:
    """An archive that is loaded in this process; made by `load`.

    All but `load` and `close` is called in the event loop's thread. `settings` of `load` override keys of the
    archive's model-config.yaml, by TorchServe's names; batchSize, jobQueueSize and clientTimeoutInMills count
    here, responseTimeout for who watches `busy_since`.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: Mapping[str, Any],
        *,
        archive: str = "",
        folder: Path | None = None,
        ready: Mapping[str, Any] | None = None,
        in_thread: bool = False,
    ) -> None:
        self.predictor, self.config, self.archive, self.folder = predictor, dict(config), archive, folder
        self.name, self.version = predictor.metadata["name"], predictor.metadata["version"]
        self.ready, self.in_thread, self.started_at = dict(ready or {}), in_thread, time.time()
        self.batch_size = _positive(config, "batchSize")
        self.queue_size = _positive(config, "jobQueueSize")
        self.patience_seconds = _positive(config, "clientTimeoutInMills") / 1000
        self.observer: Callable[[ServedModel, Sequence[Batch]], None] | None = None
        self.busy_since: float | None = None  # monotonic seconds at which the batch under way began
        self._queue: deque[Waiting] = deque()
        self._computing = 0  # requests of the batch under way
        self._is_active = False  # whether a batch is computing, or about to
        self._expiry: asyncio.TimerHandle | None = None
        self._unreported: list[Batch] = []
        self._thread = ThreadPoolExecutor(1, f"{self.name}-{self.version}")
        self.lane = StreamLane(predictor, self.name, self.queue_size, self._wake)
        self._is_streams_turn = False
        self._in_steps = getattr(predictor, "answers_in_pieces", False)  # archives of before say nothing

    @classmethod
    def load(cls, archive: Path, folder: Path, settings: Mapping[str, Any]) -> "ServedModel":
        """Unpack `archive` into `folder`, load it and answer its golden samples; takes seconds.

        Raises CallError for a file that is no archive or settings that can't be, BrokenArchive for one that
        was changed, fails or answers differently; `folder` is gone then.
        """
        predictor = None
        try:
            unpack(archive, folder)
            config = with_settings({**DEFAULTS, **model_config(folder)}, settings)
            predictor = load_predictor(folder)
            ready = predictor.start(folder, config, device_of(config))
            in_thread = _lone_seconds(predictor) > WORTH_A_THREAD_SECONDS
            return cls(
                predictor, config, archive=archive.name, folder=folder, ready=ready, in_thread=in_thread
            )
        except Exception as error:
            if predictor:
                _forget(predictor)
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, CallError):
                raise
            # also what the archive's own code raises, whose BrokenArchive is another class
            raise BrokenArchive(f"{archive.name} does not come up: {error}") from error

    @property
    def pending(self) -> int:
        """Requests that were accepted and not answered yet."""
        return len(self._queue) + self._computing + len(self.lane.streams)

    async def answer(self, row: Row, request_id: str, is_large: bool = False) -> Reply:
        """The reply to one request, which leaves the queue when its caller is cancelled.

        Raises ServiceUnavailable when the queue is full, WaitedTooLong after clientTimeoutInMills in it.
        """
        loop = asyncio.get_running_loop()
        if self._in_steps and (whole := await answer_in_steps(self.lane, row, request_id)):
            return whole
        if len(self._queue) >= self.queue_size:
            self._make_room()
        reply: asyncio.Future[Reply] = loop.create_future()
        now = self.lane.activity.seen_at = loop.time()
        self._queue.append(Waiting(row, request_id, now, reply, is_large))
        if not self._is_active:
            self._is_active = True
            loop.call_soon(self._start_batch, loop)
        elif self._expiry is None:
            self._expiry = loop.call_later(self.patience_seconds, self._expire, loop)
        return await reply

    async def stream(
        self,
        row: Row,
        request_id: str,
        *,
        is_background: bool = False,
        max_instances: int = MAX_INSTANCES,
    ) -> AnswerStream:
        """The answers to one request, one after another; those in the background take idle time alone.

        Raises ServiceUnavailable, NotSupported.
        """
        stream = await self.lane.open(row, request_id, is_background, max_instances)
        if stream.is_ended:  # refused
            self._report_later(asyncio.get_running_loop(), _batch_of(stream))
        return stream

    async def drain(self) -> None:
        """Return when all that was accepted is answered and reported; what is in the background ends."""
        self.lane.shut()
        while self._is_active or self.lane.streams:
            await asyncio.sleep(0.005)
        self._report()

    def close(self) -> None:
        """End the threads, drop the modules of the archive's package and remove its folder."""
        self._report()
        if self._expiry:
            self._expiry.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        _forget(self.predictor)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self) -> None:
        """Drop whose callers have gone. Raises ServiceUnavailable if the queue is full all the same."""
        self._queue = deque(waiting for waiting in self._queue if not waiting.reply.done())
        if len(self._queue) >= self.queue_size:
            raise ServiceUnavailable(
                f"the queue of {self.name} is full, {self.queue_size} requests wait; try again in a second"
            )

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer 504 to who has waited for too long; look again when it may be the next one's turn."""
        self._expiry = None
        oldest = loop.time() - self.patience_seconds
        while self._queue and (self._queue[0].since <= oldest or self._queue[0].reply.done()):
            waiting = self._queue.popleft()
            if not waiting.reply.done():
                waiting.reply.set_exception(WaitedTooLong(self.patience_seconds))
        if self._queue:
            self._expiry = loop.call_later(self._queue[0].since - oldest, self._expire, loop)

    def _wake(self) -> None:
        """Look for work, unless that is about to happen."""
        if not self._is_active:
            self._is_active = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._start_batch, loop)

    def _start_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a batch of requests, or a step of streams; they take turns."""
        has_streams = bool(self.lane.streams or self.lane.background)
        if has_streams:
            for stream in self.lane.remove_ended():
                if not isinstance(stream.failure, Interrupted):
                    self._report_later(loop, _batch_of(stream))
        stepped = has_streams and self._is_streams_turn and self._start_step(loop)
        self._is_active = stepped or self._start_requests(loop) or (has_streams and self._start_step(loop))

    def _start_requests(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Begin a batch of requests; whether there was one."""
        batch: list[Waiting] = []
        in_thread = self.in_thread
        while self._queue and len(batch) < self.batch_size:
            waiting = self._queue.popleft()
            if not waiting.reply.done():
                batch.append(waiting)
                in_thread |= waiting.is_large
        if not batch:
            return False
        self._computing, self.busy_since, started = len(batch), time.monotonic(), loop.time()
        self._is_streams_turn = True
        rows, ids = [waiting.row for waiting in batch], [waiting.request_id for waiting in batch]
        if in_thread:
            computing = loop.run_in_executor(self._thread, self._replies, rows, ids)
            computing.add_done_callback(lambda done: self._finish_batch(loop, batch, done.result(), started))
        else:
            self._finish_batch(loop, batch, self._replies(rows, ids), started)
        return True

    def _start_step(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Begin a step of streams; whether there was one."""
        self._is_streams_turn = False
        streams = self.lane.next_streams(loop.time(), is_idle=not self._queue)
        if not streams:
            return False
        self.busy_since = time.monotonic()

        def finish(step: "asyncio.Future[Step]") -> None:
            self.busy_since = None
            self.lane.finish(streams, step.result(), loop.time())
            self._start_batch(loop)

        loop.run_in_executor(self._thread, self.lane.step, streams).add_done_callback(finish)
        return True

    def _replies(self, rows: list[Row], ids: list[str]) -> list[Reply]:
        """What each caller gets, whatever the predictor raises."""
        try:
            return self.predictor.reply(rows, ids)
        except Exception:  # a fault of the handler's; one request may be to blame
            logger.exception("%s %s failed on a batch of %d", self.name, self.version, len(rows))
        if len(rows) > 1:
            return [self._replies([row], [own])[0] for row, own in zip(rows, ids, strict=True)]
        return [reply_of(ModelError(FAILED), ids[0])]

    def _finish_batch(
        self, loop: asyncio.AbstractEventLoop, batch: list[Waiting], replies: list[Reply], started: float
    ) -> None:
        """Hand out the replies, and begin the next batch when they are on their way."""
        for waiting, reply in zip(batch, replies, strict=True):
            if not waiting.reply.done():
                waiting.reply.set_result(reply)
        self._computing, self.busy_since = 0, None
        self._report_later(loop, Batch(batch, replies, started, _copied(self.predictor.telemetry)))
        loop.call_soon(self._start_batch, loop)

    def _report_later(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        if not self._unreported:
            loop.call_later(REPORT_SECONDS, self._report)
        self._unreported.append(batch)

    def _report(self) -> None:
        """Log and count what was answered lately; many batches at once cost a third of one by one."""
        batches, self._unreported = self._unreported, []
        try:
            if batches:
                logger.info("\n".join(map(_line, batches)))
            if batches and self.observer:
                self.observer(self, batches)
        except Exception:  # nobody's answer depends on it
            logger.exception("batches of %s %s were not reported", self.name, self.version)


def _positive(config: Mapping[str, Any], key: str) -> int:
    """A setting that counts something. Raises CallError for anything but a whole number from 1."""
    value = config.get(key) or DEFAULTS[key]
    if type(value) is not int or value < 1:
        raise CallError(f"{key} must be a whole number from 1, not {value!r}")
    return value


def _lone_seconds(predictor: Predictor) -> float:
    """How long a golden sample takes by itself, at best."""
    sample = predictor.export.samples[0]
    headers = {"content-type": sample.get("content_type", "")}
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        predictor.reply([({"body": sample["body"]}, headers)], ["golden"])
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _forget(predictor: Predictor) -> None:
    """End the threads that read for a predictor, and drop the modules of its archive."""
    if predictor.readers:
        predictor.readers.pool.shutdown(wait=False)
    package = type(predictor).__module__.partition(".")[0]
    if package != "handlers":  # this program's own
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]


def _batch_of(stream: AnswerStream) -> Batch:
    """A stream that has ended, as a request that was answered by itself."""
    request_id = stream.stream.request_id
    is_failed = isinstance(stream.failure, ModelError)
    refusal = stream.stream.refusal or stream.failed
    reply = refusal or (reply_of(stream.failure, request_id) if is_failed else Reply(b""))
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    waiting = Waiting(stream.row, request_id, stream.since, answered, is_large=False)
    started = stream.since if stream.started is None else stream.started
    return Batch([waiting], [reply], started, stream.telemetry or Telemetry("", ""))


def _copied(telemetry: Telemetry) -> Telemetry:
    """The telemetry as it is now, of whichever archive; the next batch starts it again, with new stages."""
    copied = object.__new__(Telemetry)  # copy.copy takes five times as long
    copied.__dict__.update(telemetry.__dict__)
    return copied


def _line(batch: Batch) -> str:
    """The batch's line of the log, as the model's own telemetry writes it."""
    ids = [waiting.request_id for waiting in batch.requests]
    return batch.telemetry.batch_line(ids, [waiting.row[1] for waiting in batch.requests], batch.replies)
