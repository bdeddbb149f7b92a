"""The clients against a server that misbehaves on purpose: what is sent again, what is not, and whose fault it is said to be."""

import asyncio
import base64
import io
import json
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from marina import paths
from marina.client import Client, exchange, grpc_client, wire
from marina.client.async_client import AsyncClient
from marina.client.grpc_client import GrpcClient
from marina.errors import CallError, RequestError, RequestRefused, ServerError, ServerFault, ServerUnavailable, WorkError

Trick = bytes | Callable[[socket.socket], None]


def answer(status: int = 200, content: Any = None, **headers: str) -> bytes:
    """A whole answer; by default the one that everybody hopes for."""
    body = content if isinstance(content, bytes) else json.dumps({"fine": True} if content is None else content).encode()
    own = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    return f"HTTP/1.1 {status} Words\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def torchserve(status: int, error_type: str, message: str) -> bytes:
    """An error as TorchServe words it."""
    return answer(status, {"code": status, "type": error_type, "message": message})


FULL = torchserve(503, "ServiceUnavailableException", 'Model "m" has no worker to serve inference request.')
DIED = torchserve(500, "InternalServerException", "Worker died.")
FINE = answer()


def reset(connection: socket.socket) -> None:
    """End the connection with a reset instead of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half(connection: socket.socket) -> None:
    """Half an answer, and the end."""
    connection.sendall(FINE[:-5])


def silent(connection: socket.socket) -> None:
    """Nothing, for as long as the client waits."""
    connection.settimeout(5)
    connection.recv(1)


def dripping(what: bytes) -> Callable[[socket.socket], None]:
    """A byte now and then, without end."""

    def drip(connection: socket.socket) -> None:
        try:
            for byte in what + bytes(1000):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            return

    return drip


def stalling(connection: socket.socket) -> None:
    """A good part of the answer, late; then nothing more."""
    time.sleep(0.3)
    connection.sendall(FINE[:-5])
    silent(connection)


class Server(socketserver.ThreadingTCPServer):
    """Answers each request with the next of its tricks, the last of them for ever; notes what arrived."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, *tricks: Trick, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Requests)
        self.tricks, self.requests, self.lock = list(tricks), list[tuple[str, dict[str, str], bytes]](), threading.Lock()
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def next(self, path: str, headers: dict[str, str], body: bytes) -> Trick:
        with self.lock:
            self.requests.append((path, headers, body))
            return self.tricks.pop(0) if len(self.tricks) > 1 else self.tricks[0]


