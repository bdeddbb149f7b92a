"""The process that manages a standalone server: its sockets, its key file, its APIs, its workers, its log."""

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from marina.core import files
from marina.core.errors import MarinaError
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.metrics import JobCollector
from marina.engines.gateway.management import Management
from marina.engines.gateway.tokens import SCOPES, Tokens
from marina.engines.standalone.channel import ActionFailed, Disconnected
from marina.engines.standalone.fleet import Fleet
from marina.engines.standalone.http_server import HttpServer, runner
from marina.engines.standalone.logs import log_to_stdout
from marina.engines.standalone.worker_process import WorkerSettings

logger = logging.getLogger(__name__)

BACKLOG = 2048
LOG_BYTES, LOG_FILES = 50 * 2**20, 5
LOG_CHECK_SECONDS = 10.0
OWN_KEYS = "MARINA_KEY_FILE"  # a file with keys that count beside those of this start


async def run(port: int, host: str, folder: Path, store: Path, tokens: bool) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted and end."""
    (folder / "logs").mkdir(exist_ok=True)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    keys = write_keys(folder / "key_file.json") if tokens else Tokens.open()
    listening = listen(host, port)
    fleet = Fleet(WorkerSettings(folder, listening, f"127.0.0.1:{port + 3}", tokens), store)
    if not await done_or_stopped(fleet.start(), stopped):
        return
    management = HttpServer(Management(fleet, keys).app)
    collector = JobCollector(folder / "jobs", JobLimits.from_environment(os.environ))
    metrics = HttpServer(Starlette(routes=[Route("/metrics", partial(metrics_page, collector))]))
    serving = [
        asyncio.create_task(management.serve(sockets=[listen("127.0.0.1", port + 1)])),
        asyncio.create_task(metrics.serve(sockets=[listen(host, port + 2)])),
    ]
    log = asyncio.create_task(keep_log_short(folder / "logs" / "models.log", fleet))
    # no limit: it serves until it is told to stop
    await stopped.wait()
    logger.info("stopping")
    log.cancel()
    listening.close()
    await fleet.stop()
    management.should_exit = metrics.should_exit = True
    await asyncio.gather(*serving)


async def done_or_stopped(start: Coroutine[Any, Any, None], stopped: asyncio.Event) -> bool:
    """Carry out `start`; False where a signal came before it was done, which ends it."""
    # no limit: the start has one
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stopped.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return False
    await starting  # raises what went wrong
    return True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that workers can inherit. Raises OSError where the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def write_keys(path: Path) -> Tokens:
    """Make the keys of this start, add those of the user's own file, and write them for the clients."""
    content: dict[str, object] = {scope: {"key": secrets.token_urlsafe(32)} for scope in SCOPES}
    if own := os.environ.get(OWN_KEYS):
        Tokens.from_file(Path(own))  # says what is wrong with it
        given = json.loads(Path(own).read_text(encoding="utf-8"))
        shared = [
            {"name": scope, "key": given[scope]["key"], "scopes": [scope]}
            for scope in SCOPES
            if scope in given
        ]
        content["keys"] = [*shared, *given.get("keys", [])]
    files.write_atomic(path, json.dumps(content) + "\n")
    path.chmod(0o600)
    return Tokens.from_file(path)


async def metrics_page(jobs: JobCollector | None, _request: Request) -> Response:
    """GET /metrics: what all workers have counted, and the jobs, where there are some."""
    registry = CollectorRegistry()
    if jobs:
        registry.register(jobs)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    content = await asyncio.to_thread(generate_latest, registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


async def keep_log_short(log: Path, fleet: Fleet) -> None:
    """Move the workers' log away when it is long, and have them write to a new one."""
    while True:
        await asyncio.sleep(LOG_CHECK_SECONDS)
        if log.is_file() and log.stat().st_size > LOG_BYTES:
            for number in range(LOG_FILES - 1, 0, -1):
                older = log.with_name(f"{log.name}.{number}")
                if older.is_file():
                    older.replace(log.with_name(f"{log.name}.{number + 1}"))
            log.replace(log.with_name(f"{log.name}.1"))
            for worker in fleet.pool.workers:
                with suppress(Disconnected, ActionFailed):
                    await worker.call("reopen_log")


def main() -> None:
    """Read the command line of `StandaloneEngine.command`, and serve."""
    options = json.loads(sys.argv[1])
    log_to_stdout()
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(exist_ok=True)
    folder, store = Path(options["folder"]), Path(options["store"])
    with runner() as loop:
        try:
            loop.run(run(options["port"], options["host"], folder, store, options["tokens"]))
        except (ConnectionError, TimeoutError, MarinaError) as error:
            sys.exit(f"{error or 'the first worker did not start in time'}")
