"""Ray Serve on two machines, started as the guide says; each is a network namespace with its own address."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
from tests.support.toy_exports import export_toy

pytest.importorskip("ray", reason="pip install marina[ray]")

SERVE_PORT = 8000


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and ip"
    ),
    pytest.mark.skipif(_taken(SERVE_PORT), reason=f"port {SERVE_PORT} is taken, which Serve listens at"),
]
HEAD, OTHER = "10.213.77.1", "10.213.77.2"
RAY = "ray.scripts.scripts"


@pytest.fixture
def network() -> Iterator[list[str]]:
    """The words that run a program on the other machine, which has the address OTHER; this one is HEAD."""
    name = f"m{secrets.token_hex(3)}"
    for words in (
        f"netns add {name}",
        f"link add {name} type veth peer name {name}p netns {name}",
        f"addr add {HEAD}/24 dev {name}",
        f"link set {name} up",
        f"-n {name} addr add {OTHER}/24 dev {name}p",
        f"-n {name} link set {name}p up",
        f"-n {name} link set lo up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    yield ["ip", "netns", "exec", name]
    subprocess.run(["ip", "link", "del", name], check=False)
    subprocess.run(["ip", "netns", "del", name], check=True)


def environment(home: Path, token: Path, front: str, temporary: str) -> dict[str, str]:
    """What `marina cluster environment` prints, as the shell takes it."""
    call = [sys.executable, "-m", "marina", "cluster", "environment", "--token", str(token), "--front", front]
    own = {**os.environ, "TMPDIR": temporary, "MARINA_HOME": str(home)}
    printed = subprocess.run(call, check=True, capture_output=True, text=True, env=own).stdout
    script = f"{printed}\n{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    done = subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, text=True, env=own)
    return dict(json.loads(done.stdout))


def test_two_machines_answer_as_one(network: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both fronts reach the replica, strangers without a key reach nothing, and the token is needed."""
    archive.build(export_toy(home))
    token = home / "ray_token"
    token.write_text(secrets.token_hex(32))
    port, head_port = server_process.free_port_base(), 26400 + os.getpid() % 1000
    started: list[subprocess.Popen[bytes]] = []
    folders = [Path(f"/tmp/m{secrets.token_hex(2)}") for _ in range(2)]  # short, as paths of sockets must be
    try:
        for folder, role, before in (
            (folders[0], ["--head", f"--port={head_port}", f"--node-ip-address={HEAD}", "--num-cpus=0"], []),
            (
                folders[1],
                [f"--address={HEAD}:{head_port}", f"--node-ip-address={OTHER}", "--num-cpus=1"],
                network,
            ),
        ):
            folder.mkdir()
            more = ["--include-dashboard=false", f"--temp-dir={folder}/r"] if "--head" in role else []
            words = [*before, sys.executable, "-m", RAY, "start", "--block", *role, *more]
            own = environment(home, token, f"0.0.0.0:{port}", str(folder))
            log = (home / f"{folder.name}.log").open("wb")
            started.append(subprocess.Popen(words, env=own, stdout=log, stderr=subprocess.STDOUT, cwd=home))
            log.close()
            _wait_for(home / f"{folder.name}.log")
        monkeypatch.setenv("MARINA_RAY_ADDRESS", f"{HEAD}:{head_port}")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        with steps.serving([], port, Output(as_json=True), engines.get("ray")) as client:
            client.register("balance", "1.0", "balance-1.0.mar")
            for address in (HEAD, OTHER):
                with Client(url=f"http://{address}:{port}", token=client.token("inference")) as other:
                    assert other.predict("balance", GOOD)["action"] == 1, address
                    assert other.ping() == "Healthy"
                for stranger in (port, SERVE_PORT):
                    path = f"http://{address}:{stranger}/predictions/balance"
                    assert requests.post(path, json=GOOD, timeout=10).status_code in (401, 404), path
            (worker,) = client.describe("balance")[0]["workers"]
            assert worker["node"] == OTHER
    finally:
        for process in started:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for(log: Path) -> None:
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
