"""A server for a container: the archives of one folder, without a management API.

    python -m marina.engines.standalone.model_server /mnt/models --host 0.0.0.0

HTTP has TorchServe's inference API, KServe v1 and the Open Inference Protocol v2; gRPC has the same where
grpcio is installed; /metrics is for Prometheus. Until every archive has answered its golden samples,
/v2/health/ready says 503, and again from SIGTERM on: the server then answers for --drain-seconds more, in
which callers learn that it goes, answers what it has accepted, and ends with code 0. What can't be served
ends it with one line and code 2 (the call) or 1 (an archive).

Not covered: keys. Whoever reaches its ports may call, which a mesh or a network policy decides.
"""

import argparse
import asyncio
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from marina.core.errors import CallError, MarinaError
from marina.core.scratch import scratch_folder
from marina.engines.gateway.management import ManagementFailure, Registration
from marina.engines.standalone.controller import done_or_stopped, listen, metrics_page
from marina.engines.standalone.fleet import Fleet
from marina.engines.standalone.http_server import HttpServer, runner
from marina.engines.standalone.logs import log_to_stdout
from marina.engines.standalone.pool import STOP_SECONDS
from marina.engines.standalone.worker_process import WorkerSettings

logger = logging.getLogger(__name__)

MOUNTED = "/mnt/models"  # where KServe mounts a model
DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """The command line; `workers` and `threads` are the archives' own where they are None."""

    folder: Path
    host: str
    port: int
    grpc_port: int
    metrics_port: int
    workers: int | None
    threads: int | None
    drain_seconds: float

    @classmethod
    def parse(cls, words: Sequence[str] | None = None) -> "Options":
        """Read the command line. Exits with code 2 and a line that says why where it is wrong."""
        parser = argparse.ArgumentParser("model_server", description="Serve the archives of a folder.")
        add = parser.add_argument
        store = os.environ.get("MODEL_STORE", MOUNTED)
        add("folder", nargs="?", type=Path, default=Path(store), help="MODEL_STORE, or %(default)s")
        add("--host", default="127.0.0.1", help="the address of all ports; in a container 0.0.0.0")
        add("--port", type=_whole, default=8080, help="of HTTP (%(default)s)")
        add("--grpc-port", type=_whole, default=8081, help="of gRPC (%(default)s)")
        add("--metrics-port", type=_whole, default=8082, help="of /metrics (%(default)s)")
        add("--workers", type=_whole, help="processes that answer; else what the archives say")
        add("--threads", type=_whole, help="of each model's computation; else what the archive says")
        add("--drain-seconds", type=_seconds, default=DRAIN_SECONDS, help="of SIGTERM's notice (%(default)s)")
        return cls(**vars(parser.parse_args(words)))

    def registration(self, archive: Path) -> Registration:
        """What is asked of the fleet for an archive."""
        settings: dict[str, Any] = {}
        if self.workers:
            settings |= {"minWorkers": self.workers, "maxWorkers": self.workers}
        if self.threads:
            settings["handler"] = {"threads": self.threads}
        return Registration(archive.name, None, 1, settings)


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1")
    return number


def _seconds(text: str) -> float:
    if not 0 <= (seconds := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds from 0")
    return seconds


def find_archives(folder: Path) -> list[Path]:
    """The archives in a folder. Raises CallError where there is none."""
    if not folder.is_dir():
        raise CallError(f"no folder {folder}; name the one with the archives (*.mar)")
    if archives := sorted(folder.glob("*.mar")):
        return archives
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise CallError(f"no archive (*.mar) in {folder}, there is {there}; make one with: marina archive NAME")


def open_port(host: str, port: int, option: str) -> socket.socket:
    """A listening socket. Raises CallError where the address can't be had."""
    try:
        return listen(host, port)
    except OSError as error:
        reason = error.strerror or error
        raise CallError(f"can't listen at {host}:{port}: {reason}; choose another with {option}") from error


async def run(options: Options, folder: Path) -> None:
    """Serve until SIGTERM, with `folder` for what is temporary. Raises CallError or ManagementFailure."""
    archives = find_archives(options.folder)
    listening = open_port(options.host, options.port, "--port")
    metrics_socket = open_port(options.host, options.metrics_port, "--metrics-port")
    open_port(options.host, options.grpc_port, "--grpc-port").close()  # each worker opens it for itself
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    host = f"[{options.host}]" if ":" in options.host else options.host
    settings = WorkerSettings(
        folder,
        listening,
        f"{host}:{options.grpc_port}",
        tokens=False,
        has_jobs=False,  # another pod would not know them
        logs_to_stdout=True,
    )
    fleet = Fleet(settings, options.folder)
    metrics = HttpServer(Starlette(routes=[Route("/metrics", partial(metrics_page, None))]))
    exposing = asyncio.create_task(metrics.serve(sockets=[metrics_socket]))
    grace = 0.0  # nobody waits for an answer of a server that has never been ready
    try:
        if await done_or_stopped(load(fleet, archives, options), stopped):
            logger.info("ready: %s at %s:%d", ", ".join(fleet.names()), options.host, options.port)
            # no limit: it serves until it is told to stop
            await stopped.wait()
            grace = STOP_SECONDS
            await drain(fleet, stopped, options.drain_seconds)
    finally:
        listening.close()
        await fleet.stop(grace)
        metrics.should_exit = True
        await exposing


async def load(fleet: Fleet, archives: Sequence[Path], options: Options) -> None:
    """Start the workers, which say that they are not ready, load everything, and have them say that they are.

    The newest version of a model is its default one. Raises ManagementFailure.
    """
    fleet.pool.is_ready = False
    await fleet.start()
    for archive in archives:
        await fleet.register(options.registration(archive))
    for name in fleet.names():
        newest = max(fleet.all_versions(name), key=lambda version: _numbers(version.version))
        await fleet.set_default(name, newest.version)
    await fleet.pool.set_ready()


def _numbers(version: str) -> list[tuple[int, str]]:
    """A version for comparing: 1.10 is newer than 1.9."""
    parts = version.split(".")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


async def drain(fleet: Fleet, stopped: asyncio.Event, seconds: float) -> None:
    """Answer for so long, or until a second signal, while callers learn that the server goes."""
    logger.info("stopping: not ready from now on, and answering for %g s more", seconds)
    await fleet.pool.drain()
    stopped.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopped.wait()


def main() -> None:
    """Serve as the command line says."""
    options = Options.parse()
    log_to_stdout(as_json=True)
    with scratch_folder("marina-model-server-") as folder, runner() as loop:
        metrics = folder / "metrics"
        metrics.mkdir()
        # the workers inherit both
        os.environ |= {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "TMPDIR": str(folder)}
        try:
            loop.run(run(options, folder))
        except (MarinaError, ManagementFailure, ConnectionError, TimeoutError) as error:
            print(error or "the first worker did not start in time", file=sys.stderr)
            sys.exit(error.exit_code if isinstance(error, MarinaError) else 1)


if __name__ == "__main__":
    main()
