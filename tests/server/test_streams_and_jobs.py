"""Answers one after another, and later: as the clients get them from every engine, and across crashes."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from marina import engines
from marina.client import Client
from marina.client.async_client import AsyncClient
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.core.spec import Spec
from marina.engines import server_process
from marina.packaging import archive
from marina.pipeline import steps

BODIES = [[0.0, 0.0, 0.1, 0.2], [0.0, 0.1], [0.0, 0.0, -0.1, 0.0]]
GOOD = [BODIES[0], BODIES[2]]


def test_the_clients_stream_from_every_engine(client: Client) -> None:
    """TorchServe answers as a whole; the items are the same."""
    alone = [client.predict("cartpole", body) for body in GOOD]

    found = list(client.stream_many("cartpole", GOOD))

    async def streamed() -> list[Any]:
        async with AsyncClient(url=client.inference, token=client.token("inference")) as other:
            return [item async for item in other.stream("cartpole", {"instances": GOOD})]

    assert [item.answer for item in found] == alone
    assert asyncio.run(streamed()) == found
    with pytest.raises(RequestRefused, match="at least one"):
        list(client.stream("cartpole", {"instances": []}))


def test_the_clients_submit_to_every_engine(client: Client, engine: str) -> None:
    """TorchServe answers at once: the job is done."""
    alone = client.predict_many("cartpole", GOOD)

    job = client.submit_many("cartpole", GOOD)

    async def submitted() -> Any:
        async with AsyncClient(url=client.inference, token=client.token("inference")) as other:
            return await (await other.submit("cartpole", {"instances": GOOD})).result(60)

    assert job.result(60) == {"predictions": alone}
    assert asyncio.run(submitted()) == {"predictions": alone}
    assert (job.status()["state"], bool(job.id)) == ("done", engine != "torchserve")
    job.delete()


@pytest.fixture
def serve(exported: Callable[..., Spec], home: Path) -> Iterator[Callable[[int], Client]]:
    """Starts a server with balance 1.0 at a port, on two workers, in the place of the last one."""
    spec = exported(more="serving: {workers: 2}\n")
    archive.build(spec)
    with ExitStack() as stack:

        def start(port: int) -> Client:
            stack.close()
            serving = steps.serving([spec], port, Output(as_json=True), engines.get("standalone"))
            return stack.enter_context(serving)

        yield start


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)


@pytest.mark.slow
def test_a_job_is_finished_whoever_is_killed(serve: Callable[[int], Client], home: Path) -> None:
    """Kill -9 of all workers, then of the whole server, in the middle of a job: one whole result."""
    port = server_process.free_port_base()
    client = serve(port)
    generator = random.Random(0)
    instances = [[generator.uniform(-0.1, 0.1) for _ in range(4)] for _ in range(100_000)]
    some = range(0, len(instances), 10_000)

    job = client.submit("balance", {"instances": instances}, timeout=120)
    until_it_runs(job)
    kill([worker["pid"] for worker in client.describe("balance")[0]["workers"]])
    time.sleep(1)
    expected = client.predict_many("balance", [instances[at] for at in some], timeout=120)
    until_it_runs(job)
    state = server_process.read_state(port)
    assert state
    kill([state.pid, *(child.pid for child in psutil.Process(state.pid).children(recursive=True))])
    again = serve(port).job(job.id)
    predictions = again.result(300)["predictions"]

    assert len(predictions) == len(instances)
    assert [predictions[at] for at in some] == expected
    assert again.status()["progress"] == {"done": 100_000, "total": 100_000, "errors": 0}
    folder = paths.run(port, home) / "jobs"
    assert len(list((folder / "results").iterdir())) == 1
    assert list((folder / "bodies").iterdir()) == []


def until_it_runs(job: Any) -> None:
    deadline = time.monotonic() + 120
    while not 0 < job.status()["progress"]["done"] < 100_000:
        assert time.monotonic() < deadline
        assert job.status()["state"] in ("queued", "running")
        time.sleep(0.2)
