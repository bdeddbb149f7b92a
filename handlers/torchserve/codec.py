"""A worker's talk with TorchServe's front end, in few calls: its own code makes two for every field of every
header, and a dozen objects.

`install` puts it into a worker of the TorchServe that it was written for, and leaves every other one alone.
What is read and written is what ts/protocol/otf_message_handler.py and ts/service.py read and write.
"""

import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

from ..protocol.fields import field_value
from ..protocol.replies import Reply
from ..protocol.requests import form_fields

VERSION = "0.12.0"
LOAD, PREDICT = b"L", b"I"
END = -1
SUCCESS = b"Prediction success"
CHUNK = 1 << 16
KNOWN_HEADERS = 256  # callers whose headers are remembered

logger = logging.getLogger(__name__)
_integer = struct.Struct("!i").unpack_from
_two_integers = struct.Struct("!ii").pack
_pack = struct.Struct("!i").pack

Headers = dict[str, str]  # by lower-case name
Value = tuple[bytes, bytes, bytes]  # a field's name, content type and content
# the front end's name of a request, its headers and its body's fields
Arrived = tuple[str, Headers, dict[str, Any]]
Row = tuple[dict[str, Any], Headers]
Answer = Callable[[list[Row], list[str]], list[Reply]]
Report = Callable[[list[Row], list[str], list[Reply]], None]
# what a batch whose answers come in pieces sends: one message after another, of pieces by request
Pieces = Callable[[list[Row], list[str]], Iterator["Message"] | None]
STREAM_NEXT = b"ts_stream_next"  # the header by which the front end knows whether more is to come


class _Incomplete(Exception):
    """So many more bytes are needed at least."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


class Message(NamedTuple):
    """What some requests of a batch get: a reply, and whether more is to come; None for one that is whole."""

    ids: list[str]
    replies: list[Reply]
    more: list[bool | None]


def install(answer: Answer, report: Report, pieces: Pieces = lambda _rows, _ids: None) -> bool:
    """Let this process, if it is a worker of TorchServe 0.12.0, read by `MessageReader` and write what
    `answer` gives, or one message after another where `pieces` gives those; whether it does.

    `report` is called when a batch's replies are on their way, so that nobody waits for it. Nothing else is
    in flight when a handler is initialised: the front end waits for the answer to its load message.
    """
    if not _is_known_worker():
        return False
    from ts.protocol.otf_message_handler import create_predict_response
    from ts.service import Service

    worker = sys.modules["__main__"]
    readers: dict[socket.socket, MessageReader] = {}
    unreported: list[tuple[list[Row], list[str], list[Reply]]] = []
    connections: list[socket.socket] = []  # that of the batch under way

    def retrieve_msg(connection: socket.socket) -> tuple[bytes, Any]:
        while unreported:
            try:
                report(*unreported.pop())
            except Exception:  # nobody's answer depends on it
                logger.exception("a batch was not reported")
        connections[:] = [connection]
        if connection not in readers:
            readers[connection] = MessageReader(connection)
        return readers[connection].message()

    def predict(_service: Service, batch: Sequence[Arrived]) -> bytes:
        ids = [request_id for request_id, _, _ in batch]
        rows = [(fields, headers) for _, headers, fields in batch]
        try:
            if (messages := pieces(rows, ids)) is not None:
                return sent_in_pieces(connections[0], messages)
            replies = answer(rows, ids)
        except Exception:  # a fault of ours; the worker lives on, as TorchServe's own does
            logger.exception("a batch failed")
            failed: bytes = create_predict_response(None, dict(enumerate(ids)), "Prediction failed", 503)
            return failed
        unreported.append((rows, ids, replies))
        return written(ids, replies)

    worker.retrieve_msg = retrieve_msg  # type: ignore[attr-defined]
    Service.predict = predict
    return True


def _is_known_worker() -> bool:
    """Whether this process is the first worker of a model, of the TorchServe that this is written for."""
    import ts  # only a worker has it
    from ts.service import Service

    worker = sys.modules["__main__"]
    fits = (
        hasattr(worker, "TorchModelServiceWorker")
        and hasattr(worker, "retrieve_msg")
        and hasattr(Service, "predict")
    )
    return ts.__version__ == VERSION and fits and os.environ.get("LOCAL_RANK", "0") == "0"


class MessageReader:
    """Reads the messages of one connection; keeps what came beyond the end of one for the next, and
    headers that callers repeat.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = b""
        self.known: dict[bytes, Headers] = {}
        self.sizes: dict[int, None] = {}  # of what is known, in bytes

    def message(self) -> tuple[bytes, Any]:
        """(PREDICT, [Arrived, ...]), or (LOAD, what TorchServe's own reader gives). Ends the process when the
        front end is gone.

        Raises ValueError for a command that there isn't.
        """
        while True:
            try:
                command, content, end = self._message(self.data)
            except _Incomplete as error:
                self._receive(error.missing)
            except struct.error:  # not even the four bytes of a length
                self._receive(1)
            else:
                self.data = self.data[end:]
                return command, content

    def _receive(self, missing: int) -> None:
        parts = [self.data]
        while missing > 0:
            part = self.connection.recv(max(CHUNK, missing))
            if not part:
                logging.info("Frontend disconnected.")
                sys.exit(0)
            parts.append(part)
            missing -= len(part)
        self.data = b"".join(parts)

    def _message(self, data: bytes) -> tuple[bytes, Any, int]:
        """The message that `data` begins with, and where it ends. Raises _Incomplete or struct.error where
        it goes on beyond.
        """
        command = data[:1]
        if command == PREDICT:
            requests, end = self._requests(data, 1)
            decode = os.environ.get("TS_DECODE_INPUT_REQUEST", "true") == "true"
            return command, [_arrived(one, headers, values, decode) for one, headers, values in requests], end
        if command == LOAD:
            return command, *_load(data, 1)
        if command:
            raise ValueError(f"Invalid command: {command!r}")
        raise _Incomplete(1)

    def _requests(self, data: bytes, at: int) -> tuple[list[tuple[bytes, Headers, list[Value]]], int]:
        requests: list[tuple[bytes, Headers, list[Value]]] = []
        while True:
            request_id, at = _field(data, at)
            if request_id is None:
                return requests, at
            headers, at = self._headers(data, at)
            values: list[Value] = []
            while True:
                name, at = _field(data, at)
                if name is None:
                    break
                kind, at = _field(data, at)
                value, at = _field(data, at)
                values.append((name, kind or b"", value or b""))
            requests.append((request_id, headers, values))

    def _headers(self, data: bytes, at: int) -> tuple[Headers, int]:
        """The headers that begin there. The same bytes up to their end are the same headers, whatever
        comes behind them.
        """
        for size in self.sizes:
            found = self.known.get(data[at : at + size])
            if found is not None:
                return found, at + size
        start, headers = at, {}
        while True:
            name, at = _field(data, at)
            if name is None:
                break
            value, at = _field(data, at)
            headers[name.decode("utf-8", "replace").lower()] = (value or b"").decode("utf-8", "replace")
        # callers that never say the same, as with a traceparent
        if len(self.known) >= KNOWN_HEADERS or len(self.sizes) > 8:
            self.known.clear()
            self.sizes.clear()
        self.known[data[start:at]], self.sizes[at - start] = headers, None
        return headers, at


