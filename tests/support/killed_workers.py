"""A worker that is killed while callers ask for balance's actions, on any engine."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from marina.client import Client
from marina.core.errors import RequestError

GOOD = {"observation": [0.0, 0.0, 0.1, 0.2]}


class Outcome(NamedTuple):
    """What the callers got, and when the worker was killed (monotonic seconds)."""

    answered: int
    failed: list[str]
    killed: float


def port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[1])


def worker_pids(client: Client, name: str = "balance") -> list[int]:
    """The processes of its workers that are ready."""
    workers = client.describe(name)[0]["workers"]
    return [worker["pid"] for worker in workers if worker["status"] == "READY"]


def kill_under_load(client: Client, pid: int, seconds: float, retries: int = 3) -> Outcome:
    """Kill `pid` one second into `seconds` of requests by four callers with so many `retries`."""
    ends = time.monotonic() + seconds
    failed: list[str] = []

    def ask() -> int:
        count = 0
        with Client(port_of(client), retries=retries) as own:
            while time.monotonic() < ends:
                try:
                    assert own.predict("balance", GOOD)["action"] in (0, 1)
                    count += 1
                except RequestError as error:
                    failed.append(str(error))
        return count

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(ask) for _ in range(4)]
        time.sleep(1)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        return Outcome(sum(count.result() for count in counts), failed, killed)
