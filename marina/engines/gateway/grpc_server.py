"""The gateway's answers over gRPC: the Open Inference Protocol's service, and Ping and Predictions of
TorchServe's, which `marina.client.grpc_client` calls.

Tensors become the binary form of the same protocol over HTTP, so that a predictor reads one form. Needs the
extra: pip install marina[grpc]. Not covered: streamed predictions.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message

from handlers.protocol.errors import BadRequest, ModelError
from handlers.protocol.kserve import BINARY_HEADER
from handlers.protocol.replies import Reply
from handlers.protocol.requests import Row
from marina.engines.gateway.app import Gateway
from marina.engines.gateway.bodies import LARGE_BYTES, large_value
from marina.engines.gateway.failures import FAILED, Refused, reply_to
from marina.engines.gateway.grpc_tensors import input_bytes, output_tensor
from marina.engines.gateway.open_inference import Outputs, model_metadata, server_metadata
from marina.third_party import inference_pb2 as torchserve
from marina.third_party import open_inference_pb2 as v2

logger = logging.getLogger(__name__)

OPEN_INFERENCE = "inference.GRPCInferenceService"
TORCHSERVE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Headers = Mapping[str, str]
Call = Callable[[Any, Headers, str], Awaitable[Message]]


class Refusal(Exception):
    """A reply that is no answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.content)
        self.reply = reply


async def start(gateway: Gateway, address: str) -> tuple[grpc.aio.Server, int]:
    """A server of both services that listens at `address`, "host:port", and its port; several processes may
    share it.

    The server's `stop(grace)` answers what it has accepted. Raises RuntimeError where the address is taken.
    """
    options = [
        ("grpc.max_receive_message_length", gateway.limits.max_request_size),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 1),
    ]
    server = grpc.aio.server(options=options)
    calls = Calls(gateway)
    server.add_generic_rpc_handlers(
        [
            _service(gateway, OPEN_INFERENCE, calls.open_inference()),
            _service(gateway, TORCHSERVE, calls.torchserve()),
        ]
    )
    port = server.add_insecure_port(address)
    await server.start()
    return server, port


class Calls:
    """What each method answers: message, headers by lower-case name, the request's id -> message."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.models = gateway, gateway.models

    def open_inference(self) -> dict[str, tuple[type[Message], Call]]:
        """The methods of the Open Inference Protocol and what they take."""
        return {
            "ServerLive": (v2.ServerLiveRequest, self.server_live),
            "ServerReady": (v2.ServerReadyRequest, self.server_ready),
            "ServerMetadata": (v2.ServerMetadataRequest, self.server_metadata),
            "ModelReady": (v2.ModelReadyRequest, self.model_ready),
            "ModelMetadata": (v2.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": (v2.ModelInferRequest, self.model_infer),
        }

    def torchserve(self) -> dict[str, tuple[type[Message], Call]]:
        """TorchServe's methods; its Empty and health message have the forms of two of the others."""
        return {
            "Ping": (v2.ServerLiveRequest, self.ping),
            "Predictions": (torchserve.PredictionsRequest, self.predictions),
        }

    async def server_live(self, *_: Any) -> Message:
        """Always."""
        return v2.ServerLiveResponse(live=True)

    async def server_ready(self, *_: Any) -> Message:
        """Not while the process stops."""
        return v2.ServerReadyResponse(ready=self.gateway.is_ready)

    async def server_metadata(self, _: Message, headers: Headers, __: str) -> Message:
        """Name, version, extensions."""
        self._check(headers)
        return v2.ServerMetadataResponse(**server_metadata())

    async def model_ready(self, request: Any, headers: Headers, _: str) -> Message:
        """Whether the model is served: one that is has answered its golden samples."""
        self._check(headers)
        self.models.get(request.name, request.version or None)
        return v2.ModelReadyResponse(ready=True)

    async def model_metadata(self, request: Any, headers: Headers, _: str) -> Message:
        """Its versions and tensors."""
        self._check(headers)
        model = self.models.get(request.name, request.version or None)
        return v2.ModelMetadataResponse(**model_metadata(model.predictor, self.models.versions(model.name)))

    async def model_infer(self, request: Any, headers: Headers, request_id: str) -> Message:
        """The outputs that were asked for, as bytes where the inputs came as such."""
        self._check(headers)
        is_large = request.ByteSize() >= LARGE_BYTES
        row = await asyncio.to_thread(_row, request, headers) if is_large else _row(request, headers)
        outputs, row = Outputs.asked_by(row)
        model = self.models.get(request.model_name, request.model_version or None)
        reply = await model.answer(row, request_id, is_large)
        if reply.status != HTTPStatus.OK:
            raise Refusal(reply)
        answer = json.loads((outputs.written(reply)[0] if outputs else reply).content)
        response = v2.ModelInferResponse(
            model_name=answer["model_name"], model_version=answer["model_version"], id=request.id
        )
        for output in answer["outputs"]:
            output_tensor(response, output, as_bytes=bool(request.raw_input_contents))
        return response

    async def ping(self, *_: Any) -> Message:
        """TorchServe's health, as JSON."""
        status = {"status": "Healthy" if self.gateway.is_ready else "Unhealthy"}
        return v2.ServerMetadataResponse(name=json.dumps(status))

    async def predictions(self, request: Any, headers: Headers, request_id: str) -> Message:
        """An answer, or the predictor's refusal, whose JSON carries its status."""
        self._check(headers)
        fields, is_large = dict(request.input), request.ByteSize() >= LARGE_BYTES
        if is_large:
            fields = await asyncio.to_thread(_large_fields, fields)
        model = self.models.get(request.model_name, request.model_version or None)
        reply = await model.answer((fields, {**headers, "explain": "False"}), request_id, is_large)
        return torchserve.PredictionResponse(prediction=reply.content)

    def _check(self, headers: Headers) -> None:
        self.gateway.tokens.check(headers.get("authorization", ""), "inference")


