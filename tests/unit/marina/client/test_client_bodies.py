"""What the clients send: files, pictures, numbers, options, and many bodies in slices."""

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from marina.client import Client, encoding, request_options
from marina.client.async_client import AsyncClient
from marina.core import paths
from marina.core.errors import CallError, RequestRefused, ServerUnavailable
from tests.support.misbehaving_server import FINE, Server, Trick, answer, running, serving, silent, torchserve

pytestmark = pytest.mark.usefixtures("quick_retries")


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_files_go_as_they_are_and_pictures_as_png(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "a.json").write_text('{"a": 1}')

    assert (
        encoding.encode_body(b"abc")
        == encoding.encode_body(bytearray(b"abc"))
        == encoding.encode_body(tmp_path / "a.bin")
        == (b"abc", encoding.BYTES)
    )
    assert encoding.encode_body(tmp_path / "a.json") == (b'{"a": 1}', encoding.JSON)
    for picture in (pixels(), pixels()[:, :, 0], Image.fromarray(pixels())):
        content, content_type = encoding.encode_body(picture)
        assert content_type == encoding.BYTES
        assert content.startswith(b"\x89PNG")
        np.testing.assert_array_equal(opened(content), np.asarray(picture))


def test_a_picture_is_sent_as_it_is_seen_whatever_its_mode() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(buffer, "PNG", exif=exif)

    assert opened(encoding.encode_body(Image.open(buffer))[0]).shape == (5, 6, 3)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "F", "I", "I;16"):
        content, _ = encoding.encode_body(Image.new(mode, (4, 3)))
        assert Image.open(io.BytesIO(content)).size == (4, 3)


def test_numbers_go_as_an_observation_exactly() -> None:
    observation = np.array([0.1, -3e-7, 2], np.float32)

    content, content_type = encoding.encode_body(observation)

    assert content_type == encoding.JSON
    np.testing.assert_array_equal(np.array(json.loads(content)["observation"], np.float32), observation)
    assert json.loads(encoding.encode_body(np.arange(3))[0]) == json.loads(
        encoding.encode_body({"observation": np.arange(3)})[0]
    )
    assert json.loads(encoding.encode_body(np.uint8([1, 2]))[0]) == {"observation": [1, 2]}
    assert json.loads(encoding.encode_body({"a": [np.float32(0.5), "é"]})[0]) == {"a": [0.5, "é"]}


@pytest.mark.parametrize(
    "body",
    [
        {1, 2},
        object(),
        [float("nan")],
        np.array([np.inf]),
        np.array([True]),
        np.array(["a"]),
        Path("/nowhere/at/all"),
        [b"bytes"],
    ],
    ids=lambda body: type(body).__name__,
)
def test_what_cannot_be_sent_is_refused_before_anything_is(body: Any) -> None:
    with serving(FINE) as server, Client(url=server.url) as client, pytest.raises(CallError):
        client.predict("m", body)

    assert server.requests == []


def test_options_go_as_headers_that_pass_any_proxy() -> None:
    options = {
        "top_k": 3,
        "confidence_threshold": np.float32(0.5),
        "deterministic": False,
        "seed": None,
        "action_mask": [1, 0],
    }
    with serving(FINE) as server, Client(url=server.url) as client:
        client.predict("m", [1], **options, headers={"X-Own": "1", "Content-Type": "text/plain"})

        headers = server.requests[0][1]
    assert {
        name: headers[name]
        for name in ("top-k", "confidence-threshold", "deterministic", "action-mask", "x-own")
    } == {
        "top-k": "3",
        "confidence-threshold": "0.5",
        "deterministic": "false",
        "action-mask": "[1,0]",
        "x-own": "1",
    }
    assert "seed" not in headers
    assert headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"topk": 3}, "unknown options: topk; known: top_k"), ({"top_k": "3\r\nx: y"}, "plain")],
)
def test_an_option_that_nobody_knows_is_a_mistake_of_the_caller(options: dict[str, Any], words: str) -> None:
    with Client(url="http://127.0.0.1:9") as client, pytest.raises(CallError, match=words):
        client.predict("m", [1], **options)


