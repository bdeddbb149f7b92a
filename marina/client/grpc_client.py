"""A client that sends predictions over TorchServe's gRPC API (inference port + 3), everything else over HTTP.

Needs the extra: pip install marina[grpc]. Not covered: explanations, which that API does not have, and
streamed predictions.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from marina.client import Client, wire
from marina.client.encoding import JSON
from marina.client.exchange import Send
from marina.client.request_options import EndpointOptions
from marina.client.wire import Call, NoResponse, Reply
from marina.core.errors import CallError

if TYPE_CHECKING:
    from marina.third_party.inference_pb2 import PredictionsRequest

METHOD = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
# HTTP status by gRPC's name for it, the reverse of TorchServe's table
STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 400,
    "RESOURCE_EXHAUSTED": 413,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
TYPE_STATUS = {
    "BadRequestException": 400,
    "ModelNotFoundException": 404,
    "ModelVersionNotFoundException": 404,
}


class GrpcClient(Client):
    """A `Client` whose predictions go over gRPC.

    `target` is the gRPC API's "host:port", by default on this machine. `credentials` are grpc's, for TLS;
    without them the connection is not encrypted. The other arguments are those of `Endpoint`. Raises
    CallError when grpcio is not installed.
    """

    def __init__(
        self,
        port: int = 8080,
        *,
        target: str | None = None,
        credentials: Any = None,
        **endpoint: Unpack[EndpointOptions],
    ) -> None:
        self.target = target or f"127.0.0.1:{port + 3}"
        self._credentials = credentials
        super().__init__(port, **endpoint)

    def _open(self) -> None:
        super()._open()
        try:
            import grpc  # type: ignore[import-untyped]

            from marina.third_party import inference_pb2
        except ImportError as error:
            raise CallError("grpcio is not installed; run: pip install marina[grpc]") from error
        options = [
            ("grpc.max_receive_message_length", wire.MAX_REPLY_BYTES),
            ("grpc.enable_http_proxy", int(not self.is_local)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._error: type[Any] = grpc.RpcError
        if self._credentials is None:
            self.channel = grpc.insecure_channel(self.target, options)
        else:
            self.channel = grpc.secure_channel(self.target, self._credentials, options)
        # bytes come back, so that a broken response is ours to report
        self._predict = self.channel.unary_unary(
            METHOD, request_serializer=inference_pb2.PredictionsRequest.SerializeToString
        )

    def close(self) -> None:
        """Close the channel and the kept connections."""
        self.channel.close()
        super().close()

    def explain(self, name: str, *_: Any, **__: Any) -> Any:
        """Raise CallError: the gRPC API has no explanations."""
        raise CallError(
            f"TorchServe's gRPC API has no explanations; ask for those of {name} with marina.client.Client"
        )

    def _url(self, call: Call, host: str = "") -> str:
        return super()._url(call, host) if call.model is None else f"grpc://{self.target}{call.path}"

    def _send(self, send: Send) -> Reply | NoResponse:
        if send.call.model is None:
            return super()._send(send)
        metadata = [
            ("authorization", value) for name, value in send.headers.items() if name == "authorization"
        ]
        try:
            response = self._predict(request_message(send.call), metadata=metadata, timeout=send.seconds)
        except self._error as error:
            return _outcome(error.code().name, error.details() or "")
        return reply_from(response)


def request_message(call: Call) -> "PredictionsRequest":
    """The message of a prediction: the body as input "data", options as further inputs.

    Handlers read the options as they read the fields of a form.
    """
    from marina.third_party.inference_pb2 import PredictionsRequest

    assert call.model
    name, version = call.model
    options = {
        key.replace("-", "_"): value.encode()
        for key, value in call.headers.items()
        if key not in ("content-type", "authorization")
    }
    return PredictionsRequest(model_name=name, model_version=version, input={**options, "data": call.body})


def reply_from(response: bytes) -> Reply | NoResponse:
    """The reply in a PredictionResponse. A refused request is one too: its JSON carries the status."""
    from google.protobuf.message import DecodeError

    from marina.third_party.inference_pb2 import PredictionResponse

    try:
        prediction = PredictionResponse.FromString(response).prediction
    except DecodeError as error:
        return NoResponse("broken", str(error))
    if prediction.startswith(b'{"code":'):
        content: Mapping[str, Any] = json.loads(prediction)
        if content.keys() == {"code", "type", "message", "request_id"}:
            return Reply(int(content["code"]), {"content-type": JSON}, prediction)
    return Reply(200, {}, prediction)


def _outcome(code: str, details: str) -> Reply | NoResponse:
    """A failed call as the HTTP API would answer it; `details` ends with Java's exception class."""
    message, _, exception = details.rpartition("\n")
    if code == "DEADLINE_EXCEEDED" or "CLIENT: Received message larger than max" in details:
        return NoResponse("late" if code == "DEADLINE_EXCEEDED" else "endless")
    if code == "UNAVAILABLE" and not message:
        return NoResponse("unconnected" if "failed to connect" in details else "broken", details)
    if code == "PERMISSION_DENIED":
        return _error(400, "InvalidKeyException", details)
    # how TorchServe closes the stream, without details, and gRPC's own server
    if code == "CANCELLED" or (code == "RESOURCE_EXHAUSTED" and not message):
        return _error(
            413,
            "",
            "the server refuses the request, as it does with one above max_request_size; send less at once",
        )
    error_type = exception.removesuffix(".()").rpartition(".")[2]
    if "has no worker to serve inference request" in message:
        return _error(503, "ServiceUnavailableException", message)
    status = 507 if message == "Out of resources" else TYPE_STATUS.get(error_type, STATUS.get(code, 500))
    return _error(status, error_type, message or details)


def _error(status: int, error_type: str, message: str) -> Reply:
    content = {"code": status, "type": error_type, "message": message}
    return Reply(status, {"content-type": JSON}, json.dumps(content).encode())
