"""TorchServe's worker protocol, read in a few calls where its own reader makes two for every field of every header.

`install` puts this reader into a worker of the TorchServe that it was written for, and leaves every other one alone. Messages are
those of ts/protocol/otf_message_handler.py, and come out of both readers alike.
"""

import json
import logging
import os
import socket
import struct
import sys
from typing import Any

VERSION = "0.12.0"
LOAD, PREDICT = b"L", b"I"
END = -1
CHUNK = 1 << 16
_integer = struct.Struct("!i").unpack_from

Message = tuple[bytes, Any]


class _Incomplete(Exception):
    """So many more bytes are needed at least."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


def install(context: Any) -> bool:
    """Let this process, if it is a worker of TorchServe 0.12.0, read requests by `MessageReader`; whether it does so now.

    Nothing else is in flight when a handler is initialised: the front end waits for the answer to its load message. The worker's
    own metric of each batch, a line of text that the front end parses, goes too: `bundle_telemetry` says more, in one line.
    """
    import ts  # only a worker has it

    worker = sys.modules["__main__"]
    if ts.__version__ != VERSION or not hasattr(worker, "TorchModelServiceWorker") or not hasattr(worker, "retrieve_msg"):
        return False
    readers: dict[socket.socket, MessageReader] = {}

    def retrieve_msg(connection: socket.socket) -> Message:
        if connection not in readers:
            readers[connection] = MessageReader(connection)
        return readers[connection].message()

    worker.retrieve_msg = retrieve_msg  # type: ignore[attr-defined]
    if context.metrics is not None:
        context.metrics.add_time = lambda *_args, **_options: None
    return True


class MessageReader:
    """Reads the messages of one connection; keeps what came beyond the end of one for the next."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = b""

    def message(self) -> Message:
        """(command, content): what TorchServe's own `retrieve_msg` gives. Ends the process when the front end is gone.

        Raises ValueError for a command that there isn't.
        """
        while True:
            try:
                command, content, end = _message(self.data)
            except _Incomplete as error:
                self._receive(error.missing)
            except struct.error:  # not even the four bytes of a length
                self._receive(1)
            else:
                self.data = self.data[end:]
                if command == PREDICT:
                    _decode(content)
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


def _message(data: bytes) -> tuple[bytes, Any, int]:
    """The message that `data` begins with, and where it ends. Raises _Incomplete or struct.error where it goes on beyond."""
    command = data[:1]
    if command == PREDICT:
        return command, *_requests(data, 1)
    if command == LOAD:
        return command, *_load(data, 1)
    if command:
        raise ValueError(f"Invalid command: {command!r}")
    raise _Incomplete(1)


def _requests(data: bytes, at: int) -> tuple[list[dict[str, Any]], int]:
    requests: list[dict[str, Any]] = []
    while True:
        request_id, at = _field(data, at)
        if request_id is None:
            return requests, at
        headers: list[dict[str, bytes]] = []
        while True:
            name, at = _field(data, at)
            if name is None:
                break
            value, at = _field(data, at)
            headers.append({"name": name, "value": value or b""})
        parameters: list[dict[str, Any]] = []
        while True:
            name, at = _field(data, at)
            if name is None:
                break
            kind, at = _field(data, at)
            value, at = _field(data, at)
            parameters.append({"name": name.decode(), "contentType": (kind or b"").decode(), "value": value})
        requests.append({"requestId": request_id, "headers": headers, "parameters": parameters})


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


def _decode(requests: list[dict[str, Any]]) -> None:
    """What the parameters carry, once the message is whole: JSON parsed, text decoded; what can't be stays bytes."""
    if os.environ.get("TS_DECODE_INPUT_REQUEST", "true") == "true":
        for request in requests:
            for parameter in request["parameters"]:
                parameter["value"] = _decoded(parameter["value"], parameter["contentType"])


def _decoded(value: bytes, content_type: str) -> Any:
    try:
        if content_type == "application/json":
            return json.loads(value.decode())  # UTF-8 and nothing else
        return value.decode() if content_type.startswith("text") else value
    except (ValueError, RecursionError):
        return value
