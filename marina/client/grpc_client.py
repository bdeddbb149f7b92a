"""The client with its predictions over TorchServe's gRPC API (inference port + 3); all else goes over HTTP as in `marina.client`.

Needs the extra: pip install marina[grpc]. The messages (TorchServe's inference.proto, package org.pytorch.serve.grpc.inference) are
two, so they are written and read here without generated code:

    PredictionsRequest  {string model_name = 1; string model_version = 2; map<string, bytes> input = 3}
    PredictionResponse  {bytes prediction = 1}

What is not covered: explanations, which that API doesn't have, and streamed predictions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marina.client import Client
from marina.client.exchange import Send
from marina.client.wire import JSON, Call, Lost, Reply
from marina.errors import CallError

METHOD = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
STATUS = {  # by gRPC's name; TorchServe makes these of the HTTP status that its HTTP API answers
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 400,
    "RESOURCE_EXHAUSTED": 413,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
TYPE_STATUS = {"BadRequestException": 400, "ModelNotFoundException": 404, "ModelVersionNotFoundException": 404}


class GrpcClient(Client):
    """As `Client`; `target` is the gRPC API's "host:port", by default on this machine. Without `credentials` (grpc's, for TLS) it
    is spoken to in the clear. Raises CallError when grpcio is not installed.
    """

    def __init__(
        self,
        port: int = 8080,
        *,
        target: str | None = None,
        credentials: Any = None,
        url: str | None = None,
        management_url: str | None = None,
        key_file: Path | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
    ) -> None:
        self.target = target or f"127.0.0.1:{port + 3}"
        self._credentials = credentials
        super().__init__(port, url=url, management_url=management_url, key_file=key_file, token=token, timeout=timeout, retries=retries)

    def _open(self) -> None:
        super()._open()
        try:
            import grpc  # type: ignore[import-untyped]
        except ImportError as error:
            raise CallError("grpcio is not installed; run: pip install marina[grpc]") from error
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", int(not self.is_local)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._error: type[Any] = grpc.RpcError
        if self._credentials is None:
            self.channel = grpc.insecure_channel(self.target, options)
        else:
            self.channel = grpc.secure_channel(self.target, self._credentials, options)
        self._predict = self.channel.unary_unary(METHOD)

    def close(self) -> None:
        """Close the channel and the kept connections."""
        self.channel.close()
        super().close()

    def explain(self, name: str, *_: Any, **__: Any) -> Any:
        """Not there: raises CallError."""
        raise CallError(f"TorchServe's gRPC API has no explanations; ask for those of {name} with marina.client.Client")

    def _url(self, call: Call) -> str:
        return super()._url(call) if call.model is None else f"grpc://{self.target}{call.path}"

    def _send(self, send: Send) -> Reply | Lost:
        if send.call.model is None:
            return super()._send(send)
        metadata = [("authorization", value) for name, value in send.headers.items() if name == "authorization"]
        try:
            answer = self._predict(request_of(send.call), metadata=metadata, timeout=send.seconds)
        except self._error as error:
            return _outcome(error.code().name, error.details() or "")
        try:
            return _reply(prediction_of(answer))
        except ValueError as error:
            return Lost("broken", str(error))


def request_of(call: Call) -> bytes:
    """A PredictionsRequest: the body as input "data", options as further inputs, which handlers read as fields of a form."""
    assert call.model
    name, version = call.model
    options = {key.replace("-", "_"): value.encode() for key, value in call.headers.items() if key not in ("content-type", "authorization")}
    inputs = [_field(3, _field(1, key.encode()) + _field(2, value)) for key, value in {**options, "data": call.body}.items()]
    return _field(1, name.encode()) + (_field(2, version.encode()) if version else b"") + b"".join(inputs)


def prediction_of(message: bytes) -> bytes:
    """The prediction of a PredictionResponse; what other fields there may be is skipped. Raises ValueError for a broken one."""
    found, at = b"", 0
    while at < len(message):
        key, at = _read_varint(message, at)
        if key & 7 == 0:
            _, at = _read_varint(message, at)
            continue
        size, at = _read_varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}.get(key & 7, -1), at)
        if size < 0 or at + size > len(message):
            raise ValueError("a broken message")
        found, at = message[at : at + size] if key == 1 << 3 | 2 else found, at + size
    return found


def _outcome(code: str, details: str) -> Reply | Lost:
    """A failed call as the HTTP API would answer it; TorchServe says the message, and the exception's class below it."""
    words, _, exception = details.rpartition("\n")
    if code == "DEADLINE_EXCEEDED":
        return Lost("late")
    if code == "UNAVAILABLE" and not words:
        return Lost("unconnected" if "failed to connect" in details else "broken", details)
    if code == "PERMISSION_DENIED":
        return _error(400, "InvalidKeyException", details)
    if code == "CANCELLED":  # its end of the stream, without a word
        return _error(413, "", "the server cancelled the request, as it does with one above its max_request_size; send less at once")
    error_type = exception.removesuffix(".()").rpartition(".")[2]
    if "has no worker to serve inference request" in words:
        return _error(503, "ServiceUnavailableException", words)
    status = 507 if words == "Out of resources" else TYPE_STATUS.get(error_type, STATUS.get(code, 500))
    return _error(status, error_type, words or details)


def _reply(prediction: bytes) -> Reply:
    """A refusal comes as the answer of a call that went well: its JSON says the status."""
    if prediction.startswith(b'{"code":'):
        told: Mapping[str, Any] = json.loads(prediction)
        if told.keys() == {"code", "type", "message", "request_id"}:
            return Reply(int(told["code"]), {"content-type": JSON}, prediction)
    return Reply(200, {}, prediction)


def _error(status: int, error_type: str, words: str) -> Reply:
    told = {"code": status, "type": error_type, "message": words}
    return Reply(status, {"content-type": JSON}, json.dumps(told).encode())


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field (protobuf.dev, Encoding)."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, where the next field's bytes begin)."""
    number = shift = 0
    while at < len(message) and shift < 64:
        byte, at = message[at], at + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise ValueError("a broken message")
