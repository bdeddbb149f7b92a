"""Ray Serve on several nodes: what callers lose when something is lost, with one more try at another node.

The nodes are those of `marina cluster up`, on this machine. Printed is how long capacity takes to come back.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from marina.client import Client
from marina.core.console import Output
from marina.core.errors import RequestError
from marina.packaging import archive
from marina.release import rollout
from tests.support.homes import project_home
from tests.support.killed_workers import GOOD, worker_pids
from tests.support.ray_clusters import (
    Files,
    Load,
    ServedCluster,
    configure,
    free_port_base,
    kill_node,
    served_files,
)
from tests.support.stopped_commands import SECONDS, Moment, running
from tests.support.toy_exports import export_toy

pytest.importorskip("ray", reason="pip install marina[ray]")

pytestmark = [pytest.mark.slow, pytest.mark.ray]
NODES, REPLICAS = 3, 2
SAY = Output(as_json=True).say


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCluster]:
    """Three nodes that fetch archives over HTTP; two replicas serve balance 1.0, and 1.1 is in the store."""
    with project_home(tmp_path_factory) as home:
        for version in ("1.0", "1.1", "2.0"):
            archive.build(export_toy(home, version=version, more=f"serving: {{workers: {REPLICAS}}}\n"))
        with served_files(home / "model_store") as address:
            configure(home, address)
            started = ServedCluster(NODES)
            try:
                started.start()
                started.client.register("balance", "1.0", "balance-1.0.mar")
                yield started
            finally:
                started.stop()


def test_every_node_answers(cluster: ServedCluster) -> None:
    """Replicas are on different nodes; each front knows all of them, where a replica or the head is."""
    nodes = {cluster.node_of(pid).name for pid in worker_pids(cluster.client)}

    assert len(nodes) == REPLICAS
    for name in ("head", *nodes):
        front = next(node.front_port for node in cluster.nodes if node.name == name)
        with Client(url=f"http://127.0.0.1:{front}", token=cluster.client.token("inference")) as client:
            assert client.predict("balance", GOOD)["action"] == 1


def test_grpc_answers_wherever_the_replicas_are(cluster: ServedCluster) -> None:
    """It is open on the machine of the management API; errors are those of HTTP."""
    with cluster.caller(over_grpc=True) as client:
        assert client.predict("balance", GOOD)["action"] == 1
        with pytest.raises(RequestError, match="observation") as refused:
            client.predict("balance", {"observation": [0]})
        with pytest.raises(RequestError, match="nobody") as unknown:
            client.predict("nobody", GOOD)

    assert (refused.value.status, unknown.value.status) == (400, 404)


def test_the_metrics_are_those_of_all_replicas(cluster: ServedCluster) -> None:
    """Each counts its own requests, under its name; together they are all that was asked."""
    page = f"http://127.0.0.1:{cluster.port + 2}/metrics"
    before = requests_by_replica(page)
    with cluster.caller() as client:
        for _ in range(40):
            client.predict("balance", GOOD)
    after = requests_by_replica(page)

    assert len(after) == REPLICAS
    counted = sum(after.values()) - sum(before.values())
    assert 40 <= counted <= 60  # the samples of the health checks count too


def requests_by_replica(page: str) -> dict[str, float]:
    """How many requests each replica has answered, as /metrics says."""
    families = text_string_to_metric_families(requests.get(page, timeout=30).text)
    return {
        sample.labels["replica"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "marina_requests_total"
    }


def test_an_archive_with_another_checksum_is_not_served(
    cluster: ServedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that nodes fetch was replaced: the version fails with that reason, and what was served goes
    on.
    """
    before = worker_pids(cluster.client)
    monkeypatch.setattr(Files, "replaced", {"balance-2.0.mar"})

    with pytest.raises(RequestError, match=r"balance-2\.0\.mar has the SHA-256"):
        cluster.client.register("balance", "2.0", "balance-2.0.mar")

    assert cluster.client.versions("balance") == ["1.0"]
    assert worker_pids(cluster.client) == before
    assert cluster.client.predict("balance", GOOD)["action"] == 1


