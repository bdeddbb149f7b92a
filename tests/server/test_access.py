"""A live server's tokens, addresses, metrics, registrations and workers."""

import json
import re
import sys
from pathlib import Path

import psutil
import pytest
import requests

from marina.client import Client
from marina.core import paths
from marina.core.spec import Spec
from marina.pipeline import readiness as ready
from tests.support.engines import ONLY_TORCHSERVE


def port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[1])


def header(client: Client, api: str = "inference") -> dict[str, str]:
    return {"Authorization": f"Bearer {client.token(api)}"}


@pytest.mark.parametrize(("api", "path"), [("inference", "/predictions/digits"), ("management", "/models")])
def test_nothing_is_answered_without_a_token(client: Client, api: str, path: str) -> None:
    base = client.inference if api == "inference" else client.management

    assert requests.get(base + path, timeout=30).status_code in (400, 401)
    assert requests.get(base + path, headers={"Authorization": "Bearer wrong"}, timeout=30).status_code in (
        400,
        401,
    )


HEALTH = {"/ping", "/v2/health/live", "/v2/health/ready"}
PATHS = [
    *sorted(HEALTH),
    *("/", "/predictions/digits", "/predictions/digits/1.0", "/explanations/digits", "/invocations"),
    *("/models", "/models/digits", "/models/digits/invoke", "/models/digits/1.0/set-default"),
    *("/v1/models", "/v1/models/digits", "/v1/models/digits:predict", "/v1/models/digits:explain"),
    *("/v2", "/v2/models/digits", "/v2/models/digits/ready", "/v2/models/digits/infer"),
    *("/v2/models/digits/versions/1.0/infer", "/v2/models/digits/explain", "/v2/repository/index"),
    *("/api-description", "/metrics", "/openapi.json", "/docs", "/key_file.json", "/../key_file.json"),
]


def test_a_stranger_learns_whether_it_is_healthy_and_no_more(client: Client, engine: str) -> None:
    """Without a token, on both ports, whatever the method. TorchServe hands out its own API's description."""
    answered = set()
    for base in (client.inference, client.management):
        for path in PATHS:
            for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
                answer = requests.request(method, base + path, timeout=30)
                assert "Traceback" not in answer.text
                if answer.ok:
                    answered.add((base, method, path))

    if engine == "torchserve":
        assert {(method, path) for _, method, path in answered if "api-desc" not in path} <= {
            ("OPTIONS", path) for path in PATHS
        }
    else:
        health = {(client.inference, method, path) for method in ("GET", "HEAD") for path in HEALTH}
        assert answered == health


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/evil.mar", "file:///etc/passwd", "file:///tmp/evil.mar", "../evil.mar"]
)
def test_archives_come_from_the_model_store_alone(client: Client, url: str) -> None:
    query = {"url": url, "model_name": "evil"}

    answer = requests.post(
        f"{client.management}/models", params=query, headers=header(client, "management"), timeout=30
    )

    assert answer.status_code in (400, 403, 404)
    assert "evil" not in client.models()


def test_the_server_listens_on_loopback_alone(client: Client) -> None:
    import psutil

    from marina.engines import server_process as server

    process = server.read_state(port_of(client)).process()  # type: ignore[union-attr]
    listening = [one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]

    assert len(listening) >= 3
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


@ONLY_TORCHSERVE
def test_metrics_are_there_in_prometheus_format(client: Client) -> None:
    client.predict("cartpole", {"observation": [0, 0, 0, 0]})

    text = requests.get(f"http://127.0.0.1:{port_of(client) + 2}/metrics", timeout=30).text

    assert re.search(
        r'^ts_inference_requests_total\{[^}]*model_name="cartpole"[^}]*\} [0-9.]+$', text, re.MULTILINE
    )


def test_registering_is_idempotent_and_unregistering_keeps_the_archive(
    client: Client, built_in: list[Spec]
) -> None:
    """Registering twice changes nothing; unregistering leaves the archive in the model store."""
    (one,) = [spec for spec in built_in if spec.kind == "policy"]

    assert client.register(one.name, one.version, one.archive_name) is False
    assert client.unregister(one.name) is True
    assert client.unregister(one.name) is False
    assert "not registered" in ready.problems(client, one)[0]
    assert (paths.model_store() / one.archive_name).is_file()
    assert client.register(one.name, one.version, one.archive_name) is True
    assert ready.problems(client, one) == []


def test_a_dead_worker_is_not_ready_while_ping_says_healthy(client: Client, built_in: list[Spec]) -> None:
    (one,) = [spec for spec in built_in if spec.kind == "policy"]
    client.scale(one.name, one.version, 0)
    try:
        assert client.ping() == "Healthy"
        assert "0 of 1 workers are ready" in ready.problems(client, one)[0]
    finally:
        client.scale(one.name, one.version, 1)
    assert ready.problems(client, one) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process has mapped")
@ONLY_TORCHSERVE
def test_a_worker_with_a_compiled_form_holds_no_torch(client: Client) -> None:
    """The detector's: those of other kinds read torch for their first explanation, which another test may
    have asked for.
    """
    (described,) = client.describe("scenes")
    process = Path("/proc") / str(described["workers"][0]["pid"])

    assert "libtorch" not in (process / "maps").read_text()
    assert psutil.Process(int(process.name)).memory_info().rss < 450e6


@ONLY_TORCHSERVE
def test_a_token_that_is_about_to_expire_is_renewed(client: Client, tmp_path: Path) -> None:
    keys = json.loads(client.key_file.read_text())
    old = keys["inference"]["key"]
    stale = {**keys, "inference": {"key": old, "expiration time": "2020-01-01T00:00:00.000000000Z"}}
    client.key_file.write_text(json.dumps(stale))

    assert client.predict("cartpole", {"observation": [0, 0, 0, 0]})["action"] in (0, 1)
    assert json.loads(client.key_file.read_text())["inference"]["key"] != old
