"""Threads that read the instances of one batch side by side: decoding and resizing pictures don't hold the
interpreter.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Barrier
from time import perf_counter
from typing import Any, NamedTuple

from ..protocol.requests import Instance, Prepared
from .telemetry import Telemetry

# of one instance; a picture of 60 x 60 takes less, and gains nothing by it
WORTH_READING_APART_SECONDS = 0.001


class Read(NamedTuple):
    """One instance, ready for the batch, and the seconds of its two stages."""

    prepared: Prepared
    decode: float
    preprocess: float


class DecodePool:
    """`threads` threads with the two hooks of a handler, whose instances have nothing to do with each
    other.
    """

    def __init__(
        self, threads: int, decode: Callable[[Instance], Any], preprocess: Callable[[Any, Instance], Prepared]
    ) -> None:
        self.pool = ThreadPoolExecutor(threads, "reader")
        here = Barrier(threads)
        # one that can't be started later would leave a batch half started
        wait([self.pool.submit(here.wait) for _ in range(threads)])
        self.decode, self.preprocess = decode, preprocess

    def begin(self, instances: Sequence[Instance]) -> "list[Future[Read]]":
        """Hand them to the threads."""
        return [self.pool.submit(self._read, instance) for instance in instances]

    def wait(self, reads: "Sequence[Future[Read]]", telemetry: Telemetry) -> None:
        """Until all are read or have failed, so that nobody writes into a batch later. The time is added to
        the two stages, in their proportion.
        """
        started = perf_counter()
        wait(reads)
        waited = perf_counter() - started
        read = [one.result() for one in reads if not one.exception()]
        decode, preprocess = sum(one.decode for one in read), sum(one.preprocess for one in read)
        share = decode / (decode + preprocess) if read else 1.0
        telemetry.decode.seconds += share * waited
        telemetry.preprocess.seconds += (1 - share) * waited

    def _read(self, instance: Instance) -> Read:
        started = perf_counter()
        item = self.decode(instance)
        decoded = perf_counter()
        prepared = self.preprocess(item, instance)
        return Read(prepared, decoded - started, perf_counter() - decoded)
