"""What only Ray Serve does: each version has replicas of its own, which are replaced."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from marina import engines
from marina.client import Client
from marina.client.jobs import Job
from marina.core.console import Output
from marina.core.errors import RequestError
from marina.engines import server_process
from marina.packaging import archive
from marina.pipeline import steps
from tests.support.archived_code import CRASHES, HANGS, SLOW_ANSWERS, append
from tests.support.killed_workers import GOOD, kill_under_load, worker_pids
from tests.support.toy_exports import export_toy

pytest.importorskip("ray", reason="pip install marina[ray]")

pytestmark = pytest.mark.slow
SLOW = {"observation": [3.0, 0.0, 0.0, 0.0]}
BAD = {
    "2.0": (CRASHES, "did not come up|Failed to start"),
    "2.1": (HANGS, r"not ready within 5 s"),
    "2.2": ("\nraise ValueError('no luck')\n", "does not come up: no luck"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with two replicas of balance 1.0, and one that can hang; 1.1 and bad versions in the store."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("MARINA_HOME", str(home))
        good = export_toy(home, more="serving: {workers: 2}\n")
        archive.build(good)
        archive.build(export_toy(home, version="1.1", more="serving: {workers: 2}\n"))
        hanging = export_toy(home, "hanging", more="serving: {response_timeout_s: 1}\n")
        archive.build(hanging)
        append(hanging, SLOW_ANSWERS.replace("time.sleep(1.0)", "time.sleep(600)"))
        for version, (code, _) in BAD.items():
            bad = export_toy(home, version=version, more="serving: {startup_timeout_s: 5}\n")
            archive.build(bad)
            append(bad, code)
        port = server_process.free_port_base()
        with steps.serving([], port, Output(as_json=True), engines.get("ray")) as ready:
            ready.register("balance", "1.0", good.archive_name)
            ready.register("hanging", "1.0", hanging.archive_name)
            yield ready


def test_a_replica_that_dies_under_load_is_replaced(client: Client) -> None:
    """Callers that retry lose nothing; printed is how long the number of replicas is short."""
    before = worker_pids(client)

    answered, failed, killed = kill_under_load(client, before[0], seconds=6, retries=1)
    while (
        before[0] in worker_pids(client) or len(worker_pids(client)) < 2
    ) and time.monotonic() < killed + 60:
        time.sleep(0.2)
    print(f"{answered} requests; two replicas again after {time.monotonic() - killed:.1f} s")

    assert failed == []
    assert answered > 50
    assert len(worker_pids(client)) == 2
    assert before[1] in worker_pids(client)


@pytest.mark.parametrize("version", BAD)
def test_a_version_that_does_not_load_harms_nobody(client: Client, version: str) -> None:
    """It is registered nowhere, says why, and those that answer go on."""
    before = worker_pids(client)

    with pytest.raises(RequestError, match=BAD[version][1]):
        client.register("balance", version, f"balance-{version}.mar")

    assert client.versions("balance") == ["1.0"]
    assert worker_pids(client) == before
    assert client.predict("balance", GOOD)["action"] == 1
    with pytest.raises(RequestError, match=f"Model version: {version} does not exist"):
        client.predict("balance", GOOD, version=version)


def test_a_batch_that_hangs_ends_its_replica_and_no_other(client: Client) -> None:
    """Ray asks each replica for its health, which a batch over its time limit has not."""
    (before,), others = worker_pids(client, "hanging"), worker_pids(client)

    with pytest.raises(RequestError):
        client.predict("hanging", SLOW, timeout=8)

    deadline = time.monotonic() + 60
    while worker_pids(client, "hanging") in ([before], []) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert client.predict("hanging", GOOD, timeout=30)["action"] == 1
    assert worker_pids(client, "hanging") != [before]
    assert worker_pids(client) == others


def test_a_job_survives_its_replica_and_the_version_it_began_with(client: Client) -> None:
    """It named no version: after a change of the default one it is the next one's."""
    instances = [[0.001 * (number % 100), 0.0, 0.1, 0.0] for number in range(60_000)]
    expected = client.predict_many("balance", instances[:100])
    job = client.submit("balance", {"instances": instances})
    _until_it_runs(job)
    os.kill(worker_pids(client)[0], signal.SIGKILL)
    os.kill(worker_pids(client)[1], signal.SIGKILL)
    time.sleep(1)
    client.register("balance", "1.1", "balance-1.1.mar")
    client.set_default("balance", "1.1")
    client.unregister("balance", "1.0")
    done = job.result(180)["predictions"]

    assert (len(done), done[:100]) == (len(instances), expected)
    job.delete()
    with pytest.raises(RequestError, match="Job not found"):
        job.status()


def _until_it_runs(job: Job) -> None:
    deadline = time.monotonic() + 60
    while not job.status()["progress"]["done"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
