"""The process that `marina serve` keeps alive: it starts Ray and Serve, and has management and metrics."""

import asyncio
import json
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path

import httpx
from ray import serve
from starlette.applications import Starlette
from starlette.routing import Route

from marina.core.errors import MarinaError, ServerError
from marina.engines.gateway.management import Management
from marina.engines.gateway.tokens import Tokens
from marina.engines.ray.catalog import CatalogOptions
from marina.engines.ray.cluster import ROUTES, Cluster, DeploymentFailed
from marina.engines.ray.fleet import RayFleet
from marina.engines.ray.limits import FRONT_SECONDS
from marina.engines.ray.ray_process import RayProcess, free_ports
from marina.engines.standalone.controller import keep_log_short, listen, metrics_page, write_keys
from marina.engines.standalone.http_server import HttpServer, runner

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 120
REPLICA_RESOURCES = {"num_cpus": 1}


async def run(ray_process: RayProcess, port: int, host: str, folder: Path, store: Path, tokens: bool) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted and end. Raises ServerError when Ray ends,
    DeploymentFailed or TimeoutError when Serve does not start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    key_file = folder / "key_file.json" if tokens else None
    keys = write_keys(key_file) if key_file else Tokens.open()
    # no limit: it serves until it is told to stop
    starting = asyncio.create_task(_start_serve(port, host, key_file, folder / "logs"))
    await asyncio.wait({starting, asyncio.create_task(stopped.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if stopped.is_set():
        return
    fleet = RayFleet(folder, store, starting.result(), key_file, folder / "logs")
    management = HttpServer(Management(fleet, keys).app)
    metrics = HttpServer(Starlette(routes=[Route("/metrics", partial(metrics_page, None))]))
    serving = [
        asyncio.create_task(management.serve(sockets=[listen("127.0.0.1", port + 1)])),
        asyncio.create_task(metrics.serve(sockets=[listen(host, port + 2)])),
    ]
    log = asyncio.create_task(keep_log_short(folder / "logs" / "models.log", fleet))
    while not stopped.is_set():
        if (code := ray_process.poll()) is not None:
            raise ServerError(f"Ray ended with code {code}")
        await asyncio.sleep(WATCH_SECONDS)
    logger.info("stopping")
    log.cancel()
    await asyncio.to_thread(ray_process.drain)
    management.should_exit = metrics.should_exit = True
    await asyncio.gather(*serving)


async def _start_serve(port: int, host: str, key_file: Path | None, log_folder: Path) -> Cluster:
    """Start Serve and the catalog, and wait until the front answers."""
    (serve_port,) = free_ports("127.0.0.1", 1)
    http = {"host": "127.0.0.1", "port": serve_port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
    await asyncio.to_thread(serve.start, http_options=http, logging_config={"enable_access_log": False})
    cluster = Cluster(serve_port, REPLICA_RESOURCES)
    options = CatalogOptions(
        routes=f"http://127.0.0.1:{serve_port}{ROUTES}",
        key_file=str(key_file) if key_file else None,
        log_folder=str(log_folder),
        grpc_address=f"127.0.0.1:{port + 3}",
    )
    await asyncio.to_thread(cluster.deploy_catalog, options)
    reached = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104  # compared, not bound
    async with asyncio.timeout(FRONT_SECONDS), httpx.AsyncClient() as client:
        while not await _answers(client, f"http://{reached}:{port}/ping"):
            await asyncio.sleep(0.1)
    return cluster


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.HTTPError:
        return False


def main() -> None:
    """Read the command line of `RayEngine.command`, and serve."""
    options = json.loads(sys.argv[1])
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(message)s"
    )
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(exist_ok=True)
    folder, store, temporary = (Path(options[key]) for key in ("folder", "store", "temporary"))
    (folder / "logs").mkdir(exist_ok=True)
    ray_process = None
    try:
        ray_process = RayProcess.start(temporary)
        with runner() as loop:
            loop.run(run(ray_process, options["port"], options["host"], folder, store, options["tokens"]))
    except (ConnectionError, TimeoutError, DeploymentFailed, MarinaError) as error:
        sys.exit(f"Ray Serve stops: {error}")
    finally:
        if ray_process:
            ray_process.kill()
