"""Bad requests among good ones on a live TorchServe: each is refused as it should be, no other notices, no worker dies."""

import http.client
import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from marina import paths, spec
from marina.client import Client
from tests.bad_inputs import bad, good, refused_in_front
from tests.good_inputs import payload
from tests.sent_requests import FORM, MULTIPART, Sent

from bundle_golden import difference

NAMES = spec.names()
THREADS = 16  # twice the batch of the image models, so that batches fill up
FUZZ_SECONDS = 4.0  # per model
KEYS = {"code", "type", "message", "request_id"}


@dataclass(frozen=True)
class Answer:
    """What came back; `content` is parsed where it is JSON, and `raised` says where it is no finite JSON."""

    status: int
    content: Any
    request_id: str | None


def port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[1])


def send(client: Client, name: str, sent: Sent) -> Answer:
    """One request on a connection of its own, its headers byte by byte as they are: `requests` refuses to send some of them."""
    body, headers = sent.content()
    connection = http.client.HTTPConnection("127.0.0.1", port_of(client), timeout=60)
    try:
        connection.putrequest(sent.method, f"/{sent.path}/{name}", skip_accept_encoding=True)
        connection.putheader("Authorization", f"Bearer {client.token('inference')}")
        for header, value in headers:
            connection.putheader(header, value.encode("latin-1"))
        if not {"Content-Length", "Transfer-Encoding"} & {header for header, _ in headers}:
            connection.putheader("Content-Length", str(len(body)))
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent; the answer is there already
            connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        is_json = (answer.getheader("content-type") or "").startswith("application/json")
        return Answer(answer.status, json.loads(content, parse_constant=_refuse) if is_json else content, answer.getheader("x-request-id"))
    finally:
        connection.close()


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def send_all(client: Client, name: str, requests: list[Sent]) -> list[Answer]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda one: send(client, name, one), requests))


def wrong_among(client: Client, name: str, right: list[Sent], faulty: list[Sent], times: int) -> tuple[dict[str, Answer], set[str | None]]:
    """What is answered otherwise than alone, or refused otherwise than it says, when all are sent at once, good ones several times; and
    the ids of all requests.
    """
    alone = {one.name: send(client, name, one).content for one in right}
    requests = [*faulty, *right * times]
    random.Random(0).shuffle(requests)
    wrong = {}
    answers = send_all(client, name, requests)
    for sent, answer in zip(requests, answers, strict=True):
        if sent.name in alone:
            fine = answer.status == 200 and not difference(alone[sent.name], answer.content)
        else:
            told = answer.status == sent.status and answer.content.keys() == KEYS and answer.content["type"] == sent.type  # type: ignore[attr-defined]
            fine = told and answer.content["request_id"] == answer.request_id
        if not fine:
            wrong[sent.name] = answer
    return wrong, {one.request_id for one in answers}


def workers(client: Client) -> dict[str, list[int]]:
    """The process ids of all workers."""
    return {name: [worker["pid"] for worker in client.describe(name)[0]["workers"]] for name in NAMES}


def batches(client: Client, ids: set[str | None]) -> Iterator[list[int]]:
    """The statuses of each batch that had one of these requests, from the workers' own log."""
    log = paths.run(port_of(client)) / "logs" / "models.log"
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        start = line.find('{"event":"batch"')
        if start >= 0:
            answers = json.loads(line[start:])["answers"]
            if any(one["id"] in ids for one in answers):
                yield [one["status"] for one in answers]


def mixed_batches(client: Client, ids: set[str | None]) -> int:
    """How many batches had answers and refusals; the log is written a little later than the answers are sent."""
    deadline = time.monotonic() + 10
    while sum(map(len, batches(client, ids))) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sum(200 in statuses and max(statuses) >= 400 for statuses in batches(client, ids))