def test_a_release_and_a_rollback_lose_no_request(cluster: ServedCluster) -> None:
    with Load(cluster) as load:
        rollout.release(cluster.client, "balance", "1.1", 0.0, keep_older=True, say=SAY)
        rollout.rollback(cluster.client, "balance", SAY)
    print(f"{load.answered} requests during a release and a rollback")

    assert not load.failed, "\n".join(load.failed)
    assert load.answered > 100


def test_a_replica_that_is_killed_is_replaced(cluster: ServedCluster) -> None:
    with Load(cluster) as load:
        (pid, *_) = worker_pids(cluster.client)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        seconds = cluster.wait_for_replicas(REPLICAS, pid, killed)
    print(f"{load.answered} requests; two replicas again {seconds:.1f} s after one was killed")

    assert not load.failed, "\n".join(load.failed)


def test_a_node_that_is_lost_is_replaced_by_another(cluster: ServedCluster) -> None:
    """Its replica starts on the node that had none."""
    pid, other = worker_pids(cluster.client)
    lost = cluster.node_of(pid)
    with Load(cluster) as load:
        killed = kill_node(lost)
        seconds = cluster.wait_for_replicas(REPLICAS, pid, killed)
    print(f"{load.answered} requests; two replicas again {seconds:.1f} s after a node was lost")

    assert not load.failed, "\n".join(load.failed)
    assert other in worker_pids(cluster.client)
    assert len({cluster.node_of(pid).name for pid in worker_pids(cluster.client)}) == REPLICAS


def test_another_controller_takes_over(cluster: ServedCluster) -> None:
    """Callers notice nothing when the process with the management API is killed; the next one knows what is
    served, and has the same keys.
    """
    before, versions = worker_pids(cluster.client), cluster.client.versions("balance")
    token = cluster.client.token("inference")
    with Load(cluster, over_grpc=False) as load:
        cluster.controller().kill()
        time.sleep(2)
        cluster.serve()
    print(f"{load.answered} requests while the controller was replaced")

    assert not load.failed, "\n".join(load.failed)
    assert cluster.client.versions("balance") == versions
    assert worker_pids(cluster.client) == before
    assert cluster.client.token("inference") == token


@pytest.mark.parametrize(
    ("moment", "number", "code", "last"),
    [
        (Moment(file="run/cluster/node-1.log", seconds=1), signal.SIGINT, 130, "stopped"),
        (Moment(output="serve on it"), signal.SIGTERM, 0, "stopping"),
    ],
)
def test_a_stopped_cluster_leaves_nothing(
    moment: Moment, number: signal.Signals, code: int, last: str, home: Path
) -> None:
    """While it starts and later; `marina cluster down` sends SIGTERM."""
    before = set(Path("/tmp").glob("marina-cluster-*"))
    words = ["cluster", "up", "--nodes", "1", "--port-base", str(free_port_base(1))]

    with running(words, home, shared=Path("/tmp")) as command:  # paths of Ray's sockets are short
        command.wait_for(moment)
        ended = command.stop(number)

    assert (ended.code, ended.processes) == (code, [])
    assert ended.output.splitlines()[-1] == last, ended.output
    assert ended.seconds < SECONDS
    assert {path.name for path in (home / "run" / "cluster").iterdir()} & {"state.json", "token"} == set()
    assert set(Path("/tmp").glob("marina-cluster-*")) <= before


def test_without_its_head_a_cluster_answers_for_a_while(home: Path) -> None:
    """Nothing is repaired any more; replicas answer until Ray ends them, about a minute later."""
    archive.build(export_toy(home, more=f"serving: {{workers: {REPLICAS}}}\n"))
    configure(home)
    started = ServedCluster(REPLICAS)
    try:
        started.start()
        started.client.register("balance", "1.0", "balance-1.0.mar")
        with started.caller() as client:
            client.predict("balance", GOOD)
            killed, answered, failed = kill_node(started.nodes[0]), 0.0, 0
            while time.monotonic() < killed + 150 and failed < 20:
                try:
                    client.predict("balance", GOOD)
                    answered, failed = time.monotonic() - killed, 0
                except RequestError:
                    failed += 1
                time.sleep(0.2)
        print(f"without its head it answered for {answered:.0f} s")
    finally:
        started.stop()

    assert answered > 20