def _service(
    gateway: Gateway, name: str, calls: Mapping[str, tuple[type[Message], Call]]
) -> grpc.GenericRpcHandler:
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            partial(_answered, gateway, kind, call, name == TORCHSERVE),
            response_serializer=lambda message: message.SerializeToString(),
        )
        for method, (kind, call) in calls.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


async def _answered(
    gateway: Gateway,
    kind: type[Message],
    call: Call,
    has_type: bool,
    request: bytes,
    context: grpc.aio.ServicerContext,
) -> Message:
    """What a call answers, or its error as gRPC has it; TorchServe's ends with the type."""
    metadata = context.invocation_metadata() or ()
    headers = {key.lower(): value for key, value in metadata if isinstance(value, str)}
    request_id = gateway.request_id(headers)
    context.set_trailing_metadata((("x-request-id", request_id),))
    try:
        return await call(kind.FromString(request), headers, request_id)
    except Refusal as refusal:
        reply = refusal.reply
    except Refused as error:
        reply = reply_to(error, request_id)
    except DecodeError:
        reply = reply_to(BadRequest(f"the bytes are no {kind.DESCRIPTOR.name}"), request_id)
    except Exception:  # unforeseen: logged with its traceback, and the caller is told without it
        logger.exception("a %s failed", kind.DESCRIPTOR.name)
        reply = reply_to(ModelError(FAILED), request_id)
    gateway.metrics.count_error(reply.status)
    content = json.loads(reply.content)
    details = f"{content['message']}\n{content['type']}" if has_type else content["message"]
    await context.abort(CODES.get(reply.status, grpc.StatusCode.INTERNAL), details)
    raise asyncio.CancelledError  # abort has raised


def _row(request: Any, headers: Headers) -> Row:
    """A request as the binary form of version 2 over HTTP. Raises BadRequest for one that can't be that."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(f"there are {len(request.inputs)} inputs, but {len(raw)} raw_input_contents")
    chunks = raw or [input_bytes(tensor) for tensor in request.inputs]
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {**_parameters(tensor.parameters), "binary_data_size": len(chunk)},
        }
        for tensor, chunk in zip(request.inputs, chunks, strict=True)
    ]
    parameters = _parameters(request.parameters)
    parameters.pop("binary_data_output", None)  # the inputs' form decides
    body: dict[str, Any] = {"inputs": inputs, "parameters": parameters}
    if request.outputs:
        body["outputs"] = [_asked_output(output) for output in request.outputs]
    if request.id:
        body["id"] = request.id
    head = json.dumps(body).encode()
    return {"body": b"".join([head, *chunks])}, {**headers, "explain": "False", BINARY_HEADER: str(len(head))}


def _large_fields(fields: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: large_value(content) for name, content in fields.items()}


def _asked_output(output: Any) -> dict[str, Any]:
    parameters = _parameters(output.parameters)
    parameters.pop("binary_data", None)
    return {"name": output.name, "parameters": parameters}


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    choices = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], choice) for name, choice in choices.items() if choice}