@pytest.mark.parametrize("name", NAMES)
def test_every_bad_request_among_good_ones_fails_alone(client: Client, name: str) -> None:
    kind = spec.load(name).kind
    before = workers(client)

    wrong, ids = wrong_among(client, name, good(kind), bad(kind), times=len(bad(kind)) // len(good(kind)))

    assert wrong == {}
    assert workers(client) == before
    assert mixed_batches(client, ids) > 20


def test_what_torchserve_refuses_by_itself_reaches_no_worker(client: Client) -> None:
    before = workers(client)

    answers = {one.name: (one, send(client, "digits", one)) for one in refused_in_front()}

    found = {name: (answer.status, answer.content["type"] if answer.content else "") for name, (_, answer) in answers.items()}
    assert found == {name: (one.status, one.type) for name, (one, _) in answers.items()}
    assert workers(client) == before
    assert send(client, "digits", good("classifier")[0]).status == 200


HANG_UPS = {
    "a body that is shorter than it said": b"Content-Length: 1000\r\n\r\nhello",
    "a body that never comes": b"Content-Length: 1000\r\n\r\n",
    "a chunk that is cut off": b"Transfer-Encoding: chunked\r\n\r\nff\r\nhello",
    "headers without an end": b"Content-Length: 5\r\nTop_k: 1",
    "a whole request, answered to nobody": b"Content-Length: 5\r\n\r\nhello",
    "a good request, answered to nobody": b"Content-Length: %d\r\n\r\n%s" % (len(payload("classifier")), payload("classifier")),
}


def test_callers_that_hang_up_disturb_nobody(client: Client) -> None:
    request = good("classifier")[0]
    before, right = workers(client), send(client, "digits", request).content
    head = f"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token('inference')}\r\n".encode()

    def hang_up(rest: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port_of(client)), timeout=30) as connection:
            connection.sendall(head + rest)

    with ThreadPoolExecutor(THREADS) as pool:
        gone = [pool.submit(hang_up, rest) for rest in list(HANG_UPS.values()) * 20]
        answers = list(pool.map(lambda _: send(client, "digits", request), range(120)))

    assert [one.exception() for one in gone] == [None] * len(gone)
    assert [difference(right, answer.content) for answer in answers] == [""] * 120
    assert workers(client) == before


def mutated(chance: random.Random, body: bytes) -> bytes:
    """A few bytes overwritten, cut out or put in."""
    data = bytearray(body)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place, count = chance.randrange(len(data) + 1), chance.choice((1, 1, 4, 30))
        new = chance.choice((chance.randbytes(count), bytes(count), b"\xff" * count, b'"', b"]", b"1e999", b"null,"))
        data[place : place + chance.choice((0, len(new), len(new), 50))] = new
    return bytes(data) if chance.random() < 0.9 else bytes(data[: chance.randrange(len(data) + 1)])


@pytest.mark.parametrize("name", NAMES)
def test_damaged_requests_are_answered_or_refused_and_never_the_workers_end(client: Client, name: str) -> None:
    kind, chance = spec.load(name).kind, random.Random(name)
    whole = [one for one in [*good(kind), *bad(kind)] if 0 < len(one.body) < 100_000 and not {FORM, MULTIPART} & set(one.headers)]
    control = good(kind)[0]
    before, right = workers(client), send(client, name, control).content
    deadline, tried = time.monotonic() + FUZZ_SECONDS, 0

    while time.monotonic() < deadline:
        bodies = [replace(sent, body=mutated(chance, sent.body)) for sent in chance.choices(whole, k=32)]
        answers = send_all(client, name, [one for body in bodies for one in (body, control)])

        faults = [pair for pair in zip(bodies, answers[::2], strict=True) if pair[1].status not in (200, 400, 413, 415)]
        assert faults == []
        assert all(answer.content.keys() == KEYS for answer in answers[::2] if answer.status >= 400)
        assert [difference(right, answer.content) for answer in answers[1::2]] == [""] * len(bodies)
        tried += len(bodies)

    assert workers(client) == before
    assert tried >= 32
