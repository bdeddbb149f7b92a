"""Releases, rollbacks and traffic splits on a live server, with versions that are good, wrong, slow or
broken.
"""

import dataclasses
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch

from marina import engines
from marina.client import Client
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import CallError, ReleaseError
from marina.engines import server_process as server
from marina.packaging import archive
from marina.pipeline import steps as up
from marina.release import history
from marina.release import rollout as release
from marina.release import traffic_split as split
from tests.support import toy_policies
from tests.support.toy_exports import export_toy
from training.export.trained import Trained

pytestmark = pytest.mark.slow

GOOD = {"observation": [0.0, 0.0, 0.1, 0.2]}


class Contrary(toy_policies.Balance):
    """Pushes away from where the pole falls: right by its own samples, and of another mind than every
    other version.
    """

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 4] -> action [B], q_values [B, 2]."""
        return super().forward(-observations)


def contrary() -> Trained:
    trained = toy_policies.balance()
    samples = [
        dataclasses.replace(one, expect={"action": 1 - one.expect["action"]}) for one in trained.samples
    ]
    return dataclasses.replace(trained, module=Contrary().eval(), samples=samples)


@pytest.fixture(scope="module")
def server_of_balance(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Client]:
    """A server with balance 1.0; 1.1 to 1.3 lie in the store: alike, of another mind, and broken."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("MARINA_HOME", str(home))
        for version in ("1.3", "1.2", "1.1", "1.0"):
            one = export_toy(home, version=version, trained=contrary() if version == "1.2" else None)
            archive.build(one)
        tamper(paths.model_store() / "balance-1.3.mar")
        with up.serving([one], server.free_port_base(), Output(as_json=True), engines.get(engine)) as ready:
            yield ready


@pytest.fixture
def client(server_of_balance: Client) -> Client:
    """The server as it was in the beginning: balance 1.0 alone, and no history."""
    server_of_balance.register("balance", "1.0", "balance-1.0.mar")
    server_of_balance.set_default("balance", "1.0")
    for version in server_of_balance.versions("balance"):
        if version != "1.0":
            server_of_balance.unregister("balance", version)
    shutil.rmtree(paths.releases(), ignore_errors=True)
    return server_of_balance


def tamper(path: Path) -> None:
    """Change a file of an archive without its checksum."""
    with zipfile.ZipFile(path) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in contents.items():
            new.writestr(name, content.replace(b'"type": "policy"', b'"type": "Policy"'))


def versions_of(client: Client) -> tuple[str | None, list[str]]:
    return release.default_version(client, "balance"), sorted(client.versions("balance"))


def go(client: Client, version: str, least_agreement: float = 0.0) -> history.Entry:
    return release.release(client, "balance", version, least_agreement, keep_older=False, say=print)


def test_versions_take_over_go_back_and_leave_no_trace_when_they_fail(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is released, and nothing else, is told to the project's trackers."""
    released: list[str] = []
    monkeypatch.setattr(release, "register_release", lambda spec, _say: released.append(spec.version))
    first = go(client, "1.1")
    assert (first.replaced, first.comparison and first.comparison["agreement"]) == ("1.0", 1.0)
    assert versions_of(client) == ("1.1", ["1.0", "1.1"])

    with pytest.raises(ReleaseError, match=r"1\.2 agrees with 1\.1 on 0\.000, asked for 0\.9"):
        go(client, "1.2", least_agreement=0.9)
    assert versions_of(client) == ("1.1", ["1.0", "1.1"])

    with pytest.raises(ReleaseError, match=r"1\.3 was not released"):
        go(client, "1.3")
    assert versions_of(client) == ("1.1", ["1.0", "1.1"])
    assert client.predict("balance", GOOD)["action"] == 1

    go(client, "1.2")
    assert released == ["1.1", "1.2"]
    assert versions_of(client) == ("1.2", ["1.1", "1.2"])
    assert client.predict("balance", GOOD)["action"] == 0

    released.clear()
    back = release.rollback(client, "balance", print)
    assert released == ["1.1"]
    assert (back.version, versions_of(client)[0]) == ("1.1", "1.1")
    assert client.predict("balance", GOOD)["action"] == 1
    assert [(one.action, one.version, one.replaced) for one in history.read("balance")] == [
        ("release", "1.1", "1.0"),
        ("refused", "1.2", "1.1"),
        ("refused", "1.3", "1.1"),
        ("release", "1.2", "1.1"),
        ("rollback", "1.1", "1.2"),
    ]
    with pytest.raises(CallError, match="is the default already"):
        go(client, "1.1")
    with pytest.raises(CallError, match=r"in the store: balance-1\.0, balance-1\.1"):
        go(client, "2.0")


def test_not_one_request_fails_while_versions_come_and_go(client: Client) -> None:
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            header = {"Authorization": f"Bearer {client.token('inference')}"}
            while not stop.is_set():
                try:
                    answer = session.post(
                        f"{client.inference}/predictions/balance", json=GOOD, headers=header, timeout=30
                    )
                    outcomes[str(answer.status_code)] += 1
                except requests.RequestException as error:
                    outcomes[type(error).__name__] += 1
                time.sleep(0.01)

    users = [threading.Thread(target=load) for _ in range(8)]
    for user in users:
        user.start()
    try:
        go(client, "1.1")
        release.rollback(client, "balance", print)
        go(client, "1.2")
        for _ in range(4):
            release.rollback(client, "balance", print)
            go(client, "1.2")
    finally:
        stop.set()
        for user in users:
            user.join()

    assert outcomes.keys() == {"200"}
    assert outcomes["200"] > 200


@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGINT, 0.02), (signal.SIGTERM, 0.2), (signal.SIGHUP, 0.3), (signal.SIGINT, 0.4)],
)
def test_a_release_that_is_stopped_in_the_middle_leaves_no_trace(
    number: signal.Signals, after: float, client: Client
) -> None:
    port = client.inference.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "marina", "release", "balance", "--version", "1.1", "--port-base", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not paths.releases().is_dir():  # it begins with the lock there
            time.sleep(0.01)
        time.sleep(after)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    time.sleep(3)  # a registration that goes on in the server would show

    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert versions_of(client) == ("1.0", ["1.0"])
    actions = [one.action for one in history.read("balance")]
    # stopped at once, it may not have started to register
    assert actions == ["refused"] or (after < 0.1 and actions == [])
    assert go(client, "1.1").version == "1.1"


