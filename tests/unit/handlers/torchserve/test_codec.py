"""The worker's reader of TorchServe's protocol: the same messages as TorchServe's own, however the bytes
arrive.
"""

import json
import random
import socket
import struct
import sys
import threading
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ts
from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler
from ts.service import Service

from handlers.protocol.replies import Reply
from handlers.protocol.requests import Repeated, lower_case
from handlers.torchserve import codec, pieces
from handlers.torchserve.codec import MessageReader
from tests.support.generators import serve_generator


def field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


END = struct.pack("!i", -1)


def request(number: int, headers: dict[str, str], *parameters: tuple[str, str, bytes]) -> bytes:
    """One request as the front end writes it."""
    named = b"".join(field(name.encode()) + field(value.encode()) for name, value in headers.items())
    values = b"".join(
        field(name.encode()) + field(kind.encode()) + field(value) for name, kind, value in parameters
    )
    return field(b"id-%d" % number) + named + END + values + END


def inference(*requests: bytes) -> bytes:
    return b"I" + b"".join(requests) + END


LOAD = (
    b"L" + field(b"digits") + field(b"/models/digits") + struct.pack("!i", 8)
    + field(b"classifier_handler.py") + struct.pack("!i", -1) + field(b"") + b"\x01"
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
        request(1, {"Accept": "*/*", "empty": ""}, ("body", *BODIES[0])),
        request(2, {"a": "ä"}, ("data", *BODIES[6]), ("x", *BODIES[4])),
    ),
    inference(
        *(
            request(number, {"n": str(number)}, ("body", *BODIES[number % len(BODIES)]))
            for number in range(40)
        )
    ),
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
        {chosen.randrange(1, min(len(message), 400)) for _ in range(30)}
        | {chosen.randrange(1, len(message)) for _ in range(5)}
    )
    return [message[start:end] for start, end in zip([0, *places], [*places, len(message)], strict=True)]


