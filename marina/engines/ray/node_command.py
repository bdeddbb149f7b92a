"""The command of a Ray node on this machine: at loopback addresses, at ports of its own."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from marina.core.exec_with_parent import PYTHON_ARGUMENTS

ADDRESS = "127.0.0.1"
OBJECT_STORE_BYTES = 100_000_000  # requests don't go through it
RAY = "ray.scripts.scripts"
ANOTHER_NODE = "marina.engines.ray.loopback_node"  # as RAY, which allows one node at loopback addresses


def head_command(port: int, folder: Path, cpus: float) -> list[str]:
    """A head, whose control store listens at `port` and which keeps its files in `folder`."""
    own = ("--include-dashboard=false", "--no-monitor")
    return _command(RAY, ("--head", f"--port={port}", f"--temp-dir={folder}", *own), cpus, {})


def worker_command(head: str, cpus: float, labels: Mapping[str, str]) -> list[str]:
    """A node that joins the `head`; its `labels` are for who asks Ray for its nodes."""
    return _command(ANOTHER_NODE, (f"--address={head}",), cpus, labels)


def _command(program: str, role: tuple[str, ...], cpus: float, labels: Mapping[str, str]) -> list[str]:
    agent_grpc, agent, environments, metrics = free_ports(4)
    return [
        *(sys.executable, *PYTHON_ARGUMENTS, str(os.getpid())),
        *(sys.executable, "-m", program, "start", "--block", *role),
        *(f"--node-ip-address={ADDRESS}", "--include-log-monitor=false", "--disable-usage-stats"),
        *(f"--num-cpus={cpus:g}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--runtime-env-agent-port={environments}", f"--metrics-export-port={metrics}"),
        *("--min-worker-port=0", "--max-worker-port=0"),
        *([f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}"] if labels else ()),
    ]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((ADDRESS, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