class Requests(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        try:
            while line := self.rfile.readline():
                headers: dict[str, str] = {}
                while (header := self.rfile.readline().decode().strip()) and ":" in header:
                    name, value = header.split(":", 1)
                    headers[name.lower()] = value.strip()
                body = self.rfile.read(int(headers.get("content-length", 0)))
                trick = self.server.next(line.decode().split()[1], headers, body)
                if not isinstance(trick, bytes):
                    trick(self.connection)
                    return
                self.connection.sendall(trick)
        except OSError:
            return


S = TypeVar("S", bound=Server)


@contextmanager
def running(server: S) -> Iterator[S]:
    """The server, for the length of a `with` block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def serving(*tricks: Trick, port: int = 0) -> AbstractContextManager[Server]:
    """A running server with these tricks."""
    return running(Server(*tricks, port=port))


def sync_predict(url: str, body: Any = None, **settings: Any) -> Any:
    with Client(url=url, **settings) as client:
        return client.predict("m", {"x": 1} if body is None else body)


def async_predict(url: str, body: Any = None, **settings: Any) -> Any:
    async def predict() -> Any:
        async with AsyncClient(url=url, **settings) as client:
            return await client.predict("m", {"x": 1} if body is None else body)

    return asyncio.run(predict())


BOTH = pytest.mark.parametrize("predict", [sync_predict, async_predict], ids=["sync", "async"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are a tenth of what they are elsewhere."""
    monkeypatch.setattr(exchange, "BASE_SECONDS", exchange.BASE_SECONDS / 10)


@BOTH
@pytest.mark.parametrize(
    "trick",
    [FULL, DIED, reset, half, answer(502, b"<html>", content_type="text/html"), answer(504, b""), torchserve(507, "X", "Out of resources")],
    ids=["full queue", "died worker", "reset", "half", "proxy", "proxy's timeout", "memory"],
)
def test_a_prediction_is_sent_again_after_what_may_pass(predict: Callable[..., Any], trick: Trick) -> None:
    with serving(trick, FINE) as server:
        assert predict(server.url) == {"fine": True}
        assert len(server.requests) == 2
        assert server.requests[0] == server.requests[1]


@BOTH
@pytest.mark.parametrize(
    ("trick", "kind"),
    [
        (torchserve(400, "NotUnderstood", "observation must be …"), RequestRefused),
        (torchserve(404, "ModelNotFoundException", "Model not found: m"), RequestRefused),
        (answer(413, b""), RequestRefused),
        (answer(429, b"slow down", Retry_After="0"), ServerUnavailable),
        (answer(302, b"", Location="http://127.0.0.1:9/"), RequestRefused),
        (torchserve(500, "ModelFault", "the model failed"), ServerFault),
        (torchserve(503, "InternalServerException", "Prediction failed"), ServerFault),
        (answer(200, b"{no JSON"), ServerFault),
    ],
    ids=["400", "404", "413", "429", "302", "500", "prediction failed", "broken JSON"],
)
def test_what_would_only_happen_again_is_sent_once(predict: Callable[..., Any], trick: Trick, kind: type[RequestError]) -> None:
    with serving(trick, FINE) as server:
        with pytest.raises(kind) as caught:
            predict(server.url)

        assert type(caught.value) is kind
        assert len(server.requests) == 1


@BOTH
@pytest.mark.parametrize(("trick", "times"), [(FULL, 4), (reset, 4), (half, 4), (DIED, 2)], ids=["full", "reset", "half", "died"])
def test_it_is_not_tried_for_ever(predict: Callable[..., Any], trick: Trick, times: int) -> None:
    with serving(trick) as server:
        with pytest.raises(ServerUnavailable):
            predict(server.url)

        assert len(server.requests) == times


@BOTH
@pytest.mark.parametrize("trick", [FULL, reset, DIED])
def test_without_retries_there_is_one_try(predict: Callable[..., Any], trick: Trick) -> None:
    with serving(trick, FINE) as server:
        with pytest.raises(ServerUnavailable):
            predict(server.url, retries=0)

        assert len(server.requests) == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@BOTH
def test_a_server_that_is_not_there_is_named_and_not_sent_anything(predict: Callable[..., Any]) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(
        ServerUnavailable, match=rf"{url}/predictions/m: no connection \(\[Errno 111\] Connect.*\); is the server running"
    ) as caught:
        predict(url)

    assert caught.value.status == 0


@BOTH
def test_a_server_that_comes_up_meanwhile_is_found(predict: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BASE_SECONDS", 0.3)
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(predict, f"http://127.0.0.1:{port}", retries=9)
        time.sleep(0.1)
        with serving(FINE, port=port):
            assert asked.result() == {"fine": True}


@BOTH
@pytest.mark.parametrize(
    "trick",
    [silent, stalling, dripping(b"HTTP/1.1 200 OK\r\nx: "), dripping(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n"), FULL],
    ids=["silent", "stalling", "dripping headers", "dripping body", "busy"],
)
def test_the_deadline_is_that_of_the_whole_call(predict: Callable[..., Any], trick: Trick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BASE_SECONDS", 0.3)
    with serving(trick) as server:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            predict(server.url, timeout=0.5, retries=99)
        took = time.monotonic() - started

    assert took < 0.8
    assert trick is FULL or took > 0.45


def test_a_deadline_holds_while_a_large_body_is_not_taken() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for predict in (sync_predict, async_predict):
            started = time.monotonic()
            with pytest.raises(ServerUnavailable, match=r"no answer within 0\.5 s"):
                predict(url, body=bytes(20_000_000), timeout=0.5)
            assert 0.45 < time.monotonic() - started < 0.8


def test_a_call_has_its_own_deadline_where_it_says_one() -> None:
    with serving(silent) as server, Client(url=server.url) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable, match=r"no answer within 0\.2 s"):
            client.predict("m", [1], timeout=0.2)

        assert time.monotonic() - started < 0.5


@BOTH
def test_retry_after_is_waited_for_where_the_deadline_allows_it(predict: Callable[..., Any]) -> None:
    def soon() -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=1.5), usegmt=True)  # in whole seconds

    for say, least in [(lambda: "1", 1.0), (soon, 0.4), (lambda: "0", 0.0), (lambda: "nonsense", 0.0)]:
        text = say()
        with serving(answer(503, b"", Retry_After=text), FINE) as server:
            started = time.monotonic()
            assert predict(server.url) == {"fine": True}
            assert least <= time.monotonic() - started < least + 1.5

    with serving(answer(503, b"", Retry_After="60"), FINE) as server:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            predict(server.url, timeout=5)
        assert time.monotonic() - started < 0.5
        assert len(server.requests) == 1


def test_waits_between_tries_are_spread_and_grow() -> None:
    drawn = [[exchange._backoff(repeated, wire.Lost("broken")) for _ in range(300)] for repeated in (0, 3, 20)]

    longest = [exchange.BASE_SECONDS, 8 * exchange.BASE_SECONDS, exchange.LONGEST_SECONDS]
    for waits, most in zip(drawn, longest, strict=True):
        assert 0.9 * most < max(waits) <= most
        assert min(waits) < 0.1 * most


@pytest.mark.parametrize("trick", [reset, FULL])
def test_what_changes_the_server_is_not_sent_again_where_it_may_have_happened(trick: Trick) -> None:
    versions = answer(404, {"message": "no such model"})
    with serving(versions, trick, FINE) as server, Client(url=server.url, management_url=server.url) as client:
        with pytest.raises(ServerUnavailable):
            client.register("m", "1.0", "m.mar")

        assert [path.split("?")[0] for path, _, _ in server.requests] == ["/models/m/all", "/models"]

    with serving(trick, FINE) as server, Client(url=server.url, management_url=server.url) as client:
        client.scale("m", "1.0", 2)

        assert len(server.requests) == 2


def test_garbage_instead_of_an_answer_is_an_error_of_ours() -> None:
    for predict in (sync_predict, async_predict):
        with serving(b"\0\1\2 what is this\r\n\r\n") as server, pytest.raises(ServerUnavailable, match="the connection broke"):
            predict(server.url)


def test_an_error_says_whose_fault_it_is_in_the_servers_words_and_where_the_log_has_it() -> None:
    refusal = {"code": 400, "type": "NotUnderstood", "message": "send numbers", "request_id": "abc"}
    with serving(answer(400, refusal), answer(500, b"", x_request_id="def")) as server, Client(url=server.url) as client:
        with pytest.raises(RequestRefused) as refused:
            client.predict("m", [1])
        with pytest.raises(ServerFault) as failed:
            client.predict("m", [1])

    error = refused.value
    assert (error.status, error.type, error.message, error.request_id) == (400, "NotUnderstood", "send numbers", "abc")
    assert str(error) == f"POST {server.url}/predictions/m: 400: send numbers"
    assert (failed.value.status, failed.value.request_id) == (500, "def")
    assert isinstance(error, RequestError)
    assert isinstance(error, WorkError)


def test_one_connection_serves_many_calls_and_one_client_many_threads() -> None:
    with serving(FINE) as server, Client(url=server.url) as client:
        for _ in range(20):
            client.predict("m", [1])
        assert server.connections == 1

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.predict("m", [1]), range(200)))
        assert answers == [{"fine": True}] * 200
        assert len(server.requests) == 220
        assert server.connections <= 9


