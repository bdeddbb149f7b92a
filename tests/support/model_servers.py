"""The server of a container, started as a process on free ports."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from marina.engines import server_process

COMMAND = (sys.executable, "-m", "marina.engines.standalone.model_server")
SECONDS = 120.0


class ModelServer:
    """A server that runs, and what it has written."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, output: Path) -> None:
        self.process, self.port, self.output = process, port, output
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=10)

    def wait_for(self, path: str, status: int) -> requests.Response:
        """The first answer with this status; a server that has ended fails."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output.read_text()
            try:
                answer = self.get(path)
            except requests.ConnectionError:
                time.sleep(0.02)
                continue
            if answer.status_code == status:
                return answer
            time.sleep(0.02)
        raise AssertionError(f"{path} did not answer {status}: {self.output.read_text()}")

    def wait_until_ready(self) -> None:
        self.wait_for("/v2/health/ready", 200)

    def predict(self, observation: Sequence[float], name: str = "balance") -> requests.Response:
        """KServe v1's answer to one instance."""
        body = {"instances": [{"observation": list(observation)}]}
        return requests.post(f"{self.url}/v1/models/{name}:predict", json=body, timeout=60)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log, each of which is a JSON object."""
        return [json.loads(line) for line in self.output.read_text().splitlines()]


@contextmanager
def model_server(
    folder: Path, *options: str, command: Sequence[str] = COMMAND, words: Sequence[str] = (), **more: Any
) -> Iterator[ModelServer]:
    """A server of `folder` with `words` and `options`, on free ports instead of theirs; ended with the
    block. Its log goes beside the folder.
    """
    port = server_process.free_port_base()
    ports = [f"--port={port}", f"--grpc-port={port + 1}", f"--metrics-port={port + 2}"]
    output = folder.parent / "model_server.out"
    with output.open("wb") as log:
        process = subprocess.Popen([*command, str(folder), *words, *ports, *options], stdout=log, **more)
    try:
        yield ModelServer(process, port, output)
    finally:
        process.kill()
        process.wait(SECONDS)
