"""The inference API, without a server: paths, protocols, tokens, queues."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from marina.engines.gateway.app import Gateway
from marina.engines.gateway.served_model import ServedModel
from marina.engines.gateway.tokens import Tokens
from tests.support.gateways import Recorder, call, gateway, recorded, with_client

OBSERVATION = {"observation": [0.0, 0.0, 0.1, 0.2]}
KEY, OTHER = "a-key-for-inference", "a-key-for-management"


@pytest.fixture
def app(balance: ServedModel) -> Gateway:
    return gateway(balance)


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/predictions/balance", OBSERVATION, ["action"]),
        ("/predictions/balance/1.0", OBSERVATION, ["action"]),
        ("/models/balance/invoke", OBSERVATION, ["action"]),
        ("/invocations", OBSERVATION, ["action"]),
        ("/v1/models/balance:predict", {"instances": [OBSERVATION] * 2}, ["predictions", 1, "action"]),
        (
            "/v2/models/balance/infer",
            {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0.1, 0.2]}]},
            ["outputs", 0, "data", 0],
        ),
    ],
)
def test_every_protocol_gives_the_answer(app: Gateway, path: str, body: Any, found: list[Any]) -> None:
    """TorchServe's paths, SageMaker's and KServe's."""
    answer = call(app, "POST", path, json=body)

    content = answer.json()
    for key in found:
        content = content[key]
    assert (answer.status_code, content) == (200, 1)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "message"),
    [
        ("POST", "/predictions/x", 404, "ModelNotFoundException", "Model not found: x"),
        (
            "POST",
            "/predictions/balance/2.0",
            404,
            "ModelVersionNotFoundException",
            "Model version: 2.0 does not exist for model: balance",
        ),
        ("GET", "/v2/models/x", 404, "ModelNotFoundException", "Model not found: x"),
        ("POST", "/v2/models/x/infer", 404, "ModelNotFoundException", "Model not found: x"),
        ("GET", "/v1/models/x", 404, "ModelNotFoundException", "Model not found: x"),
        ("POST", "/predictions", 404, "ResourceNotFoundException", ""),
        ("GET", "/nothing", 404, "ResourceNotFoundException", ""),
        ("POST", "/v1/models/balance:fly", 405, "MethodNotAllowedException", ""),
        ("POST", "/ping", 405, "MethodNotAllowedException", ""),
        ("GET", "/v2/models/balance/infer", 405, "MethodNotAllowedException", "POST"),
    ],
)
def test_what_is_not_there_is_named(
    app: Gateway, method: str, path: str, status: int, kind: str, message: str
) -> None:
    """In TorchServe's form; version 2's answers have a key "error" too."""
    answer = call(app, method, path)

    content = answer.json()
    assert (answer.status_code, content["code"], content["type"]) == (status, status, kind)
    assert message in content["message"]
    assert content["request_id"] == answer.headers["x-request-id"]
    assert (content.get("error") == content["message"]) == path.startswith("/v2")


def test_a_request_id_is_the_callers_or_made(app: Gateway) -> None:
    """One that could forge a line of a log is replaced."""
    sent = ["a-1", None, "x\ty", "x" * 65]

    found = [
        call(app, "POST", "/predictions/balance", headers={"x-request-id": one} if one else {}).headers[
            "x-request-id"
        ]
        for one in sent
    ]

    assert found[0] == "a-1"
    assert len(set(found)) == 4
    assert not set(found) & set(sent[1:])


@pytest.mark.parametrize("path", ["/predictions/balance", "/v2/models/balance", "/v1/models", "/v2"])
def test_a_key_opens_what_it_is_for(balance: ServedModel, path: str) -> None:
    """Without one, with a wrong one or one for management: 401. The query string is not read."""
    app = gateway(balance, tokens=Tokens([(KEY, ["inference"]), (OTHER, ["management"])]))
    method, body = ("POST", OBSERVATION) if "predictions" in path else ("GET", None)

    def status(query: str = "", **headers: str) -> int:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        return call(app, method, path + query, json=body, headers=raw).status_code

    assert status(authorization=f"Bearer {KEY}") == 200
    assert status(authorization=f"bearer  {KEY}") == 200
    refused = [
        status(),
        status(authorization=f"Bearer {OTHER}"),
        status(authorization=f"Basic {KEY}"),
        status(authorization=KEY),
        status(f"?token={KEY}&authorization=Bearer {KEY}"),
        status(authorization=f"Bearer {KEY}\xe9"),
    ]
    assert refused == [401] * len(refused)
    answer = call(app, method, path, json=body)
    assert (answer.headers["www-authenticate"], answer.json()["type"]) == ("Bearer", "InvalidKeyException")


