"""Ray on this machine, as a child process: its control store, and one node.

All of it ends with the process that started it, on Linux also when that is killed.
"""

import csv
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import ray

from marina.core.errors import ServerError
from marina.engines.ray.front import ADMIN_SOCKET
from marina.engines.ray.limits import CONNECT_SECONDS, DRAIN_SECONDS
from marina.engines.ray.node_command import ADDRESS, free_ports, head_command

TRIES = 3  # a machine that is busy may take longer than the 15 s that Ray gives its own processes
LOGICAL_CPUS = 10_000  # of one machine: how many replicas there are is the caller's to decide
KILL_SECONDS = 5.0


class RayProcess:
    """`ray start --head` and what it has started."""

    def __init__(self, process: subprocess.Popen[bytes], temporary: Path) -> None:
        self.process, self.temporary = process, temporary

    @classmethod
    def start(cls, temporary: Path) -> "RayProcess":
        """Start it with its files in `temporary`, and connect to it. Call it in the main thread. Raises
        ServerError.
        """
        for number in range(TRIES):
            port, fallback = free_ports(2)
            os.environ["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] = str(fallback)
            process = subprocess.Popen(head_command(port, temporary / f"ray-{number}", LOGICAL_CPUS))
            started = cls(process, temporary)
            if started._connect(f"{ADDRESS}:{port}"):
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
