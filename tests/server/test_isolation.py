"""Bad requests among good ones on a live server: each is refused, others are unaffected, no worker dies."""

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from handlers.runtime.golden import difference
from marina.client import Client
from marina.core import paths, spec
from tests.support.bad_inputs import bad, good, refused_in_front
from tests.support.engines import ONLY_TORCHSERVE
from tests.support.good_inputs import payload
from tests.support.live_requests import KEYS, THREADS, port_of, send, send_all, wrong_among
from tests.support.sent_requests import FORM, MULTIPART

NAMES = spec.names()
FUZZ_SECONDS = 2.5  # per model
LEAST_BAD = 150  # requests, so that some share a batch with good ones


def workers(client: Client) -> dict[str, list[int]]:
    """The process ids of all workers."""
    return {
        name: [worker["pid"] for worker in client.describe(name)[0]["workers"]] for name in client.models()
    }


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
    """How many batches had answers and refusals; the log is written a little later than the answers are
    sent.
    """
    deadline = time.monotonic() + 10
    while sum(map(len, batches(client, ids))) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sum(200 in statuses and max(statuses) >= 400 for statuses in batches(client, ids))


@pytest.mark.parametrize("name", NAMES)
def test_every_bad_request_among_good_ones_fails_alone(client: Client, name: str) -> None:
    kind = spec.load(name).kind
    before = workers(client)

    faulty = bad(kind) * (1 + LEAST_BAD // len(bad(kind)))
    wrong, ids = wrong_among(client, name, good(kind), faulty, times=len(faulty) // len(good(kind)))

    assert wrong == {}
    assert workers(client) == before
    assert mixed_batches(client, ids) > 1  # a fast model on a busy machine has few requests at a time


@ONLY_TORCHSERVE
def test_what_torchserve_refuses_by_itself_reaches_no_worker(client: Client) -> None:
    before = workers(client)

    answers = {one.name: (one, send(client, "digits", one)) for one in refused_in_front()}

    found = {
        name: (answer.status, answer.content["type"] if answer.content else "")
        for name, (_, answer) in answers.items()
    }
    assert found == {name: (one.status, one.type) for name, (one, _) in answers.items()}
    assert workers(client) == before
    assert send(client, "digits", good("classifier")[0]).status == 200


HANG_UPS = {
    "a body that is shorter than it said": b"Content-Length: 1000\r\n\r\nhello",
    "a body that never comes": b"Content-Length: 1000\r\n\r\n",
    "a chunk that is cut off": b"Transfer-Encoding: chunked\r\n\r\nff\r\nhello",
    "headers without an end": b"Content-Length: 5\r\nTop_k: 1",
    "a whole request, answered to nobody": b"Content-Length: 5\r\n\r\nhello",
    "a good request, answered to nobody": b"Content-Length: %d\r\n\r\n%s"
    % (len(payload("classifier")), payload("classifier")),
}


def test_callers_that_hang_up_disturb_nobody(client: Client) -> None:
    request = good("classifier")[0]
    before, right = workers(client), send(client, "digits", request).content
    token = client.token("inference")
    head = f"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n".encode()

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
        new = chance.choice(
            (chance.randbytes(count), bytes(count), b"\xff" * count, b'"', b"]", b"1e999", b"null,")
        )
        data[place : place + chance.choice((0, len(new), len(new), 50))] = new
    return bytes(data) if chance.random() < 0.9 else bytes(data[: chance.randrange(len(data) + 1)])


@pytest.mark.parametrize("name", NAMES)
def test_damaged_requests_never_end_a_worker(client: Client, name: str) -> None:
    """Damaged requests are answered or refused, and no worker dies of them."""
    kind, chance = spec.load(name).kind, random.Random(name)
    whole = [
        one
        for one in [*good(kind), *bad(kind)]
        if 0 < len(one.body) < 100_000 and not {FORM, MULTIPART} & set(one.headers)
    ]
    control = good(kind)[0]
    before, right = workers(client), send(client, name, control).content
    deadline, tried = time.monotonic() + FUZZ_SECONDS, 0

    while time.monotonic() < deadline:
        bodies = [replace(sent, body=mutated(chance, sent.body)) for sent in chance.choices(whole, k=32)]
        answers = send_all(client, name, [one for body in bodies for one in (body, control)])

        faults = [
            pair
            for pair in zip(bodies, answers[::2], strict=True)
            if pair[1].status not in (200, 400, 413, 415)
        ]
        assert faults == []
        assert all(
            answer.content.keys() - {"error"} == KEYS for answer in answers[::2] if answer.status >= 400
        )
        assert [difference(right, answer.content) for answer in answers[1::2]] == [""] * len(bodies)
        tried += len(bodies)

    assert workers(client) == before
    assert tried >= 32