@pytest.mark.parametrize("path", ["/ping", "/v2/health/live", "/v2/health/ready"])
def test_health_needs_no_key(balance: ServedModel, path: str) -> None:
    """Nor does it tell more than that; a process that stops is alive and not ready."""
    app = gateway(balance, tokens=Tokens([(KEY, ["inference"])]))
    assert call(app, "GET", path).status_code == 200

    app.is_ready = False

    assert call(app, "GET", path).status_code == (200 if path.endswith("live") else 503)


def test_the_served_document_is_openapi(app: Gateway) -> None:
    """Of all models at once, and of one by OPTIONS on its path, as TorchServe has it."""
    whole = call(app, "OPTIONS", "/").json()
    own = call(app, "OPTIONS", "/predictions/balance").json()

    validate(whole)
    validate(own)
    assert whole["paths"].keys() == own["paths"].keys()
    assert "balance_Instance" in whole["components"]["schemas"]


def test_a_caller_that_hangs_up_is_not_computed() -> None:
    """Its request leaves the queue of a model that computes in a thread, and nobody is answered."""
    recorder = Recorder()
    app = gateway(recorded(recorder, in_thread=True))
    recorder.gate.clear()
    sent: list[Any] = []

    async def request(body: bytes, gone: asyncio.Event) -> None:
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            if message := next(messages, None):
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def keep(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predictions/recorder", "headers": []}
        await app(scope, receive, keep)

    async def run() -> None:
        gone, stays = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(request(b"first", stays))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(request(b"second", gone))
        await asyncio.sleep(0.02)
        gone.set()
        await second
        assert sent == []
        recorder.gate.set()
        await first

    asyncio.run(run())

    assert recorder.batches == [[b"first"]]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_a_full_queue_is_a_503_with_retry_after() -> None:
    """And a request that waited for too long a 504; both are counted."""
    recorder = Recorder()
    app = gateway(recorded(recorder, in_thread=True, jobQueueSize=1, clientTimeoutInMills=100, batchSize=1))
    recorder.gate.clear()

    async def calls(client: httpx.AsyncClient) -> list[httpx.Response]:
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(client.post("/predictions/recorder", content=str(number))))
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        recorder.gate.set()
        return await asyncio.gather(*tasks)

    answers = with_client(app, calls)

    assert [answer.status_code for answer in answers] == [200, 504, 503]
    assert answers[2].headers["retry-after"] == "1"
    exposition = app.metrics.exposition().decode()
    assert 'marina_server_errors_total{status="503"} 1.0' in exposition
    assert 'marina_server_errors_total{status="504"} 1.0' in exposition


def test_several_models_are_called_by_their_names(balance: ServedModel) -> None:
    """/invocations needs the name where there are several."""
    recorder = Recorder()
    app = gateway(balance, recorded(recorder))

    unnamed = call(app, "POST", "/invocations", content=b"x")
    header = call(app, "POST", "/invocations", content=b"x", headers={"model_name": "recorder"})
    form = call(app, "POST", "/invocations", data={"model_name": "recorder", "body": "y"})

    assert (unnamed.status_code, "model_name" in unnamed.json()["message"]) == (400, True)
    assert (header.content, form.content) == (str(b"x").encode(), str(b"y").encode())


def test_key_files_of_every_form_are_read(tmp_path: Path) -> None:
    """One key per scope, as the engines write it, and a list of further ones."""
    file = tmp_path / "keys.json"
    more = {"name": "caller", "key": "12345678", "scopes": ["inference", "management"]}
    file.write_text(json.dumps({"inference": {"key": KEY}, "management": {"key": OTHER}, "keys": [more]}))

    tokens = Tokens.from_file(file)

    for key, scope in ((KEY, "inference"), (OTHER, "management"), ("12345678", "management")):
        tokens.check(f"Bearer {key}", scope)
