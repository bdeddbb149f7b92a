"""Shadow traffic: another version answers a share of the requests too; callers notice nothing, and the tally
says how the answers differ.
"""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import requests

from marina import engines
from marina.client import Client
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.engines import server_process
from marina.packaging import archive
from marina.pipeline import steps
from tests.support.archived_code import append
from tests.support.killed_workers import GOOD, worker_pids
from tests.support.toy_exports import export_toy

FLIPS, FAILS = 3.0, 4.0  # the first number of an observation
OTHER = f"""

_right = PolicyPredictor.postprocess


def _other(self, outputs, prepared):
    answers = _right(self, outputs, prepared)
    for answer, one in zip(answers, prepared, strict=True):
        first = one.arrays[0].flat[0]
        if first == {FAILS}:
            raise ValueError("no")
        if first == {FLIPS}:
            answer["action"] = 1 - answer["action"]
    return answers


PolicyPredictor.postprocess = _other
"""
OF_RAY = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(not find_spec("ray"), reason="pip install marina[ray]"),
]
NAMES = ["standalone", pytest.param("ray", marks=OF_RAY)]


@pytest.fixture(scope="module", params=NAMES)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with two workers of balance 1.0, the default version, and of 1.1, which answers otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("MARINA_HOME", str(home))
        archive.build(export_toy(home, more="serving: {workers: 2}\n"))
        other = export_toy(home, version="1.1")
        archive.build(other)
        append(other, OTHER)
        port = server_process.free_port_base()
        with steps.serving([], port, Output(as_json=True), engines.get(request.param)) as ready:
            ready.register("balance", "1.0", "balance-1.0.mar")
            ready.register("balance", "1.1", other.archive_name)
            yield ready


def ask(client: Client, first: float, count: int, **more: Any) -> list[int]:
    body = {"observation": [first, 0.0, 0.1, 0.2]}
    return [client.predict("balance", body, **more)["action"] for _ in range(count)]


def settled(client: Client, count: int) -> dict[str, Any]:
    """The tally once so many requests are in it."""
    deadline = time.monotonic() + 20
    while True:
        tally = client.shadow("balance", "1.1")
        if sum(tally[key] for key in ("same", "different", "failed", "skipped")) >= count:
            return tally
        assert time.monotonic() < deadline, tally
        time.sleep(0.1)


def test_a_shadows_answers_are_compared_and_given_to_nobody(client: Client) -> None:
    """The kind decides what is the same: here the action. Failures of the shadow are nobody's."""
    client.set_shadow("balance", "1.1", 100)

    actions = ask(client, 0.0, 6) + ask(client, FLIPS, 4) + ask(client, FAILS, 2)
    named = ask(client, FLIPS, 2, version="1.0")
    tally = settled(client, 12)

    assert set(actions + named) == {1}
    counts = {key: tally[key] for key in ("same", "different", "failed", "skipped")}
    assert counts == {"same": 6, "different": 4, "failed": 2, "skipped": 0}
    assert tally["percent"] == 100


def test_a_shadow_that_answers_several_instances(client: Client) -> None:
    """KServe v1 and lists are compared instance by instance: one that differs is a difference."""
    client.set_shadow("balance", "1.1", 100)

    client.predict("balance", {"instances": [GOOD, {"observation": [FLIPS, 0, 0.1, 0.2]}]})
    client.predict("balance", {"instances": [GOOD, GOOD]})

    tally = settled(client, 2)
    assert (tally["same"], tally["different"]) == (1, 1)


def test_its_share_is_kept(client: Client) -> None:
    client.set_shadow("balance", "1.1", 50)

    ask(client, 0.0, 100)
    tally = settled(client, 25)

    assert 25 <= tally["same"] <= 75


def test_a_switch_ends_it(client: Client) -> None:
    """The versions are other ones then; and so does a share of 0."""
    client.set_shadow("balance", "1.1", 100)
    client.set_default("balance", "1.1")
    assert client.shadow("balance", "1.1")["percent"] == 0
    client.set_default("balance", "1.0")
    client.set_shadow("balance", "1.1", 100)

    client.set_shadow("balance", "1.1", 0)
    ask(client, 0.0, 3)

    assert client.shadow("balance", "1.1") == {
        "modelVersion": "1.1", "percent": 0, "same": 0, "different": 0, "failed": 0, "skipped": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("version", "percent", "reason"),
    [
        ("1.0", 10, "is the default version"),
        ("2.0", 10, "Model version: 2.0 does not exist"),
        ("1.1", 101, "percent must be a number from 0 to 100"),
        ("1.1", float("nan"), "percent must be a number from 0 to 100"),
    ],
)
def test_what_can_be_no_shadow_is_refused(client: Client, version: str, percent: float, reason: str) -> None:
    with pytest.raises(RequestRefused, match=reason):
        client.set_shadow("balance", version, percent)


def test_a_worker_that_comes_later_has_it_too(client: Client) -> None:
    """One that replaces another, or is added."""
    client.set_shadow("balance", "1.1", 100)
    client.scale("balance", "1.0", 3)
    assert len(worker_pids(client)) == 3

    deadline = time.monotonic() + 30
    before = settled(client, 0)["same"]
    for _ in range(30):  # by new connections, so that all processes get some
        with Client(int(client.inference.rsplit(":", 1)[1])) as other:
            ask(other, 0.0, 1)
    while settled(client, 0)["same"] < before + 30:
        assert time.monotonic() < deadline, settled(client, 0)
        time.sleep(0.2)


def test_metrics_count_it(client: Client) -> None:
    client.set_shadow("balance", "1.1", 100)
    ask(client, 0.0, 1)
    settled(client, 1)
    port = int(client.inference.rsplit(":", 1)[1])

    text = requests.get(f"http://127.0.0.1:{port + 2}/metrics", timeout=10).text

    assert 'marina_shadow_requests_total{model_name="balance",model_version="1.1",result="same"}' in text