def test_sixteen_tasks_need_sixteen_connections() -> None:
    async def ask(url: str) -> list[Any]:
        async with AsyncClient(url=url) as client:
            return [await asyncio.gather(*(client.predict("m", [1]) for _ in range(16))) for _ in range(5)]

    with serving(FINE) as server:
        answers = asyncio.run(ask(server.url))

        assert answers == [[{"fine": True}] * 16] * 5
        assert server.connections == 16


def test_a_cancelled_task_leaves_a_client_that_works() -> None:
    async def ask(url: str) -> Any:
        async with AsyncClient(url=url) as client:
            task = asyncio.create_task(client.predict("m", [1]))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.predict("m", [1])

    with serving(silent, FINE) as server:
        assert asyncio.run(ask(server.url)) == {"fine": True}


def test_cancelled_many_end_at_once_and_nothing_of_them_goes_on() -> None:
    async def ask(url: str) -> float:
        async with AsyncClient(url=url) as client:
            task = asyncio.create_task(client.predict_many("m", range(1000)))
            await asyncio.sleep(0.2)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(asyncio.all_tasks()) == 1
            return time.monotonic() - started

    with serving(silent) as server:
        assert asyncio.run(ask(server.url)) < 0.3
        assert len(server.requests) == 4


def test_a_cookie_is_not_sent_back_and_a_name_stays_one_part_of_the_path() -> None:
    with serving(answer(Set_Cookie="a=b")) as server, Client(url=server.url) as client:
        client.predict("m", [1])
        client.predict("a/b?c", [1])

    assert "cookie" not in server.requests[1][1]
    assert server.requests[1][0] == "/predictions/a%2Fb%3Fc"


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_files_go_as_they_are_and_pictures_as_png(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "a.json").write_text('{"a": 1}')

    assert wire.encoded(b"abc") == wire.encoded(bytearray(b"abc")) == wire.encoded(tmp_path / "a.bin") == (b"abc", wire.BYTES)
    assert wire.encoded(tmp_path / "a.json") == (b'{"a": 1}', wire.JSON)
    for picture in (pixels(), pixels()[:, :, 0], Image.fromarray(pixels())):
        content, content_type = wire.encoded(picture)
        assert content_type == wire.BYTES
        assert content.startswith(b"\x89PNG")
        np.testing.assert_array_equal(opened(content), np.asarray(picture))


