"""A worker as the controller sees it: its process, the channel to it, and what it is doing."""

import asyncio
import json
import os
import socket
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from marina.core.exec_with_parent import PYTHON_ARGUMENTS
from marina.engines.gateway.devices import WORKER_NUMBER
from marina.engines.standalone.channel import Channel, Disconnected

START_SECONDS = 60.0
KILL_SECONDS = 5.0

Status = Literal["LOADING", "READY", "UNLOADED"]


@dataclass(frozen=True)
class WorkerSettings:
    """What all workers of a server are started with."""

    folder: Path  # of the server
    listening: socket.socket | None  # without one a worker answers nobody, and only tries what it is given
    grpc_address: str | None  # "host:port"
    tokens: bool
    has_jobs: bool = True
    logs_to_stdout: bool = False  # as JSON, instead of to logs/models.log

    def log(self) -> AbstractContextManager[Any]:
        """Where a worker writes; None is this process's own stdout and stderr."""
        return nullcontext() if self.logs_to_stdout else (self.folder / "logs" / "models.log").open("ab")


@dataclass(frozen=True)
class WorkerOptions:
    """The same on a worker's command line: paths are texts, file descriptors are inherited."""

    channel: int
    listening: int | None
    grpc_address: str | None
    folder: str
    tokens: bool
    has_jobs: bool
    logs_json: bool


class WorkerProcess:
    """A process that answers requests."""

    def __init__(self, number: int, settings: WorkerSettings) -> None:
        self.number, self.settings, self.started_at = number, settings, time.time()
        self.status: Status = "LOADING"
        self.is_stopping = False
        self.alive_at = time.monotonic()
        self.channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 before it is started."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start it and wait until it takes calls. Raises Disconnected when it ends before."""
        ours, theirs = socket.socketpair()
        settings, channel = self.settings, theirs.fileno()
        listening = settings.listening.fileno() if settings.listening else None
        options = WorkerOptions(
            channel,
            listening,
            settings.grpc_address,
            str(settings.folder),
            settings.tokens,
            settings.has_jobs,
            settings.logs_to_stdout,
        )
        command = [sys.executable, "-m", "marina.engines.standalone.worker", json.dumps(asdict(options))]
        with settings.log() as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *PYTHON_ARGUMENTS, str(os.getpid()), *command),
                cwd=settings.folder,
                env={**os.environ, WORKER_NUMBER: str(self.number)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[channel, *([listening] if listening is not None else [])],
                start_new_session=True,  # Ctrl-C must not reach it: it is stopped in order
            )
        theirs.close()
        self.channel = await Channel.open(ours)
        self._serving = asyncio.create_task(self.channel.serve({"alive": self._alive}))
        async with asyncio.timeout(START_SECONDS):
            await self.channel.call("ping")

    async def call(self, action: str, **arguments: Any) -> Any:
        """See `Channel.call`."""
        if self.channel is None:
            raise Disconnected(f"worker {self.number} is not started")
        return await self.channel.call(action, **arguments)

    async def wait(self) -> int:
        """Wait for its end; its exit code, negative for the signal that killed it."""
        assert self._process
        # no limit: whoever waits kills it where it hangs
        code = await self._process.wait()
        if self._serving:
            await asyncio.shield(self._serving)
        return code

    async def stop(self, seconds: float) -> None:
        """Let it answer what it has accepted, for at most `seconds`, and end it."""
        self.is_stopping, self.status = True, "UNLOADED"
        if self._process is None:
            return
        with suppress(ConnectionError, ProcessLookupError, asyncio.TimeoutError):
            async with asyncio.timeout(seconds):
                await self.call("stop")
                await self._process.wait()
        self.kill()
        async with asyncio.timeout(KILL_SECONDS):
            await self._process.wait()

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def memory_bytes(self) -> int:
        """Its resident memory; 0 once it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.pid else 0
        except psutil.Error:
            return 0

    async def _alive(self) -> None:
        self.alive_at = time.monotonic()