def upstream(connection: socket.socket) -> tuple[bytes, Any]:
    """What TorchServe's own reader and service make of a message, in our form."""
    command, content = otf_message_handler.retrieve_msg(connection)
    if command == b"L":
        return command, content
    headers, rows, ids = Service.retrieve_data_for_inference(content)
    named = [lower_case(one.get_request_properties()) for one in headers]
    return command, [(ids[index], named[index], row) for index, row in enumerate(rows)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_a_message_is_read_as_torchserve_reads_it_however_it_is_cut(
    number: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.warning", lambda *_args, **_options: None)
    monkeypatch.setattr("json.loads", shallow)
    message = MESSAGES[number]

    with sent_in([message]) as own, sent_in(cut(message, seed)) as cut_up:
        expected = upstream(own)
        found = MessageReader(cut_up).message()

    assert plain(found) == plain(expected)


loads = json.loads


def shallow(text: Any) -> Any:
    """json.loads, which a deep nest would end in TorchServe's reader with an error that is none of its
    own.
    """
    if bytes(text[:3] if isinstance(text, bytes | bytearray) else text[:3].encode()) == b"[[[":
        raise ValueError
    return loads(text)


@pytest.mark.parametrize(
    "text", ["[1, 2.5]", ' {"a": 1}', '{"a": 1}\n', "[1] 2", "[1", "", "\ufeff[1]", "NaN", '"x"']
)
def test_a_body_is_parsed_as_json_is(text: str) -> None:
    message = inference(request(1, {}, ("body", "application/json", text.encode())))

    with sent_in([message]) as own, sent_in([message]) as other:
        ((_, _, expected),) = upstream(own)[1]
        ((_, _, found),) = MessageReader(other).message()[1]

    assert repr(plain(found)) == repr(plain(expected))


def test_header_cache_never_mixes_up_callers() -> None:
    """Repeated headers are cached, and never taken for another caller's."""
    chosen = random.Random(7)
    sent = [
        {"n": str(chosen.randrange(40)), "id": "x" * chosen.randrange(12), "same": "1"} for _ in range(2000)
    ]

    with sent_in([inference(*(request(index, headers) for index, headers in enumerate(sent)))]) as connection:
        reader = MessageReader(connection)
        _, found = reader.message()

    assert [headers for _, headers, _ in found] == sent
    assert len(reader.known) <= codec.KNOWN_HEADERS
    assert len({id(headers) for _, headers, _ in found}) < len(sent)


REPLIES = [
    Reply(b'{"action":1}'),
    Reply("Grüße".encode(), "text/plain; charset=utf-8"),
    Reply(b"", "image/png"),
    Reply(b'{"code":413}', "application/json", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TooLarge"),
    Reply(b'{"code":500}', "application/json", HTTPStatus.INTERNAL_SERVER_ERROR, "ModelError"),
]


@pytest.mark.parametrize("replies", [REPLIES, REPLIES[:1], []], ids=["all", "one", "none"])
def test_replies_are_written_as_torchserve_writes_them(
    replies: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the content type once more
    monkeypatch.setattr(otf_message_handler, "encode_response_headers", lambda _headers: struct.pack("!i", 0))
    ids = [f"id-{index}" for index in range(len(replies))]
    context = Context("x", "", {}, 8, None, "0.12.0")
    context.request_ids = dict(enumerate(ids))
    context.request_processor = [RequestProcessor({}) for _ in ids]
    for index, reply in enumerate(replies):
        context.set_response_status(reply.status.value, reply.status.phrase, index)
        context.set_response_content_type(index, reply.content_type)
    contents = [reply.content for reply in replies]

    expected = otf_message_handler.create_predict_response(
        contents, context.request_ids, "Prediction success", 200, context=context
    )

    assert codec.written(ids, replies) == expected


def test_messages_that_arrive_together_are_read_one_after_the_other() -> None:
    first, second = MESSAGES[3], MESSAGES[4]

    with sent_in([first + second[:50], second[50:]]) as connection:
        reader = MessageReader(connection)
        one, other = reader.message(), reader.message()
        with pytest.raises(SystemExit):  # the front end is gone
            reader.message()

    assert [len(content) for _, content in (one, other)] == [1, 2]
    assert other[1][1][2]["data"] == BODIES[6][1]


def test_an_unknown_command_is_an_error_and_half_a_message_an_end() -> None:
    with sent_in([b"X123"]) as connection, pytest.raises(ValueError, match="Invalid command: b'X'"):
        MessageReader(connection).message()
    with sent_in([MESSAGES[4][:77]]) as connection, pytest.raises(SystemExit):
        MessageReader(connection).message()


def answering(rows: list[tuple[dict[str, Any], dict[str, str]]], ids: list[str]) -> list[Reply]:
    return [
        Reply(f"{one} {headers} {fields}".encode()) for one, (fields, headers) in zip(ids, rows, strict=True)
    ]


def ignoring(_rows: Any, _ids: Any, _replies: Any) -> None:
    pass


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A process that looks like TorchServe's worker."""
    made = SimpleNamespace(TorchModelServiceWorker=object, retrieve_msg=otf_message_handler.retrieve_msg)
    monkeypatch.setitem(sys.modules, "__main__", made)
    monkeypatch.setattr(Service, "predict", Service.predict)  # so that it is put back
    return made


def test_it_is_installed_in_a_worker_of_the_known_torchserve_alone(
    process: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Service.predict
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", SimpleNamespace())
        assert not codec.install(answering, ignoring)
    with monkeypatch.context() as patch:
        patch.setattr(ts, "__version__", "0.13.0")
        assert not codec.install(answering, ignoring)
    assert (process.retrieve_msg, Service.predict) == (otf_message_handler.retrieve_msg, before)

    assert codec.install(answering, ignoring)
    with sent_in([MESSAGES[3], MESSAGES[2]]) as connection:
        command, batch = process.retrieve_msg(connection)
        served = Service.__new__(Service).predict(batch)
        assert process.retrieve_msg(connection) == (b"I", [])

    assert command == b"I"
    assert served == codec.written(["id-1"], [Reply(b"id-1 {} {}")])


def test_a_fault_of_ours_costs_a_batch_and_not_the_worker(
    process: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_rows: Any, _ids: Any) -> list[Reply]:
        raise MemoryError("no secret for callers")

    assert codec.install(failing, ignoring)
    served = Service.__new__(Service).predict([("id-1", {}, {}), ("id-2", {}, {})])

    assert served == otf_message_handler.create_predict_response(
        None, {0: "id-1", 1: "id-2"}, "Prediction failed", 503
    )
    assert "no secret for callers" in caplog.text


def test_a_batch_is_reported_once_when_its_replies_are_on_their_way(process: SimpleNamespace) -> None:
    reported: list[Any] = []
    assert codec.install(answering, lambda *batch: reported.append(batch))

    with sent_in([MESSAGES[3], MESSAGES[3], MESSAGES[2]]) as connection:
        _, batch = process.retrieve_msg(connection)
        Service.__new__(Service).predict(batch)
        assert reported == []
        process.retrieve_msg(connection)
        process.retrieve_msg(connection)

    assert reported == [([({}, {})], ["id-1"], [Reply(b"id-1 {} {}")])]


def test_what_a_form_has_twice_under_one_name_is_kept() -> None:
    """TorchServe's own reader keeps the last; then a caller who sends two files gets one answer."""
    message = inference(request(1, {}, ("data", *BODIES[6]), ("data", *BODIES[4]), ("x", *BODIES[4])))

    with sent_in([message]) as connection:
        _, [(_, _, fields)] = MessageReader(connection).message()

    assert fields == {"data": Repeated((BODIES[6][1], "Grüße")), "x": "Grüße"}
    assert isinstance(fields["data"], Repeated)


def test_answers_in_pieces_are_messages_of_their_own(process: SimpleNamespace, tmp_path: Path) -> None:
    """Each says whether more is to come; who wants no events gets one answer, as does what is refused."""
    predictor = serve_generator(tmp_path)
    reported: list[Any] = []
    assert codec.install(
        predictor.reply, lambda *batch: reported.append(batch), partial(pieces.messages_of, predictor)
    )
    events, plain = {"accept": "text/event-stream"}, {"content-type": "application/json"}
    batch = [
        ("id-1", events, {"body": b"ab"}),
        ("id-2", plain, {"body": {"text": "cd"}}),
        ("id-3", {**events, "num-beams": "99"}, {"body": b"ab"}),
    ]
    near, far = socket.socketpair()
    with near, far:
        far.sendall(MESSAGES[2])
        process.retrieve_msg(near)
        last = Service.__new__(Service).predict(batch)
        near.shutdown(socket.SHUT_WR)
        sent = b"".join(iter(lambda: far.recv(1 << 16), b"")) + last

    assert sent.count(b"ts_stream_next\x00\x00\x00\x04true") == 3
    assert sent.count(b"ts_stream_next\x00\x00\x00\x05false") == 1
    assert sent.index(b"id-3") < sent.index(b'{"delta":"A"}') < sent.index(b'{"delta":" B"}')
    assert b'"text":"C D"' in sent[: sent.index(b'"delta"')]
    assert b"num_beams must be a whole number from 1 to 8" in sent
    assert last.endswith(b'event: done\ndata: {"count":3,"errors":0}\n\n\xff\xff\xff\xff')
    assert pieces.messages_of(predictor, [({"body": b"ab"}, plain)], ["id-1"]) is None
