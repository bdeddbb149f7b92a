"""Ray on this machine, as a child process: its control store, and one node.

All of it ends with the process that started it, on Linux also when that is killed.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import ray

from marina.core.errors import ServerError
from marina.core.exec_with_parent import PYTHON_ARGUMENTS
from marina.engines.ray.front import ADMIN_SOCKET
from marina.engines.ray.limits import CONNECT_SECONDS, DRAIN_SECONDS

TRIES = 3  # a machine that is busy may take longer than the 15 s that Ray gives its own processes
OBJECT_STORE_BYTES = 100_000_000  # requests don't go through it
LOGICAL_CPUS = 10_000  # of one machine: how many replicas there are is the caller's to decide
KILL_SECONDS = 5.0


class RayProcess:
    """`ray start --head` and what it has started."""

    def __init__(self, process: subprocess.Popen[bytes], temporary: Path) -> None:
        self.process, self.temporary = process, temporary

    @classmethod
    def start(cls, temporary: Path, address: str = "127.0.0.1") -> "RayProcess":
        """Start it with its files in `temporary`, and connect to it; all listens at `address`. Call it in the
        main thread. Raises ServerError.
        """
        for number in range(TRIES):
            port, *_ = ports = free_ports(address, 6)
            os.environ["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] = str(ports[-1])
            process = subprocess.Popen(_command(temporary / f"ray-{number}", address, ports))
            started = cls(process, temporary)
            if started._connect(f"{address}:{port}"):
                return started
            started.kill()
        raise ServerError("Ray did not start; the log above and logs/ in its folder say why")

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self.process.poll()

    def drain(self) -> None:
        """Accept no more requests, and wait until those that were accepted are answered."""
        for process in self._family():
            with suppress(psutil.Error):
                if process.name() == "haproxy":
                    process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline and any(map(_is_busy, self.temporary.glob(f"*/{ADMIN_SOCKET}"))):
            time.sleep(0.1)

    def kill(self) -> None:
        """End all of its processes."""
        family = self._family()
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=KILL_SECONDS)
        self.process.wait()  # no limit: it was killed

    def _connect(self, address: str) -> bool:
        """Connect this process; False where Ray has ended or takes too long."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while time.monotonic() < deadline and self.poll() is None:
            try:
                ray.init(address, namespace="serve", log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, OSError):
                time.sleep(0.5)
            else:
                return True
        return False

    def _family(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self.process.pid)
            return [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            return []


def free_ports(address: str, count: int) -> list[int]:
    """Ports of this machine that nobody listens at now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((address, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _command(folder: Path, address: str, ports: list[int]) -> list[str]:
    with_parent = [sys.executable, *PYTHON_ARGUMENTS, str(os.getpid())]
    port, agent_grpc, agent, environments, metrics, _ = ports
    return [
        *with_parent,
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--node-ip-address={address}", f"--port={port}", f"--temp-dir={folder}"),
        *("--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"),
        "--disable-usage-stats",
        *(f"--num-cpus={LOGICAL_CPUS}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--runtime-env-agent-port={environments}", f"--metrics-export-port={metrics}"),
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]


def _is_busy(admin_socket: Path) -> bool:
    """Whether the HAProxy behind this socket has requests under way."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(1)
        connection.connect(str(admin_socket))
        connection.sendall(b"show stat\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return any(row["svname"] == "BACKEND" and row["scur"] != "0" for row in rows)
    return False
