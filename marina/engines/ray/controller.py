"""The process that `marina serve` keeps alive: it starts Ray and Serve, and has management, metrics and gRPC,
whose calls it passes to the replicas, wherever they are.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from ray import serve
from ray.exceptions import RayError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from marina.core import files
from marina.core.errors import MarinaError, ServerError
from marina.engines.gateway.app import Gateway
from marina.engines.gateway.bodies import Limits
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.metrics import JobCollector
from marina.engines.gateway.management import Management
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.optional_grpc import GRACE_SECONDS, answer_grpc
from marina.engines.gateway.tokens import Tokens
from marina.engines.ray.catalog import CatalogOptions
from marina.engines.ray.cluster import Cluster, DeploymentFailed, Node, running_port
from marina.engines.ray.cluster_metrics import cluster_metrics_page
from marina.engines.ray.fleet import RayFleet, Setup
from marina.engines.ray.joined import SERVE_PORT, JoinedCluster
from marina.engines.ray.joined_ray import JoinedRay
from marina.engines.ray.ledger import Kept, Ledger
from marina.engines.ray.limits import FRONT_SECONDS
from marina.engines.ray.node_command import free_ports
from marina.engines.ray.ray_process import RayProcess
from marina.engines.ray.replica_jobs import JobSetup
from marina.engines.standalone.controller import keep_log_short, listen, metrics_page, write_keys
from marina.engines.standalone.http_server import HttpServer, runner

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 120

Page = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Options:
    """What the command line of `RayEngine.command` says; `joined` is the cluster to serve on, if any."""

    port: int
    host: str
    folder: Path
    store: Path
    temporary: Path
    tokens: bool
    joined: JoinedCluster | None

    @classmethod
    def read(cls, text: str) -> "Options":
        """From the JSON of the command line."""
        content = json.loads(text)
        paths = {key: Path(content[key]) for key in ("folder", "store", "temporary")}
        joined = JoinedCluster(**content["joined"]) if content["joined"] else None
        return cls(**{**content, **paths, "joined": joined})

    def jobs(self) -> JobCollector | None:
        """What counts the jobs; None where the replicas' machines have no disk in common, and no jobs."""
        if self.joined and not self.joined.is_local:
            return None
        return JobCollector(self.folder / "jobs", JobLimits.from_environment(os.environ))