def test_a_picture_is_sent_as_it_is_seen_whatever_its_mode() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(buffer, "PNG", exif=exif)

    assert opened(wire.encoded(Image.open(buffer))[0]).shape == (5, 6, 3)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "F", "I", "I;16"):
        content, _ = wire.encoded(Image.new(mode, (4, 3)))
        assert Image.open(io.BytesIO(content)).size == (4, 3)


def test_numbers_go_as_an_observation_exactly() -> None:
    observation = np.array([0.1, -3e-7, 2], np.float32)

    content, content_type = wire.encoded(observation)

    assert content_type == wire.JSON
    np.testing.assert_array_equal(np.array(json.loads(content)["observation"], np.float32), observation)
    assert json.loads(wire.encoded(np.arange(3))[0]) == json.loads(wire.encoded({"observation": np.arange(3)})[0])
    assert json.loads(wire.encoded(np.uint8([1, 2]))[0]) == {"observation": [1, 2]}
    assert json.loads(wire.encoded({"a": [np.float32(0.5), "é"]})[0]) == {"a": [0.5, "é"]}


@pytest.mark.parametrize(
    "body",
    [{1, 2}, object(), [float("nan")], np.array([np.inf]), np.array([True]), np.array(["a"]), Path("/nowhere/at/all"), [b"bytes"]],
    ids=lambda body: type(body).__name__,
)
def test_what_cannot_be_sent_is_refused_before_anything_is(body: Any) -> None:
    with serving(FINE) as server, Client(url=server.url) as client, pytest.raises(CallError):
        client.predict("m", body)

    assert server.requests == []


def test_options_go_as_headers_that_pass_any_proxy() -> None:
    options = {"top_k": 3, "confidence_threshold": np.float32(0.5), "deterministic": False, "seed": None, "action_mask": [1, 0]}
    with serving(FINE) as server, Client(url=server.url) as client:
        client.predict("m", [1], **options, headers={"X-Own": "1", "Content-Type": "text/plain"})

        headers = server.requests[0][1]
    assert {name: headers[name] for name in ("top-k", "confidence-threshold", "deterministic", "action-mask", "x-own")} == {
        "top-k": "3",
        "confidence-threshold": "0.5",
        "deterministic": "false",
        "action-mask": "[1,0]",
        "x-own": "1",
    }
    assert "seed" not in headers
    assert headers["content-type"] == "text/plain"


@pytest.mark.parametrize(("options", "words"), [({"topk": 3}, "unknown options: topk; known: top_k"), ({"top_k": "3\r\nx: y"}, "plain")])
def test_an_option_that_nobody_knows_is_a_mistake_of_the_caller(options: dict[str, Any], words: str) -> None:
    with Client(url="http://127.0.0.1:9") as client, pytest.raises(CallError, match=words):
        client.predict("m", [1], **options)


