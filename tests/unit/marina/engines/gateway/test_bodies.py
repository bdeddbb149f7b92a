"""Bodies become the rows that TorchServe hands to a predictor, and are bounded."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from handlers.protocol.errors import BadRequest, NotSupported, RequestError, TooLarge
from handlers.protocol.requests import Row
from marina.engines.gateway.bodies import LARGE_BYTES, Limits, read_large_row, read_row
from tests.support.bad_inputs import corpus, good
from tests.support.gateways import Recorder, call, gateway, recorded, with_client
from tests.support.sent_requests import ALL, JSON, MULTIPART, Bad, Part, Sent, multipart, row_of

URLENCODED = ("Content-Type", "application/x-www-form-urlencoded")
LIMITS = Limits(max_request_size=1_000_000, body_seconds=0.2)
OBSERVATION = b'{"observation": [0, 0, 0, 0]}'
SENT = [*(one for kind in sorted(ALL) for one in good(kind)), *(one for one in corpus() if not one.in_front)]
PACKED = "Content-Encoding"  # which TorchServe leaves to the predictor


def gzipped(content: bytes) -> bytes:
    """Without the time, which would differ in the names of tests from process to process."""
    return gzip.compress(content, mtime=0)


def read(body: bytes, headers: dict[str, str]) -> Row:
    own = {name.lower(): value for name, value in headers.items()}
    if len(body) < LARGE_BYTES and "content-encoding" not in own:
        return read_row(body, own)
    return asyncio.run(read_large_row(body, own, LIMITS))


def plain(fields: Any) -> dict[str, Any]:
    return {name: bytes(value) if isinstance(value, bytearray) else value for name, value in fields.items()}


def row_or_refusal(sent: Sent) -> Any:
    """The fields of a request, or the status and type of its refusal."""
    body, headers = sent.content()
    try:
        return repr(read(body, dict(headers))[0])  # NaN equals itself by its text alone
    except RequestError as error:
        return error.status, type(error).__name__


def test_every_row_is_torchserves() -> None:
    """Every request of the corpora is read as TorchServe reads it; where a bad form is refused instead, that
    has the status that the predictor would have given.
    """
    wrong = {}
    for sent in (one for one in SENT if PACKED not in dict(one.headers)):
        refusal = (sent.status, sent.type) if isinstance(sent, Bad) else None
        found = row_or_refusal(sent)
        rows = [row_of(sent)[0]]
        if len(sent.body) >= LARGE_BYTES:  # large JSON is parsed whatever its content type
            rows.append(row_of(replace(sent, headers=(*sent.headers, JSON)))[0])
        if found not in (*(repr(plain(row)) for row in rows), refusal):
            wrong[sent.name] = found
    assert wrong == {}


@pytest.mark.parametrize(
    ("body", "headers", "refused"),
    [
        (multipart((Part("data", b"1", "image/png"), Part("data", b"2", "image/png"))), MULTIPART, "twice"),
        (b"data=1&data=2", URLENCODED, "twice"),
        (b"data=%zz", URLENCODED, "%25"),
        (b"=x", URLENCODED, "no name"),
        (b"&".join([b"a%d=1" % n for n in range(2000)]), URLENCODED, "1000 fields"),
        (multipart(tuple(Part(f"f{n}", b"x") for n in range(2000))), MULTIPART, "1000 parts"),
        (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n", MULTIPART, "no name"),
        (b'--B\r\nContent-Disposition: form-data; name="data"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
         b"x\r\n--B--\r\n", MULTIPART, "content-transfer-encoding"),
        (b"--B\r\nContent-Dis", MULTIPART, "cut off"),
    ],
)  # fmt: skip
def test_a_form_that_is_ambiguous_is_refused(body: bytes, headers: tuple[str, str], refused: str) -> None:
    """TorchServe would take the last of two, or none; here the caller is told."""
    with pytest.raises(BadRequest, match=refused):
        read(body, dict([headers]))


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzipped(OBSERVATION)),
        ("x-gzip", gzipped(OBSERVATION[:9]) + gzipped(OBSERVATION[9:])),
        ("deflate", zlib.compress(OBSERVATION)),
        ("Identity", OBSERVATION),
    ],
)
def test_a_packed_body_is_unpacked(encoding: str, packed: bytes) -> None:
    """As Content-Encoding says; a predictor sees nothing of it."""
    fields, headers = read(packed, {"Content-Type": "application/json", "Content-Encoding": encoding})

    assert fields == {"body": json.loads(OBSERVATION)}
    assert headers == {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("encoding", "packed", "error", "reason"),
    [
        ("br", OBSERVATION, NotSupported, "'br'.*gzip or deflate"),
        ("gzip, gzip", gzipped(OBSERVATION), NotSupported, "gzip or deflate"),
        ("gzip", OBSERVATION, BadRequest, "not gzip"),
        ("gzip", gzipped(OBSERVATION)[:-9], BadRequest, "cut off"),
        ("gzip", gzipped(bytes(50_000_000)), TooLarge, "1,000,000 bytes"),
        ("gzip", gzipped(bytes(600_000)) * 2, TooLarge, "1,000,000 bytes"),
    ],
)
def test_a_packed_body_that_is_none_is_refused(
    encoding: str, packed: bytes, error: type[RequestError], reason: str
) -> None:
    """Unknown encodings, broken ones, and those that unpack to more than a body may have."""
    with pytest.raises(error, match=reason):
        read(packed, {"Content-Encoding": encoding})


def test_a_large_body_is_read_as_a_small_one() -> None:
    """It is read in a thread."""
    rows = [[0.5] * 4] * (LARGE_BYTES // 8)

    fields, _ = read(json.dumps(rows).encode(), {"Content-Type": "application/json"})

    assert fields == {"body": rows}


@pytest.mark.parametrize("text", ["[Music] ", '{"a": 1} '])
def test_a_large_text_may_begin_like_json(text: str) -> None:
    """What is said to be a text is no broken JSON; what says nothing is."""
    body = (text * LARGE_BYTES)[:LARGE_BYTES].encode()

    fields, _ = read(body, {"Content-Type": "text/plain"})

    assert fields == {"body": body.decode()}
    with pytest.raises(BadRequest, match="JSON"):
        read(body, {"Content-Type": "application/json"})


async def chunks(count: int, size: int, seconds: float = 0) -> AsyncIterator[bytes]:
    for _ in range(count):
        await asyncio.sleep(seconds)
        yield bytes(size)


@pytest.mark.parametrize(
    ("headers", "count", "size", "seconds", "status", "kind"),
    [
        ({"content-length": "2000000"}, 1, 10, 0, 413, "TooLarge"),
        ({}, 30, 100_000, 0, 413, "TooLarge"),
        ({}, 10, 1, 0.1, 408, "RequestTimeoutException"),
        ({"content-length": "-1"}, 1, 10, 0, 400, "BadRequest"),
    ],
)
def test_a_body_that_is_too_long_or_slow_is_cut_short(
    headers: dict[str, str], count: int, size: int, seconds: float, status: int, kind: str
) -> None:
    """By its announced length before it is read, by what came otherwise; the connection is closed."""
    recorder = Recorder()
    app = gateway(recorded(recorder), limits=LIMITS)

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        content = chunks(count, size, seconds)
        return await client.post("/predictions/recorder", content=content, headers=headers)

    answer = with_client(app, send)

    assert (answer.status_code, answer.json()["type"]) == (status, kind)
    assert recorder.batches == []
    assert (answer.headers.get("connection") == "close") == (status != 400)


def test_a_header_that_torchserve_sets_is_nobodys() -> None:
    """Whether an explanation is asked for is the path's word; the last of several headers counts."""
    seen = []
    recorder = Recorder()
    answer = recorder.reply
    recorder.reply = lambda rows, ids: seen.extend(rows) or answer(rows, ids)
    headers = [("Explain", "True"), ("Top_K", "1"), ("top_k", "2"), ("traceparent", "00-1-2-3")]

    for path in ("/predictions/recorder/1.0/a/b", "/explanations/recorder"):
        call(gateway(recorded(recorder)), "POST", path, content=b"x", headers=headers)

    assert [(own["explain"], own["top_k"], own["url_path"]) for _, own in seen] == [
        ("False", "2", "a/b"),
        ("True", "2", ""),
    ]
    assert seen[0][1]["traceparent"] == "00-1-2-3"
