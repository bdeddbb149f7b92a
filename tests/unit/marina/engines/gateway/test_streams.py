"""Answers one after another, over a real socket where that matters."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from handlers.runtime.predictor import Predictor
from marina.engines.gateway.app import Gateway
from marina.engines.gateway.served_model import ServedModel
from tests.support.gateways import Recorder, call, gateway, listening, recorded, with_client
from tests.support.stepped_predictors import Spelling, Stepped

EVENTS = {"accept": "text/event-stream"}
OBSERVATION = [0.0, 0.0, 0.1, 0.2]


def served(predictor: Stepped, **config: Any) -> ServedModel:
    return ServedModel(cast(Predictor, predictor), {"batchSize": 4, **config})


def events(text: str) -> list[tuple[str, Any]]:
    """(type, data) of each event."""
    found = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def numbers(count: int) -> dict[str, Any]:
    return {"json": {"instances": list(range(100, 100 + count))}, "headers": EVENTS}


@pytest.fixture
def stepped() -> Iterator[tuple[Stepped, Gateway]]:
    predictor = Stepped()
    model = served(predictor)
    yield predictor, gateway(model)
    predictor.gate.set()
    model.close()


def test_every_event_equals_the_answer_alone(balance: ServedModel) -> None:
    """A bad instance is an error event with its 4xx; the last event counts both."""
    app = gateway(balance)
    instances = [OBSERVATION, [0.0, 0.0], {"observation": OBSERVATION}]

    answer = call(
        app,
        "POST",
        "/predictions/balance/1.0",
        json={"instances": instances},
        headers={**EVENTS, "seed": "3"},
    )

    alone = call(
        app, "POST", "/predictions/balance", json={"observation": OBSERVATION}, headers={"seed": "3"}
    )
    refused = call(app, "POST", "/predictions/balance", json={"observation": [0.0, 0.0]}).json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    refused["request_id"] = answer.headers["x-request-id"]
    assert events(answer.text) == [
        ("message", {"index": 0, "prediction": alone.json()}),
        ("error", {"index": 1, **refused}),
        ("message", {"index": 2, "prediction": alone.json()}),
        ("done", {"count": 3, "errors": 1}),
    ]


def test_explanations_are_streamed_too(balance: ServedModel) -> None:
    app = gateway(balance)
    body = {"instances": [OBSERVATION] * 2}

    streamed = call(app, "POST", "/explanations/balance", json=body, headers=EVENTS)

    whole = call(app, "POST", "/explanations/balance", json=body).json()["explanations"]
    assert [data.get("explanation") for _, data in events(streamed.text)] == [*whole, None]


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/predictions/balance", b"[", 400, "JSON"),
        ("/predictions/balance", b'{"instances": []}', 400, "at least one"),
        ("/predictions/balance", b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": '
         b"[0, 0, 0, 0]}]}", 415, "as a whole"),
        ("/v2/models/balance/infer", b"{}", 406, "/predictions/balance"),
        ("/predictions/x", b"{}", 404, "Model not found"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_begin_is_a_4xx(
    balance: ServedModel, path: str, body: bytes, status: int, reason: str
) -> None:
    """As JSON with its status, and no event."""
    headers = {**EVENTS, "content-type": "application/json"}

    answer = call(gateway(balance), "POST", path, content=body, headers=headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert reason in answer.json()["message"]


def test_an_archive_without_streams_says_what_to_do() -> None:
    answer = call(
        gateway(recorded(Recorder())), "POST", "/predictions/recorder", content=b"1", headers=EVENTS
    )

    assert (answer.status_code, "marina archive" in answer.json()["message"]) == (415, True)


def test_the_first_event_comes_before_the_last_is_computed() -> None:
    """Ten instances of 0.2 s each; a request in between waits for few of them."""
    predictor = Stepped(0.2)
    with (
        listening(gateway(served(predictor))) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        started = time.monotonic()
        with http.stream("POST", "/predictions/stepped", **numbers(10)) as answer:
            blocks = answer.iter_text()
            first = next(blocks)
            after_first, computed = time.monotonic() - started, len(predictor.computed)
            other = http.post("/predictions/stepped", json=7)
            computed_after_other = len(predictor.computed)
            rest = "".join(blocks)
        whole = time.monotonic() - started

    assert events(first) == [("message", {"index": 0, "prediction": 200})]
    assert (computed < 5, other.json()) == (True, 7)
    assert after_first < whole / 2
    assert computed_after_other < 10
    assert [data.get("index") for _, data in events(first + rest)] == [*range(10), None]


def test_a_caller_that_hangs_up_leaves_the_steps() -> None:
    """What it asked for is not computed to its end; the others go on."""
    predictor = Stepped(0.02)
    model = served(predictor)
    with listening(gateway(model)) as port:
        url = f"http://127.0.0.1:{port}/predictions/stepped"
        with httpx.stream("POST", url, **numbers(1000)) as answer:
            next(answer.iter_text())
        time.sleep(0.2)
        computed = len(predictor.computed)
        other = httpx.post(url, **numbers(2))

    assert model.pending == 0
    assert len(predictor.computed) - computed == 2
    assert computed < 100
    assert events(other.text)[-1] == ("done", {"count": 2, "errors": 0})


def test_a_slow_reader_rests_and_holds_up_nobody(stepped: tuple[Stepped, Gateway]) -> None:
    """Its instances wait when its buffers are full; it gets all of them when it reads on."""
    predictor, app = stepped
    count = 600  # together more than the sockets' buffers take
    body = json.dumps({"instances": [[10**12] * 1000] * count}).encode()
    head = "POST /predictions/stepped HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with listening(app) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(head.encode() + body)
        before = -1
        while before < (before := len(predictor.computed)) or not before:
            time.sleep(0.3)
        other = httpx.post(f"http://127.0.0.1:{port}/predictions/stepped", **numbers(50))
        resting = len(predictor.computed) - before
        received = b""
        while b"event: done" not in received:
            received = received[-20:] + slow.recv(1_000_000)

    assert events(other.text)[-1] == ("done", {"count": 50, "errors": 0})
    assert (before < count, resting) == (True, 50)
    assert len(predictor.computed) == count + 50


def test_a_fault_of_the_model_ends_its_stream_alone(stepped: tuple[Stepped, Gateway]) -> None:
    """With an error event that has no index, and no last event: what was sent is not all."""
    _, app = stepped

    async def calls(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [[1, 13, 2], [3, 4, 5]]
        posts = [
            client.post("/predictions/stepped", json={"instances": body}, headers=EVENTS) for body in bodies
        ]
        return await asyncio.gather(*posts)

    bad, good = with_client(app, calls)

    assert [kind for kind, _ in events(good.text)] == ["message"] * 3 + ["done"]
    assert [kind for kind, _ in events(bad.text)] == ["message", "error"]
    assert events(bad.text)[1][1]["code"] == 500


def test_texts_are_generated_together_and_leave_when_done() -> None:
    """A short one joins a long one and is finished before it; each has its own letters."""
    predictor = Spelling(0.02)
    with listening(gateway(served(predictor))) as port:

        async def spell(text: str, delay: float) -> tuple[str, float]:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                await asyncio.sleep(delay)
                answer = await client.post(
                    "/predictions/stepped", content=text, headers={**EVENTS, "content-type": "text/plain"}
                )
                letters = [data.get("prediction", "") for _, data in events(answer.text)]
                return "".join(letters), time.monotonic()

        async def both() -> Any:
            return await asyncio.gather(spell("a long sentence about nothing", 0), spell("short", 0.1))

        (long, long_at), (short, short_at) = asyncio.run(both())

    assert (long, short) == ("a long sentence about nothing", "short")
    assert short_at < long_at
    together = [ids for ids in predictor.computed if len(ids) == 2]
    assert len(together) >= 4
    assert len(predictor.computed) < len(long) + len(short)


def test_too_many_streams_are_a_503(stepped: tuple[Stepped, Gateway]) -> None:
    predictor, _ = stepped
    app = gateway(served(predictor, jobQueueSize=1))
    predictor.gate.clear()

    async def calls(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = asyncio.create_task(client.post("/predictions/stepped", **numbers(1)))
        await asyncio.sleep(0.05)
        second = await client.post("/predictions/stepped", **numbers(1))
        predictor.gate.set()
        return [await first, second]

    first, second = with_client(app, calls)

    assert (first.status_code, second.status_code, second.headers["retry-after"]) == (200, 503, "1")