def test_every_option_of_the_handlers_is_known_to_the_client() -> None:
    named = set()
    handlers = paths.SOURCE / "handlers"
    for file in (*(handlers / "kinds").glob("*.py"), *(handlers / "decoding").glob("*.py")):
        source = file.read_text()
        constants = dict(re.findall(r'^([A-Z_]+) = "(\w+)"$', source, re.MULTILINE))
        for literal, constant in re.findall(
            r'(?:"(\w+)"\]?(?:: | = )|([A-Z_]+): )(?:(?:Number|Choice|Flag|Mask|Texts?)\(|TOP_K)', source
        ):
            named.add(literal or constants[constant])

    assert {"top_k", "seed"} <= named
    # it goes with a state, which is too long for a header: both stand in the body
    assert named - {"step"} == set(request_options.NAMES)


class Echo(Server):
    """Answers each instance of a request with itself and the request's seed; refuses more than `most` of
    them.
    """

    def __init__(self, most: int) -> None:
        super().__init__(FINE)
        self.most = most

    def next(self, path: str, headers: dict[str, str], body: bytes) -> Trick:
        super().next(path, headers, body)
        sent = (
            json.loads(body) if headers["content-type"] == encoding.JSON else base64.b64encode(body).decode()
        )
        instances = sent["instances"] if isinstance(sent, dict) and "instances" in sent else [sent]
        if len(instances) > self.most:
            return torchserve(413, "TooLarge", "too many")
        answers = [{"got": one, "seed": int(headers.get("seed", 0))} for one in instances]
        return answer(
            200, {"predictions": answers} if isinstance(sent, dict) and "instances" in sent else answers[0]
        )


def sync_many(url: str, bodies: Any, **more: Any) -> Any:
    with Client(url=url) as client:
        return client.predict_many("m", bodies, **more)


def async_many(url: str, bodies: Any, **more: Any) -> Any:
    async def predict() -> Any:
        async with AsyncClient(url=url) as client:
            return await client.predict_many("m", bodies, **more)

    return asyncio.run(predict())


MANY = pytest.mark.parametrize("predict_many", [sync_many, async_many], ids=["sync", "async"])


@MANY
@pytest.mark.parametrize("number", [0, 1, 2, 64, 65, 500])
def test_many_bodies_are_answered_in_their_order(predict_many: Callable[..., Any], number: int) -> None:
    with running(Echo(10_000)) as server:
        answers = predict_many(server.url, ({"x": i} for i in range(number)))

        assert [one["got"] for one in answers] == [{"x": i} for i in range(number)]
        assert len(server.requests) == -(-number // encoding.SLICE_BODIES)


@MANY
def test_a_slice_that_is_too_large_for_the_server_is_halved(predict_many: Callable[..., Any]) -> None:
    with running(Echo(3)) as server:
        answers = predict_many(server.url, list(range(20)))

    assert [one["got"] for one in answers] == list(range(20))


@MANY
def test_files_among_many_bodies_are_base64_and_large_ones_binary(
    predict_many: Callable[..., Any],
) -> None:
    """Files among many bodies are sent as text, and large ones as they are."""
    bodies = [b"a", b"b", bytes(encoding.SLICE_BYTES), b"c"]
    with running(Echo(100)) as server:
        answers = predict_many(server.url, bodies)

        assert sorted(len(body) for _, _, body in server.requests)[-1] == encoding.SLICE_BYTES
    assert [base64.b64decode(one["got"]) for one in answers] == bodies


@MANY
def test_slices_draw_with_different_seeds(predict_many: Callable[..., Any]) -> None:
    with running(Echo(100)) as server:
        answers = predict_many(server.url, list(range(150)), seed=7)

    assert [one["seed"] for one in answers] == [7] * 64 + [7 + 64] * 64 + [7 + 128] * 22


@MANY
def test_the_first_error_ends_many_and_the_deadline_is_that_of_them_all(
    predict_many: Callable[..., Any],
) -> None:
    with serving(torchserve(400, "BadRequest", "no")) as server:
        with pytest.raises(RequestRefused, match="no"):
            predict_many(server.url, iter(range(64 * 100)))
        assert len(server.requests) <= 10

    with serving(silent) as server:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            predict_many(server.url, range(64 * 12), timeout=0.5)
        assert time.monotonic() - started < 0.8
