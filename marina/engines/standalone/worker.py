"""A process that answers: all registered versions, the gateway in front of them, and uvicorn.

    python -m marina.engines.standalone.worker OPTIONS

OPTIONS are `WorkerOptions` as JSON. It does what the controller asks for over their channel, and ends when
that is closed. A batch that takes longer than the model's responseTimeout ends the process: what hangs in a
C library can't be ended otherwise. The controller starts another.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from marina.engines.gateway.app import Gateway
from marina.engines.gateway.bodies import Limits
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.runner import JobRunner
from marina.engines.gateway.jobs.service import Jobs
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.models import Models
from marina.engines.gateway.optional_grpc import GRACE_SECONDS, answer_grpc
from marina.engines.gateway.served_model import Batch, ServedModel
from marina.engines.gateway.shadow import Shadow
from marina.engines.gateway.tokens import Tokens
from marina.engines.standalone import http_server
from marina.engines.standalone.channel import Actions, Channel
from marina.engines.standalone.http_server import HttpServer
from marina.engines.standalone.logs import log_to_stdout
from marina.engines.standalone.worker_process import WorkerOptions

logger = logging.getLogger(__name__)

ALIVE_SECONDS = 1.0
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep theirs, so that they close first
HUNG = 70  # exit code


class Worker:
    """What the controller can ask for; `models` is the table that the gateway answers from."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.folder = Path(options.folder)
        self.models, self.metrics = Models(), Metrics()
        self.jobs = self._open_jobs() if options.has_jobs else None
        tokens = Tokens.from_file(self.folder / "key_file.json") if options.tokens else Tokens.open()
        self.gateway = Gateway(self.models, tokens, Limits(), self.metrics, self.jobs)
        self._count_batches(self.metrics)
        self.server = HttpServer(self.gateway, timeout_keep_alive=KEEP_ALIVE_SECONDS, backlog=BACKLOG)
        self.accepting, self.stopped = asyncio.Event(), asyncio.Event()
        self.requests = 0  # answered so far
        self._staged: dict[tuple[str, str], ServedModel] = {}
        self._loaded = 0
        self._scratch = Path(tempfile.mkdtemp(prefix="models-"))
        self.actions: Actions = {
            "ping": self.ping,
            "accept": self.accept,
            "set_ready": self.set_ready,
            "drain": self.drain,
            "load": self.load,
            "activate": self.activate,
            "discard": self.discard,
            "set_default": self.set_default,
            "set_idle": self.set_idle,
            "remove": self.remove,
            "describe": self.describe,
            "set_shadow": self.set_shadow,
            "shadow_tally": self.shadow_tally,
            "reopen_log": self.reopen_log,
            "stop": self.stop,
        }

    async def ping(self) -> int:
        """How many requests were answered so far."""
        return self.requests

    async def accept(self, is_ready: bool) -> None:
        """Take connections from now on: all that is registered has been loaded. `is_ready` says whether the
        server is.
        """
        self.gateway.is_ready = is_ready
        self.accepting.set()

    async def set_ready(self) -> None:
        """Say that the server is ready."""
        self.gateway.is_ready = True

    async def drain(self) -> None:
        """Say that the server is not ready, and end each connection behind its next answer."""
        self.gateway.is_ready = False
        self.server.end_connections()

    async def load(self, archive: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Load a version to serve as `name`, and answer its golden samples; nobody reaches it before
        `activate`.
        """
        self._loaded += 1
        model = await asyncio.to_thread(
            ServedModel.load, Path(archive), self._scratch / str(self._loaded), settings
        )
        if name != model.name:
            model.predictor.rename(name)
            model.name = name
        model.predictor.telemetry.log("ready", model.ready)
        self._staged[model.name, model.version] = model
        gc.collect()
        gc.freeze()  # what exists now stays; scanning it for garbage again and again would delay requests
        return {"name": model.name, "version": model.version, "config": model.config}

    async def activate(self, name: str, version: str, is_default: bool) -> None:
        """Serve a loaded version."""
        self.models.add(self._staged.pop((name, version)))
        if is_default:
            self.models.set_default(name, version)

    async def discard(self, name: str, version: str) -> None:
        """Forget a version that was loaded and is not served."""
        if model := self._staged.pop((name, version), None):
            model.close()

    async def set_default(self, name: str, version: str) -> None:
        """Let calls without a version reach this one."""
        self.models.set_default(name, version)

    async def set_idle(self, name: str, version: str, is_default: bool) -> None:
        """Tell callers of a version that it has no workers."""
        self.models.set_idle(name, version, is_default)

    async def remove(self, name: str, version: str) -> None:
        """Answer what the version has accepted, and forget it."""
        await self.models.remove(name, version)
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    async def describe(self, name: str, version: str) -> dict[str, Any]:
        """What the version says of itself, and how many requests wait for it."""
        model = self.models.get(name, version)
        return {"described": model.predictor.describe(), "pending": model.pending}

    async def set_shadow(self, name: str, version: str, percent: float) -> None:
        """Have the version answer so many of the model's requests too; with 0 nobody does."""
        self.gateway.shadows.pop(name, None)
        if percent:
            model = self.models.get(name, version)
            kind, count = model.predictor.metadata["kind"], partial(self.metrics.count_shadow, name, version)
            shadow = await asyncio.to_thread(Shadow, version, percent, kind, model.answer, count)
            self.gateway.shadows[name] = shadow

    async def shadow_tally(self, name: str) -> dict[str, int]:
        """What came of the model's requests that a shadow answered in this process."""
        shadow = self.gateway.shadows.get(name)
        return dict(shadow.tally) if shadow else {}

    async def reopen_log(self) -> None:
        """Write to a new file where the controller has moved the old one away."""
        log = os.open(self.folder / "logs" / "models.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    async def stop(self) -> None:
        """Accept nothing more, answer what was accepted, and end."""
        self.stopped.set()

    def _open_jobs(self) -> Jobs:
        return Jobs(self.folder / "jobs", JobLimits.from_environment(os.environ), self.models)

    def _count_batches(self, metrics: Metrics) -> None:
        """Count what is answered, for the metrics and for the controller."""

        def count(model: ServedModel, batches: Sequence[Batch]) -> None:
            self.requests += sum(len(batch.requests) for batch in batches)
            metrics.count_batches(model, batches)

        self.models.observer = count

    def served(self) -> Iterator[ServedModel]:
        """All versions that are served."""
        for name in self.models.names():
            for version in self.models.versions(name):
                yield self.models.get(name, version)


def watch(worker: Worker) -> None:
    """End the process when a batch takes longer than its model allows; runs in a thread of its own."""
    while True:
        time.sleep(ALIVE_SECONDS)
        now = time.monotonic()
        for model in list(worker.served()):
            limit = float(model.config.get("responseTimeout") or 120)
            if (since := model.busy_since) is not None and now - since > limit:
                logger.error(
                    "%s %s: a batch took longer than %.0f s (responseTimeout); the process ends and starts "
                    "again",
                    model.name,
                    model.version,
                    limit,
                )
                logging.shutdown()
                os._exit(HUNG)


async def run(options: WorkerOptions) -> None:
    """Serve until the controller says stop or is gone."""
    channel = await Channel.open(socket.socket(fileno=options.channel))
    worker = Worker(options)
    runner = JobRunner(worker.jobs, worker.models) if worker.jobs else None
    served = asyncio.create_task(channel.serve(worker.actions))
    threading.Thread(target=watch, args=(worker,), daemon=True).start()
    alive = asyncio.create_task(_say_alive(channel))
    answering = asyncio.create_task(_answer(worker, runner))
    # no limit: it serves until it is told to stop
    ending = [served, answering, asyncio.create_task(worker.stopped.wait())]
    await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
    alive.cancel()
    if worker.accepting.is_set():
        if runner:
            await runner.stop()
        worker.server.should_exit = True
        await answering
    channel.close()


async def _answer(worker: Worker, runner: JobRunner | None) -> None:
    """Answer requests once the worker accepts them; a worker without a socket never does."""
    # no limit: it is cancelled with the worker
    await worker.accepting.wait()
    assert worker.options.listening is not None
    if runner:
        runner.start()
    calls = await answer_grpc(worker.gateway, worker.options.grpc_address)
    await worker.server.serve(sockets=[socket.socket(fileno=worker.options.listening)])
    if calls:
        await calls.stop(GRACE_SECONDS)


async def _say_alive(channel: Channel) -> None:
    while True:
        await channel.call("alive")
        await asyncio.sleep(ALIVE_SECONDS)


def main() -> None:
    """Run until stopped; see the module's text."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the controller stops it in order
    options = WorkerOptions(**json.loads(sys.argv[1]))
    log_to_stdout(as_json=options.logs_json)
    http_server.allow_connections()
    with http_server.runner() as runner:
        runner.run(run(options))


if __name__ == "__main__":
    main()