def test_two_releases_of_a_model_at_a_time_are_one_too_many(client: Client) -> None:
    with history.locked("balance"), pytest.raises(CallError, match="being released by another process"):
        go(client, "1.1")


@pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin") is None,
    reason="no nginx here (Debian: apt-get install nginx-light)",
)
def test_traffic_is_split_by_weight_and_sticks_to_a_session(client: Client) -> None:
    client.register("balance", "1.2", "balance-1.2.mar")
    port = int(client.inference.rsplit(":", 1)[1])
    header = {"Authorization": f"Bearer {client.token('inference')}"}

    def send(
        more: dict[str, str], path: str = "/predictions/balance", body: object = GOOD
    ) -> requests.Response:
        return requests.post(
            f"http://127.0.0.1:{port + 5}{path}", json=body, headers={**header, **more}, timeout=30
        )

    try:
        split.configure(port, port + 5, {"balance": split.weights_of(["1.0=75", "1.2=25"])})
        assert split.apply(port)
        time.sleep(0.5)
        drawn = [send({}) for _ in range(200)]
        sessions = [
            {send({"X-Session-Id": f"s{session}"}).headers["X-Model-Version"] for _ in range(4)}
            for session in range(40)
        ]
        first = send({}, "/v1/models/balance:predict", {"instances": [GOOD["observation"]]})
        named = send({}, "/predictions/balance/1.2")
        refused = send({}, body={"observation": [1]})
        split.configure(port, port + 5, {"balance": {"1.2": 100}})
        assert split.apply(port)
        time.sleep(0.5)
        moved = {send({}).headers["X-Model-Version"] for _ in range(20)}
        counted = split.served(port)
    finally:
        split.stop(port)

    shares = Counter(answer.headers["X-Model-Version"] for answer in drawn)
    assert 0.1 < shares["1.2"] / 200 < 0.4
    assert all(
        answer.json()["action"] == {"1.0": 1, "1.2": 0}[answer.headers["X-Model-Version"]] for answer in drawn
    )
    assert all(len(versions) == 1 for versions in sessions)
    assert set.union(*sessions) == {"1.0", "1.2"}
    assert first.json()["predictions"][0]["action"] in (0, 1)
    assert named.json()["action"] == 0
    assert (refused.status_code, refused.headers["X-Model-Version"] in ("1.0", "1.2")) == (400, True)
    assert moved == {"1.2"}
    assert sum(by.get("200", 0) for by in counted.values()) >= 380
    assert not split.current(port)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["1.0"], "is no VERSION=PERCENT"),
        (["1.0=60", "1.1=30"], "make 90, not 100"),
        (["1.0=0", "1.1=100"], "VERSION=PERCENT"),
        (["1.0=50", "1.0=50"], "once"),
    ],
)
def test_shares_that_are_none_are_refused(pairs: list[str], words: str) -> None:
    with pytest.raises(CallError, match=words):
        split.weights_of(pairs)


def test_the_history_is_a_file_that_people_can_read(home: Path) -> None:
    (home / "releases").mkdir()
    file = home / "releases" / "balance.yaml"
    entry = history.Entry(
        "2026-01-01T00:00:00+00:00", "release", "1.1", "abc", 8080, "1.0", {"agreement": 1.0}
    )
    history.append(entry, "balance")

    assert file.read_text().startswith(
        "- time: '2026-01-01T00:00:00+00:00'\n  action: release\n  version: '1.1'\n"
    )
    assert history.read("balance") == [entry]