async def run(ray_process: RayProcess | JoinedRay, options: Options) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted and end. Raises ServerError when Ray ends,
    DeploymentFailed or TimeoutError when Serve does not start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    # no limit: it serves until it is told to stop
    starting = asyncio.create_task(_start_serve(options))
    await asyncio.wait({starting, asyncio.create_task(stopped.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if stopped.is_set():
        return
    fleet, keys = starting.result()
    management = HttpServer(Management(fleet, keys).app)
    own = Metrics()
    metrics = HttpServer(Starlette(routes=[Route("/metrics", _metrics_page(options, fleet, own))]))
    gateway = Gateway(fleet.models, keys, Limits(), own)  # type: ignore[arg-type]
    calls = await answer_grpc(gateway, f"127.0.0.1:{options.port + 3}")
    serving = [
        asyncio.create_task(management.serve(sockets=[listen("127.0.0.1", options.port + 1)])),
        asyncio.create_task(metrics.serve(sockets=[listen(options.host, options.port + 2)])),
    ]
    log = asyncio.create_task(keep_log_short(options.folder / "logs" / "models.log", fleet))
    while not stopped.is_set():
        if (code := ray_process.poll()) is not None:
            raise ServerError(f"Ray ended with code {code}")
        await asyncio.sleep(WATCH_SECONDS)
    logger.info("stopping")
    log.cancel()
    if calls:
        await calls.stop(GRACE_SECONDS)
    await asyncio.to_thread(ray_process.drain)
    management.should_exit = metrics.should_exit = True
    await asyncio.gather(*serving)


def _metrics_page(options: Options, fleet: RayFleet, own: Metrics) -> Page:
    """On one machine all processes count in one folder; elsewhere each replica is asked."""
    jobs = options.jobs()
    if not options.joined:
        return partial(metrics_page, jobs)
    if jobs:
        own.registry.register(jobs)
    return partial(cluster_metrics_page, fleet.cluster, own)


async def _start_serve(options: Options) -> tuple[RayFleet, Tokens]:
    """Start Serve and the catalog, take over what an earlier controller has left on a cluster, and wait until
    a front answers.
    """
    joined = options.joined
    cluster = await asyncio.to_thread(_connect_serve, options)
    ledger = Ledger(is_kept=joined is not None)
    kept = await asyncio.to_thread(ledger.read)
    keys, content = _write_keys(options, kept)
    jobs = options.jobs()
    setup = Setup(
        options.store,
        joined.archives if joined else None,
        content,
        options.folder / "logs",
        JobSetup(str(jobs.folder), jobs.limits, cluster.routes) if jobs else None,
    )
    fleet = RayFleet(options.folder, cluster, setup, ledger)
    await asyncio.to_thread(fleet.take_over, kept)
    catalog = CatalogOptions(cluster.routes, content, str(setup.log_folder), setup.jobs)
    await asyncio.to_thread(cluster.deploy_catalog, catalog)
    await fleet.replicas.learn()
    reached = "127.0.0.1" if options.host == "0.0.0.0" else options.host  # noqa: S104  # compared, not bound
    async with asyncio.timeout(FRONT_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while True:
            nodes = (
                await asyncio.to_thread(cluster.nodes)
                if joined
                else [Node(reached, options.port, cluster.serve_port, 1)]
            )
            for node in nodes:
                if await _answers(client, f"http://{node.address}:{node.front_port}/ping"):
                    return fleet, keys
            await asyncio.sleep(0.1)


def _connect_serve(options: Options) -> Cluster:
    """Start Serve, unless it runs on a cluster already. Its own frontend is open to other nodes where there
    may be some on other machines: HAProxy of one node reaches replicas of another.
    """
    is_open = options.joined is not None and not options.joined.is_local
    (port,) = (SERVE_PORT,) if is_open else free_ports(1)
    host = "0.0.0.0" if is_open else "127.0.0.1"  # noqa: S104  # replicas ask for keys
    http = {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
    try:
        serve.start(http_options=http, logging_config={"enable_access_log": False})
    except RayError as error:
        raise ServerError(f"Serve did not start: {' '.join(str(error).split())}") from error
    cpus = options.joined.cpus_per_replica if options.joined else 1.0
    return Cluster(options.port, running_port(), {"num_cpus": cpus})


def _write_keys(options: Options, kept: Kept | None) -> tuple[Tokens, Mapping[str, Any] | None]:
    """The keys, and the content of the key file: those that a cluster's replicas know, or new ones.

    Raises ServerError where the replicas want keys and this server does not, or the other way round.
    """
    key_file = options.folder / "key_file.json"
    if kept is not None and (kept.keys is not None) is not options.tokens:
        raise ServerError(
            f"the cluster serves {'with' if kept.keys else 'without'} tokens; start it the same way, or stop "
            "what it serves with: marina stop"
        )
    if not options.tokens:
        return Tokens.open(), None
    if kept is not None and kept.keys is not None:
        files.write_atomic(key_file, json.dumps(kept.keys) + "\n")
        key_file.chmod(0o600)
        return Tokens.from_file(key_file), kept.keys
    keys = write_keys(key_file)
    return keys, json.loads(key_file.read_text(encoding="utf-8"))


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.HTTPError:
        return False


def main() -> None:
    """Read the command line of `RayEngine.command`, and serve."""
    options = Options.read(sys.argv[1])
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(message)s"
    )
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(exist_ok=True)
    (options.folder / "logs").mkdir(exist_ok=True)
    ray_process: RayProcess | JoinedRay | None = None
    try:
        if options.joined:
            ray_process = JoinedRay.connect(options.joined.address)
        else:
            ray_process = RayProcess.start(options.temporary)
        with runner() as loop:
            loop.run(run(ray_process, options))
    except (ConnectionError, TimeoutError, DeploymentFailed, MarinaError) as error:
        sys.exit(f"Ray Serve stops: {error}")
    finally:
        if ray_process:
            ray_process.kill()