def test_every_option_of_the_handlers_is_known_to_the_client() -> None:
    handlers = paths.SOURCE / "handlers"
    named = {
        name
        for file in handlers.glob("*_handler.py")
        for name in re.findall(r'"(\w+)"\]?(?:: | = )(?:(?:Number|Choice|Flag|Mask)\(|TOP_K)', file.read_text())
    }

    assert {"top_k", "seed"} <= named
    assert named - {"step"} == set(wire.OPTIONS)  # it goes with a state, which is too long for a header: both stand in the body


class Echo(Server):
    """Answers each instance of a request with itself and the request's seed; refuses more than `most` of them."""

    def __init__(self, most: int) -> None:
        super().__init__(FINE)
        self.most = most

    def next(self, path: str, headers: dict[str, str], body: bytes) -> Trick:
        super().next(path, headers, body)
        sent = json.loads(body) if headers["content-type"] == wire.JSON else base64.b64encode(body).decode()
        instances = sent["instances"] if isinstance(sent, dict) and "instances" in sent else [sent]
        if len(instances) > self.most:
            return torchserve(413, "TooLarge", "too many")
        answers = [{"got": one, "seed": int(headers.get("seed", 0))} for one in instances]
        return answer(200, {"predictions": answers} if isinstance(sent, dict) and "instances" in sent else answers[0])


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
        assert len(server.requests) == -(-number // wire.SLICE_BODIES)


@MANY
def test_a_slice_that_is_too_large_for_the_server_is_halved(predict_many: Callable[..., Any]) -> None:
    with running(Echo(3)) as server:
        answers = predict_many(server.url, list(range(20)))

    assert [one["got"] for one in answers] == list(range(20))


@MANY
def test_files_among_many_bodies_are_sent_as_text_and_large_ones_as_they_are(predict_many: Callable[..., Any]) -> None:
    bodies = [b"a", b"b", bytes(wire.SLICE_BYTES), b"c"]
    with running(Echo(100)) as server:
        answers = predict_many(server.url, bodies)

        assert sorted(len(body) for _, _, body in server.requests)[-1] == wire.SLICE_BYTES
    assert [base64.b64decode(one["got"]) for one in answers] == bodies


@MANY
def test_slices_draw_with_different_seeds(predict_many: Callable[..., Any]) -> None:
    with running(Echo(100)) as server:
        answers = predict_many(server.url, list(range(150)), seed=7)

    assert [one["seed"] for one in answers] == [7] * 64 + [7 + 64] * 64 + [7 + 128] * 22


@MANY
def test_the_first_error_ends_many_and_the_deadline_is_that_of_them_all(predict_many: Callable[..., Any]) -> None:
    with serving(torchserve(400, "NotUnderstood", "no")) as server:
        with pytest.raises(RequestRefused, match="no"):
            predict_many(server.url, iter(range(64 * 100)))
        assert len(server.requests) <= 10

    with serving(silent) as server:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            predict_many(server.url, range(64 * 12), timeout=0.5)
        assert time.monotonic() - started < 0.8


class Guarded(Server):
    """Knows one token and writes it to a key file; every renewal makes another, in a while, and voids the old one."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__(FINE)
        self.path, self.renewals, self.is_closed = path, 0, False
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        self.token = f"token{self.renewals}"
        expires = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "123Z")
        keys = {name: {"key": self.token, "expiration time": expires} for name in ("inference", "management")}
        text = json.dumps({**keys, "API": {"key": "api"}})
        with self.path.open("w") as file:  # in place and not at once, as TorchServe writes it
            file.write(text[:20])
            file.flush()
            time.sleep(0.005)
            file.write(text[20:])

    def next(self, path: str, headers: dict[str, str], body: bytes) -> Trick:
        super().next(path, headers, body)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if path.startswith("/token") and bearer == "api" and not self.is_closed:
            with self.lock:
                self.renewals += 1
                self.renew(3600)
            return answer(200, b"\n")
        return FINE if bearer == self.token else torchserve(400, "InvalidKeyException", "Token Authorization failed.")


def test_a_token_is_renewed_before_it_expires_and_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server:
        with Client(url=server.url, management_url=server.url, key_file=path) as client:
            assert [client.predict("m", [1]) for _ in range(3)] == [{"fine": True}] * 3
            assert server.renewals == 0
            server.renew(20)
            path.touch()
            later = time.time() + 15

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exchange.time, "time", lambda: later)
                assert client.predict("m", [1]) == {"fine": True}
                assert client.predict("m", [1]) == {"fine": True}

        assert server.renewals == 1
        assert [path for path, _, _ in server.requests].count("/predictions/m") == 5


@pytest.mark.parametrize("seconds", [-100.0, 0.0])
def test_clients_that_renew_at_the_same_moment_do_not_break_each_other(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, seconds)) as server:
        settings = {"url": server.url, "management_url": server.url, "key_file": path}
        clients = [Client(**settings) for _ in range(3)]

        async def ask() -> list[Any]:
            async with AsyncClient(**settings) as client:
                return await asyncio.gather(*(client.predict("m", [1]) for _ in range(8)))

        with ThreadPoolExecutor(13) as pool:
            several = pool.submit(lambda: asyncio.run(ask()))
            answers = list(pool.map(lambda i: clients[i % 3].predict("m", [1]), range(60)))
            answers += several.result()
        for client in clients:
            client.close()

        assert answers == [{"fine": True}] * 68
        assert 1 <= server.renewals <= 4


def test_a_token_that_another_process_renewed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server, Client(url=server.url, key_file=path) as client:
        client.predict("m", [1])
        server.renewals = 1
        before = path.stat()
        server.renew(3600)
        import os

        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # within one tick of the clock

        assert client.predict("m", [1]) == {"fine": True}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_that_knows_another_token_than_its_file_is_asked_for_a_new_one(asynchronous: bool, tmp_path: Path) -> None:
    """What two renewals at one moment can leave behind."""
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server:
        server.token, server.renewals = "written first", 1
        settings = {"url": server.url, "management_url": server.url, "key_file": path}

        async def ask() -> Any:
            async with AsyncClient(**settings) as client:
                return await client.predict("m", [1])

        if asynchronous:
            assert asyncio.run(ask()) == {"fine": True}
        else:
            with Client(**settings) as client:
                assert client.predict("m", [1]) == {"fine": True}
        assert server.renewals == 2

        server.is_closed, server.token = True, "gone"
        with Client(**settings) as client, pytest.raises(RequestRefused):
            client.predict("m", [1])


def test_a_management_that_is_gone_matters_only_once_the_token_has_expired(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server, Client(url=server.url, management_url=server.url, key_file=path) as client:
        server.is_closed = True
        with pytest.MonkeyPatch.context() as patch:
            now = time.time()
            patch.setattr(exchange.time, "time", lambda: now + 3590)
            assert client.predict("m", [1]) == {"fine": True}
            patch.setattr(exchange.time, "time", lambda: now + 3610)
            with pytest.raises(RequestRefused, match="the inference token has expired and can't be renewed"):
                client.predict("m", [1])


def test_a_wrong_token_is_refused_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server:
        with Client(url=server.url, token="wrong") as client, pytest.raises(RequestRefused) as caught:
            client.predict("m", [1])
        assert exchange.is_refused_token(caught.value)
        assert len(server.requests) == 1
        with Client(url=server.url, token=server.token) as client:
            assert client.predict("m", [1]) == {"fine": True}
            assert client.token("inference") == server.token
        server.token = "moved on"
        with Client(url=server.url, key_file=path) as client, pytest.raises(RequestRefused):
            client.predict("m", [1], timeout=0.2)


def test_a_key_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    with Client(url="http://127.0.0.1:9", key_file=tmp_path / "keys.json") as client:
        with pytest.raises(ServerError, match="start one with: marina serve"):
            client.predict("m", [1])
        (tmp_path / "keys.json").write_text("[]")
        with pytest.raises(ServerError, match=r"can't be read as TorchServe's key_file\.json"):
            client.predict("m", [1])
        (tmp_path / "keys.json").write_text('{"inference": {"key": "a"}}')
        with pytest.raises(ServerError, match="no token for 'API'"):
            client.token("API")


def test_a_client_without_a_management_address_says_so_and_sends_no_token() -> None:
    with serving(FINE) as server, Client(url=server.url) as client:
        client.predict("m", [1])
        assert "authorization" not in server.requests[0][1]
        with pytest.raises(CallError, match="give it a management_url"):
            client.models()
        with pytest.raises(CallError, match="either a token or a key_file"):
            Client(token="a", key_file=Path("b"))


def test_a_grpc_request_has_the_bytes_that_protobuf_says() -> None:
    call = wire.prediction("m", b"x" * 200, "1.0", options={"top_k": 3})

    body = b"\x1a\xd1\x01" + b"\x0a\x04data" + b"\x12\xc8\x01" + b"x" * 200
    assert grpc_client.request_of(call) == b"\x0a\x01m" + b"\x12\x031.0" + b"\x1a\x0a\x0a\x05top_k\x12\x013" + body


def test_a_grpc_answer_is_found_among_fields_of_every_sort() -> None:
    others = b"\x10\x96\x01" + b"\x1d1234" + b"\x2112345678" + b"\x2a\x02ab"

    assert grpc_client.prediction_of(others + b"\x0a\xac\x02" + b"y" * 300 + others) == b"y" * 300
    assert grpc_client.prediction_of(b"") == b""
    for broken in (b"\x0a", b"\x0a\x05ab", b"\xff" * 12, b"\x0b", b"\x1d12"):
        with pytest.raises(ValueError, match="broken"):
            grpc_client.prediction_of(broken)


@contextmanager
def grpc_serving(*tricks: tuple[str, str] | bytes) -> Iterator[tuple[GrpcClient, list[bytes]]]:
    """A gRPC server that answers with bytes, or with (status, details); the last of them for ever."""
    import grpc

    left, arrived = list(tricks), list[bytes]()

    def predictions(request: bytes, context: Any) -> bytes:
        arrived.append(request)
        trick = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(trick, bytes):
            return trick
        if trick[0] == "silent":
            time.sleep(float(trick[1]))
            return b""
        return context.abort(getattr(grpc.StatusCode, trick[0]), trick[1])

    service, method = grpc_client.METHOD.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(predictions)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with GrpcClient(target=f"127.0.0.1:{port}", token="t", timeout=0.5) as client:
        yield client, arrived
    server.stop(None).wait()


GOOD = b'\x0a\x0d{"fine":true}'
JAVA = "\norg.pytorch.serve.http."


@pytest.mark.parametrize(
    ("trick", "kind", "status", "times"),
    [
        (("INTERNAL", f"Worker died.{JAVA}InternalServerException"), None, 200, 2),
        (("INTERNAL", 'Model "m" has no worker to serve inference request. Please\nInternalServerException.()'), None, 200, 2),
        (("INTERNAL", f"Out of resources{JAVA}InternalServerException"), None, 200, 2),
        (("UNAVAILABLE", "Socket closed"), None, 200, 2),
        (("UNAVAILABLE", f"Prediction failed{JAVA}InternalServerException"), ServerFault, 503, 1),
        (("INTERNAL", "Model not found: m\norg.pytorch.serve.archive.model.ModelNotFoundException"), RequestRefused, 404, 1),
        (("PERMISSION_DENIED", "Token Authorization failed."), RequestRefused, 400, 1),
        (("CANCELLED", ""), RequestRefused, 413, 1),
        (("UNKNOWN", "what"), ServerFault, 500, 1),
        (("silent", "1"), ServerUnavailable, 0, 1),
        (b'\x0a\x43{"code":400,"type":"NotUnderstood","message":"no","request_id":"a"}', RequestRefused, 400, 1),
        (b"\x0a\xff", ServerUnavailable, 0, 4),
    ],
    ids=["died", "full", "memory", "broken", "failed", "unknown", "token", "too large", "other", "late", "refusal", "garbage"],
)
def test_over_grpc_the_same_rules_and_errors_hold(trick: Any, kind: type[RequestError] | None, status: int, times: int) -> None:
    with grpc_serving(trick, *([GOOD] if kind is not ServerUnavailable else [])) as (client, arrived):
        if kind is None:
            assert client.predict("m", [1]) == {"fine": True}
        else:
            with pytest.raises(kind) as caught:
                client.predict("m", [1])
            assert (type(caught.value), caught.value.status) == (kind, status)

        assert len(arrived) == times


def test_a_grpc_server_that_is_not_there_is_named() -> None:
    target = f"127.0.0.1:{free_port()}"
    with (
        GrpcClient(target=target, token="t") as client,
        pytest.raises(ServerUnavailable, match=f"grpc://{target}/predictions/m: no connection"),
    ):
        client.predict("m", [1])


def test_without_grpcio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "grpc", None)

    with pytest.raises(CallError, match=r"pip install marina\[grpc\]"):
        GrpcClient()
