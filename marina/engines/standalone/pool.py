"""The worker processes of a server: all have the same versions, and one that dies is replaced."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from marina.engines.gateway.management import ManagementFailure
from marina.engines.standalone.channel import ActionFailed, Disconnected
from marina.engines.standalone.version import Version
from marina.engines.standalone.worker_process import WorkerProcess, WorkerSettings

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds before a worker that died is replaced
HEALTHY_SECONDS = 60.0
SILENT_SECONDS = 10.0  # beyond the longest responseTimeout, a worker that says nothing is ended
STOP_SECONDS = 15.0


class WorkerPool:
    """Workers that share a socket. `registered` gives what a new one has to load."""

    def __init__(
        self, settings: WorkerSettings, store: Path, registered: Callable[[], Collection[Version]]
    ) -> None:
        self.settings, self.store, self.registered = settings, store, registered
        self.workers: list[WorkerProcess] = []
        self.is_ready = True  # what the workers say of the server; see `set_ready` and `drain`
        self.change = asyncio.Lock()  # of what is registered, and of who is a worker: one at a time
        self._tasks: set[asyncio.Task[Any]] = set()
        self._numbers = 0
        self._is_stopping = False

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let all workers answer what they have accepted, for at most `seconds`, and end them."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(worker.stop(seconds) for worker in self.workers))

    async def set_ready(self) -> None:
        """Have all workers say that the server is ready."""
        self.is_ready = True
        await self.tell_all("set_ready")

    async def drain(self) -> None:
        """Have all workers say that the server is not ready, and answer as before; each connection ends
        behind its next answer, so that its caller finds another server.
        """
        self.is_ready = False
        await self.tell_all("drain")

    async def grow(self, count: int) -> None:
        """Have at least `count` workers, with all that is registered."""
        while len(self.workers) < count:
            self.workers.append(await self._new_worker())

    def shrink(self, count: int) -> None:
        """Have at most `count` workers: the newest end when they have answered what they have accepted."""
        while len(self.workers) > count:
            worker = self.workers.pop()
            worker.is_stopping = True
            self._begin(worker.stop(STOP_SECONDS))

    async def tell_all(self, action: str, **arguments: Any) -> None:
        """Have all workers do something that can't fail but by their end."""
        for worker in list(self.workers):
            with suppress(Disconnected):
                await worker.call(action, **arguments)

    async def load_everywhere(self, version: Version, archive: Path, count: int) -> None:
        """Load on all workers, which become at least `count`, and then show it on all; on a failure on none.
        Raises ManagementFailure.

        While the workers answer, a process of its own tries the archive first: one that crashes or hangs
        takes no worker down.
        """
        if await self._has_callers():
            await self._try(version, archive)
        await self.grow(count)
        workers = list(self.workers)
        try:
            await asyncio.gather(*(_load(worker, version, archive) for worker in workers))
        except ManagementFailure:
            for worker in workers:
                with suppress(Disconnected, ActionFailed):
                    await worker.call("discard", **version.identity)
            raise
        for worker in workers:
            with suppress(Disconnected):  # one that has just died is replaced, with this version
                await worker.call("activate", **version.identity, is_default=version.is_default)

    async def _has_callers(self) -> bool:
        """Whether any worker has answered a request."""
        for worker in self.workers:
            with suppress(Disconnected):
                if await worker.call("ping"):
                    return True
        return False

    async def _try(self, version: Version, archive: Path) -> None:
        alone = replace(self.settings, listening=None, grpc_address=None, tokens=False)
        trial = WorkerProcess(self._next_number(), alone)
        try:
            await trial.start()
            await _load(trial, version, archive)
        except Disconnected as error:
            raise _failed(version, "the process that tried it did not start") from error
        finally:
            await trial.stop(STOP_SECONDS)

    async def _new_worker(self) -> WorkerProcess:
        """A worker that has what is registered. Raises ManagementFailure or Disconnected."""
        worker = WorkerProcess(self._next_number(), self.settings)
        try:
            await worker.start()
            for version in self.registered():
                if version.min_workers:
                    await _load(worker, version, self.store / version.archive)
                    await worker.call("activate", **version.identity, is_default=version.is_default)
                else:
                    await worker.call("set_idle", **version.identity, is_default=version.is_default)
            for version in self.registered():
                if version.shadow_percent:
                    await worker.call("set_shadow", **version.identity, percent=version.shadow_percent)
            await worker.call("accept", is_ready=self.is_ready)
        except BaseException:
            worker.kill()
            raise
        worker.status = "READY"
        self._begin(self._watch(worker))
        return worker

    async def _watch(self, worker: WorkerProcess) -> None:
        """Replace a worker when it dies, and end one that hangs."""
        # no limit: one that hangs is killed below
        ending = asyncio.ensure_future(worker.wait())
        while not (await asyncio.wait({ending}, timeout=1))[0]:
            self._end_if_silent(worker)
        if not (worker.is_stopping or self._is_stopping):
            code = ending.result()
            logger.error("worker %d (process %d) ended with code %d", worker.number, worker.pid, code)
            await self._replace(worker)

    def _end_if_silent(self, worker: WorkerProcess) -> None:
        limit = max((version.response_seconds for version in self.registered()), default=0)
        silent = time.monotonic() - worker.alive_at
        if silent > limit + SILENT_SECONDS:
            logger.error("worker %d says nothing for %.0f s: it is ended", worker.number, silent)
            worker.kill()

    async def _replace(self, dead: WorkerProcess) -> None:
        dead.status = "UNLOADED"
        lived = time.time() - dead.started_at
        pause = 0.0 if lived > HEALTHY_SECONDS else FIRST_PAUSE
        while not self._is_stopping:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            async with self.change:
                if dead not in self.workers:
                    return
                try:
                    new = await self._new_worker()
                except (ManagementFailure, Disconnected, TimeoutError, OSError) as error:
                    logger.error("worker %d could not be replaced: %s", dead.number, error)
                    pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, pause) * 2)
                    continue
                self.workers[self.workers.index(dead)] = new
                logger.info("worker %d takes the place of worker %d", new.number, dead.number)
                return

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers


async def _load(worker: WorkerProcess, version: Version, archive: Path) -> None:
    """Have one worker load a version. Raises ManagementFailure."""
    try:
        async with asyncio.timeout(version.startup_seconds):
            loaded = await worker.call(
                "load", archive=str(archive), name=version.name, settings=version.settings
            )
            version.config = loaded["config"]
    except TimeoutError:
        worker.kill()  # nothing else ends a thread that hangs
        raise _failed(
            version, f"it was not ready within {version.startup_seconds:.0f} s (startupTimeout)"
        ) from None
    except ActionFailed as error:
        raise _failed(version, str(error)) from None
    except Disconnected:
        # no limit: its channel is closed, so that it ends
        code = await worker.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise _failed(version, f"the process {how} while it loaded") from None


def _failed(version: Version, reason: str) -> ManagementFailure:
    logger.error("%s %s did not come up: %s", version.name, version.version, reason)
    return ManagementFailure(
        500,
        "InternalServerException",
        f"Failed to start workers for model {version.name} version: {version.version}: {reason}",
    )
