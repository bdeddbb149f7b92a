"""The worker's own reader of TorchServe's protocol: the same messages as TorchServe's, however they arrive."""

import json
import random
import socket
import struct
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ts
from ts.protocol import otf_message_handler

import bundle_codec
from bundle_codec import MessageReader


def field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


END = struct.pack("!i", -1)


def request(number: int, headers: dict[str, str], *parameters: tuple[str, str, bytes]) -> bytes:
    """One request as the front end writes it."""
    named = b"".join(field(name.encode()) + field(value.encode()) for name, value in headers.items())
    values = b"".join(field(name.encode()) + field(kind.encode()) + field(value) for name, kind, value in parameters)
    return field(b"id-%d" % number) + named + END + values + END


def inference(*requests: bytes) -> bytes:
    return b"I" + b"".join(requests) + END


LOAD = (
    b"L" + field(b"digits") + field(b"/models/digits") + struct.pack("!i", 8) + field(b"classifier_handler.py")
    + struct.pack("!i", -1) + field(b"") + b"\x01"
)  # fmt: skip
BODIES = [
    ("application/json", json.dumps({"observation": [1, 2.5]}).encode()),
    ("application/json", b"{broken"),
    ("application/json", b"\xff\xfe"),
    ("application/json", b"[" * 100_000),
    ("text/plain", "Grüße".encode()),
    ("text/plain", b"\xff"),
    ("image/jpeg", bytes(range(256)) * 700),
    ("", b""),
]
MESSAGES = [
    LOAD,
    LOAD.replace(struct.pack("!i", -1), struct.pack("!i", 2), 1),
    inference(),
    inference(request(1, {})),
    inference(
        request(1, {"Accept": "*/*", "empty": ""}, ("body", *BODIES[0])), request(2, {"a": "ä"}, ("data", *BODIES[6]), ("x", *BODIES[4]))
    ),
    inference(*(request(number, {"n": str(number)}, ("body", *BODIES[number % len(BODIES)])) for number in range(40))),
]


def plain(content: Any) -> Any:
    """With bytes in the place of bytearrays, which are equal but not the same."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [plain(value) for value in content]
    return bytes(content) if isinstance(content, bytearray) else content


def sent_in(pieces: list[bytes]) -> socket.socket:
    """A connection through which `pieces` come one after the other; closed at the end."""
    near, far = socket.socketpair()

    def send() -> None:
        for piece in pieces:
            near.sendall(piece)
        near.close()

    threading.Thread(target=send, daemon=True).start()
    return far


def cut(message: bytes, seed: int) -> list[bytes]:
    """In some pieces; small ones at first, so that lengths are cut through, too."""
    chosen = random.Random(seed)
    places = sorted(
        {chosen.randrange(1, min(len(message), 400)) for _ in range(30)} | {chosen.randrange(1, len(message)) for _ in range(5)}
    )
    return [message[start:end] for start, end in zip([0, *places], [*places, len(message)], strict=True)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_a_message_is_read_as_torchserve_reads_it_however_it_is_cut(number: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.warning", lambda *_args, **_options: None)
    monkeypatch.setattr("json.loads", shallow)
    message = MESSAGES[number]

    with sent_in([message]) as own, sent_in(cut(message, seed)) as cut_up:
        expected = otf_message_handler.retrieve_msg(own)
        found = MessageReader(cut_up).message()

    assert plain(found) == plain(expected)


loads = json.loads


def shallow(text: Any) -> Any:
    """json.loads, which a deep nest would end in the one reader with another error than in the other."""
    if bytes(text[:3] if isinstance(text, bytes | bytearray) else text[:3].encode()) == b"[[[":
        raise ValueError
    return loads(text)


def test_messages_that_arrive_together_are_read_one_after_the_other() -> None:
    first, second = MESSAGES[3], MESSAGES[4]

    with sent_in([first + second[:50], second[50:]]) as connection:
        reader = MessageReader(connection)
        one, other = reader.message(), reader.message()
        with pytest.raises(SystemExit):  # the front end is gone
            reader.message()

    assert [len(content) for _, content in (one, other)] == [1, 2]
    assert other[1][1]["parameters"][0]["value"] == BODIES[6][1]


def test_an_unknown_command_is_an_error_and_half_a_message_an_end() -> None:
    with sent_in([b"X123"]) as connection, pytest.raises(ValueError, match="Invalid command: b'X'"):
        MessageReader(connection).message()
    with sent_in([MESSAGES[4][:77]]) as connection, pytest.raises(SystemExit):
        MessageReader(connection).message()


def worker() -> SimpleNamespace:
    return SimpleNamespace(TorchModelServiceWorker=object, retrieve_msg=otf_message_handler.retrieve_msg)


def test_it_is_installed_in_a_worker_of_the_known_torchserve_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(metrics=SimpleNamespace(add_time=None))
    assert not bundle_codec.install(context)  # this process is none

    process = worker()
    monkeypatch.setitem(sys.modules, "__main__", process)
    monkeypatch.setattr(ts, "__version__", "0.13.0")
    assert not bundle_codec.install(context)
    assert process.retrieve_msg is otf_message_handler.retrieve_msg

    monkeypatch.setattr(ts, "__version__", bundle_codec.VERSION)
    assert bundle_codec.install(context)
    with sent_in([MESSAGES[3], MESSAGES[2]]) as connection:
        assert process.retrieve_msg(connection)[0] == b"I"
        assert process.retrieve_msg(connection) == (b"I", [])
    context.metrics.add_time("PredictionTime", 3.0)
