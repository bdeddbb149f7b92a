"""A Ray cluster on this machine with a server on it, its callers, and ways to lose parts of it."""

import functools
import http.server
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from marina import engines
from marina.client import Client, EndpointOptions
from marina.client.grpc_client import GrpcClient
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import RequestError
from marina.engines import ports, server_process
from marina.engines.ray.local_cluster import STEP, LocalCluster, LocalNode
from marina.pipeline import steps
from tests.support.killed_workers import GOOD, worker_pids

CALLERS = 4
TRY_SECONDS = 5.0  # of a caller, who then asks another node, once


class Files(http.server.SimpleHTTPRequestHandler):
    """A server of the files of a folder, as nodes fetch archives from one; some are other files here."""

    replaced: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        """Answer with the file, or with what has taken its place."""
        if self.path.lstrip("/") not in self.replaced:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("content-length", "7")
        self.end_headers()
        self.wfile.write(b"another")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class ServedCluster:
    """A cluster that this process has started, and the server on it, which may be ended and started again."""

    def __init__(self, nodes: int) -> None:
        self.port = free_port_base(nodes)
        self._cluster = LocalCluster(nodes, 1.0, self.port)
        self._server = ExitStack()

    def start(self) -> None:
        """Start the nodes, and a server without models."""
        state = self._cluster.start()
        self.nodes, self.address = state.nodes, state.address
        self.serve()

    def serve(self) -> None:
        """Start a server on the cluster, in the place of the one before."""
        self._server.close()
        self._server = ExitStack()
        self._server.enter_context(pytest.MonkeyPatch.context()).setenv("MARINA_RAY_ADDRESS", self.address)
        output, engine = Output(as_json=True), engines.get("ray")
        self.client = self._server.enter_context(steps.serving([], self.port, output, engine))

    @property
    def fronts(self) -> list[str]:
        """Where the nodes answer, also those that have no replica now."""
        return [f"http://127.0.0.1:{node.front_port}" for node in self.nodes]

    def controller(self) -> psutil.Process:
        """The process that has the management API."""
        state = server_process.read_state(self.port)
        assert state
        process = state.process()
        assert process
        return process

    def caller(self, over_grpc: bool = False) -> Client:
        """A client that knows all nodes, and tries once more at another one; or one that asks the controller
        over gRPC, and tries once more there.
        """
        kept = EndpointOptions(token=self.client.token("inference"), retries=1, timeout=3 * TRY_SECONDS)
        if over_grpc:
            return GrpcClient(self.port, **kept)
        return Client(url=self.fronts, try_seconds=TRY_SECONDS, **kept)

    def node_of(self, pid: int) -> LocalNode:
        """The node on which a process runs."""
        above = {process.pid for process in psutil.Process(pid).parents()}
        return next(node for node in self.nodes if node.pid in above)

    def wait_for_replicas(self, count: int, lost: int, since: float, seconds: float = 120) -> float:
        """Wait until so many replicas run, the `lost` process not among them; seconds `since` (monotonic)."""
        while not self._runs(count, lost):
            assert time.monotonic() < since + seconds, "the replicas did not come back"
            time.sleep(0.2)
        return time.monotonic() - since

    def _runs(self, count: int, lost: int) -> bool:
        pids = worker_pids(self.client)
        return len(pids) == count and lost not in pids and all(map(_lives, pids))

    def stop(self) -> None:
        """End all of it."""
        try:
            self._server.close()
        finally:
            self._cluster.stop()


class Load:
    """Callers that ask for actions until the block ends, the first one `over_grpc`; counted are answers, kept
    are failures.
    """

    def __init__(self, cluster: ServedCluster, over_grpc: bool = True) -> None:
        self.cluster, self.over_grpc, self.failed, self.answered = cluster, over_grpc, list[str](), 0
        self._done, self._started = threading.Event(), time.monotonic()

    def __enter__(self) -> "Load":
        self._pool = ThreadPoolExecutor(CALLERS)
        self._counts = [
            self._pool.submit(self._ask, self.over_grpc and not number) for number in range(CALLERS)
        ]
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(1)
        self._done.set()
        self.answered = sum(count.result() for count in self._counts)
        self._pool.shutdown()

    def _ask(self, over_grpc: bool) -> int:
        count = 0
        with self.cluster.caller(over_grpc) as client:
            while not self._done.is_set():
                try:
                    assert client.predict("balance", GOOD)["action"] in (0, 1)
                    count += 1
                except RequestError as error:
                    self.failed.append(f"{time.monotonic() - self._started:.1f} s: {error}")
        return count


def kill_node(node: LocalNode) -> float:
    """End all processes of a node at once, as a power failure does; the moment (monotonic)."""
    process = psutil.Process(node.pid)
    family = [process, *process.children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            os.kill(one.pid, signal.SIGKILL)
    return time.monotonic()


@contextmanager
def served_files(folder: Path) -> Iterator[str]:
    """The address at which the files of a folder can be fetched."""
    handler = functools.partial(Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def free_port_base(nodes: int) -> int:
    """A port base with free ports for so many nodes."""
    for port in range(20080, 60000 - nodes * STEP, 10):
        if not any(ports.taken(port + number * STEP) for number in range(nodes + 1)):
            return port
    raise AssertionError("no free ports")


def configure(home: Path, archives: str | None = None) -> None:
    """Write marina.yaml: small replicas, and where nodes fetch archives."""
    more = f"  archives: {archives}\n" if archives else ""
    (home / "marina.yaml").write_text(f"ray:\n  cpus_per_replica: 0.25\n{more}")
    assert paths.find_home() == home


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