def sent_in_pieces(connection: socket.socket, messages: Iterator[Message]) -> bytes:
    """Send all messages of a batch but the last, which is returned."""
    last = next(messages)
    for message in messages:
        connection.sendall(written(*last))
        last = message
    return written(*last)


def written(ids: Sequence[str], replies: Sequence[Reply], more: Sequence[bool | None] | None = None) -> bytes:
    """One batch of replies as the front end reads them; `more` as in Message."""
    parts = [_two_integers(HTTPStatus.OK.value, len(SUCCESS)), SUCCESS]
    for request_id, reply, has_more in zip(ids, replies, more or [None] * len(ids), strict=True):
        named = request_id.encode()
        parts += (
            _pack(len(named)),
            named,
            _described(reply.content_type, reply.status, has_more),
            _pack(len(reply.content)),
            reply.content,
        )
    parts.append(_pack(END))
    return b"".join(parts)


@lru_cache
def _described(content_type: str, status: HTTPStatus, more: bool | None) -> bytes:
    """Content type, status and phrase, and the headers: none, or whether more is to come."""
    kind, phrase = content_type.encode(), status.phrase.encode()
    headers = [_pack(0)]
    if more is not None:
        value = b"true" if more else b"false"
        headers = [_pack(1), _pack(len(STREAM_NEXT)), STREAM_NEXT, _pack(len(value)), value]
    return b"".join((_pack(len(kind)), kind, _two_integers(status.value, len(phrase)), phrase, *headers))


def _load(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    content: dict[str, Any] = {}
    content["modelName"], at = _field(data, at)
    content["modelPath"], at = _field(data, at)
    (content["batchSize"],) = _integer(data, at)
    content["handler"], at = _field(data, at + 4)
    (gpu,) = _integer(data, at)
    if gpu >= 0:
        content["gpu"] = gpu
    content["envelope"], at = _field(data, at + 4)
    if at >= len(data):
        raise _Incomplete(1)
    content["limitMaxImagePixels"] = data[at] != 0
    return content, at + 1


def _field(data: bytes, at: int) -> tuple[bytes | None, int]:
    """A length and so many bytes, or the end of a list (None); and where it ends."""
    (length,) = _integer(data, at)
    if length == END:
        return None, at + 4
    end = at + 4 + length
    if end > len(data):
        raise _Incomplete(end - len(data))
    return data[at + 4 : end], end


def _arrived(request_id: bytes, headers: Headers, values: list[Value], decode: bool) -> Arrived:
    """A request whose message is whole, with what its fields carry: JSON parsed, text decoded; what can't
    be stays bytes.
    """
    pairs = [(name.decode(), field_value(value, kind) if decode else value) for name, kind, value in values]
    return request_id.decode(), headers, form_fields(pairs)
