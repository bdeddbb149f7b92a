"""Ray Serve on two machines, started as deploy/ray says; each is a network namespace with its own address."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from marina import engines
from marina.client import Client
from marina.core.console import Output
from marina.engines import server_process
from marina.packaging import archive
from marina.pipeline import steps
from tests.support.killed_workers import GOOD
from tests.support.ray_manifests import HEAD, WORKERS, ray_start, start_command
from tests.support.toy_exports import export_toy

pytest.importorskip("ray", reason="pip install marina[ray]")

SERVE_PORT = 8000


def opens(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((address, port)) == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and ip"
    ),
    pytest.mark.skipif(
        opens("127.0.0.1", SERVE_PORT), reason=f"port {SERVE_PORT} is taken, which Serve listens at"
    ),
]
ADDRESSES = ("10.213.77.1", "10.213.77.2")  # of the head, and of the other machine
FRONT = "0.0.0.0:8080"  # as the manifest has it
STARTED = "Ray runtime started"


@pytest.fixture
def network() -> Iterator[list[str]]:
    """The words that run a program on the other machine, which has the second address."""
    name = f"m{secrets.token_hex(3)}"
    for words in (
        f"netns add {name}",
        f"link add {name} type veth peer name {name}p netns {name}",
        f"addr add {ADDRESSES[0]}/24 dev {name}",
        f"link set {name} up",
        f"-n {name} addr add {ADDRESSES[1]}/24 dev {name}p",
        f"-n {name} link set {name}p up",
        f"-n {name} link set lo up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    yield ["ip", "netns", "exec", name]
    subprocess.run(["ip", "link", "del", name], check=False)
    subprocess.run(["ip", "netns", "del", name], check=True)


def start_node(
    group: dict[str, Any], role: list[str], before: list[str], folder: Path, port: int, token: Path
) -> subprocess.Popen[bytes]:
    """Run the command of a container as KubeRay has it run, with a front at `port`, and wait for the node."""
    command = start_command(group)
    assert FRONT in command
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBERAY_GEN_RAY_START_CMD": ray_start(group, *role),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "TMPDIR": str(folder),
        "RAY_TMPDIR": str(folder),
    }
    words = [*before, "/bin/bash", "-c", command.replace(FRONT, f"0.0.0.0:{port}")]
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder
        )
    deadline = time.monotonic() + 120
    while STARTED not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return process


@pytest.fixture
def machines(network: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A head here and a node on the other machine, to be joined; the port of their fronts."""
    token = home / "ray_token"
    token.write_text(secrets.token_hex(32))
    port, head_port = server_process.free_port_base(), 26400 + os.getpid() % 1000
    metrics = f"--metrics-export-port={head_port + 1}"
    started: list[subprocess.Popen[bytes]] = []
    folders = [Path(f"/tmp/m{secrets.token_hex(2)}") for _ in range(2)]  # short, as paths of sockets must be
    roles = (
        (HEAD, ["--head", f"--port={head_port}", f"--node-ip-address={ADDRESSES[0]}"], []),
        (WORKERS, [f"--address={ADDRESSES[0]}:{head_port}", f"--node-ip-address={ADDRESSES[1]}"], network),
    )
    try:
        for folder, (group, role, before) in zip(folders, roles, strict=True):
            folder.mkdir()
            started.append(start_node(group, [*role, metrics], before, folder, port, token))
        monkeypatch.setenv("MARINA_RAY_ADDRESS", f"{ADDRESSES[0]}:{head_port}")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        yield port
    finally:
        for process in started:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".log").unlink(missing_ok=True)


def test_two_machines_answer_as_one(home: Path, machines: int) -> None:
    """Started by the commands of deploy/ray/cluster.yaml: both fronts reach the replica, strangers without a
    key reach nothing, the token is needed, and what the probes ask is there.
    """
    archive.build(export_toy(home))
    with steps.serving([], machines, Output(as_json=True), engines.get("ray")) as client:
        client.register("balance", "1.0", "balance-1.0.mar")
        for address in ADDRESSES:
            with Client(url=f"http://{address}:{machines}", token=client.token("inference")) as other:
                assert other.predict("balance", GOOD)["action"] == 1, address
                assert other.ping() == "Healthy"
            for stranger in (machines, SERVE_PORT):
                path = f"http://{address}:{stranger}/predictions/balance"
                assert requests.post(path, json=GOOD, timeout=10).status_code in (401, 404), path
            for group in (HEAD, WORKERS):
                assert opens(address, _probed(group, "livenessProbe"))
        (worker,) = client.describe("balance")[0]["workers"]
        assert worker["node"] == ADDRESSES[1]


def _probed(group: dict[str, Any], probe: str) -> int:
    return int(group["template"]["spec"]["containers"][0][probe]["tcpSocket"]["port"])
