"""gRPC on a real server: Triton's client, TorchServe's inference service, and the messages' numbers."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from marina.client.grpc_client import GrpcClient
from marina.core.errors import RequestRefused
from marina.engines.gateway import grpc_server
from marina.engines.gateway.served_model import ServedModel
from marina.engines.gateway.tokens import Tokens
from marina.third_party import open_inference_pb2
from tests.support.gateways import gateway

KEY = "a-key-for-inference"
HEADERS = {"authorization": f"Bearer {KEY}"}
ROWS = np.array([[0, 0, 0.1, 0.2], [0, 0, -0.1, -0.2]], np.float32)


@pytest.fixture(scope="module")
def target(balance: ServedModel) -> Iterator[str]:
    """The address of a server, which runs in a thread."""
    app = gateway(balance, tokens=Tokens([(KEY, ["inference"])]))
    loop, ports = asyncio.new_event_loop(), []
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        server, port = await grpc_server.start(app, "127.0.0.1:0")
        ports.append(port)
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(10)
    yield f"127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(target) as connected:
        yield connected


def tensor() -> list[Any]:
    own = triton.InferInput("observation", [2, 4], "FP32")
    own.set_data_from_numpy(ROWS)
    return [own]


def test_the_server_and_its_models_say_what_they_are(client: triton.InferenceServerClient) -> None:
    """Health without a key, the rest with one."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("balance", "1.0", headers=HEADERS)
    assert client.get_server_metadata(headers=HEADERS).extensions == ["binary_tensor_data"]
    metadata = client.get_model_metadata("balance", headers=HEADERS)
    assert (metadata.name, metadata.versions) == ("balance", ["1.0"])
    assert [(one.name, one.datatype, list(one.shape)) for one in (*metadata.inputs, *metadata.outputs)] == [
        ("observation", "FP32", [-1, 4]),
        ("action", "INT64", [-1]),
        ("q_values", "FP32", [-1, 2]),
    ]


def test_raw_tensors_are_answered_raw(client: triton.InferenceServerClient) -> None:
    """All outputs, or those that are asked for, with the request's id."""
    whole = client.infer("balance", tensor(), headers=HEADERS, request_id="a-1")
    part = client.infer(
        "balance", tensor(), outputs=[triton.InferRequestedOutput("q_values")], headers=HEADERS
    )

    assert whole.as_numpy("action").tolist() == [1, 0]
    assert whole.get_response().id == "a-1"
    assert part.as_numpy("action") is None
    np.testing.assert_allclose(part.as_numpy("q_values"), [[-0.4, 0.4], [0.4, -0.4]], atol=1e-6)


def typed(**contents: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="balance")
    own = request.inputs.add(name="x", datatype="FP32", shape=[2, 4])
    for field, values in contents.items():
        getattr(own.contents, field).extend(values)
    return request


def test_typed_tensors_are_answered_typed(client: triton.InferenceServerClient) -> None:
    """As clients without raw contents send them."""
    request = typed(fp32_contents=ROWS.ravel().tolist())

    answer = client._client_stub.ModelInfer(request, metadata=tuple(HEADERS.items()))

    assert answer.outputs[0].contents.int64_contents == [1, 0]
    assert len(answer.raw_output_contents) == 0


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"int_contents": [1] * 8}, "belongs into fp32_contents"),
        ({"fp32_contents": [1.0]}, "8 values, but 1"),
    ],
)
def test_contents_of_another_type_or_length_are_refused(
    client: triton.InferenceServerClient, contents: dict[str, Any], message: str
) -> None:
    """With INVALID_ARGUMENT and what is wrong."""
    with pytest.raises(Exception, match=message) as caught:
        client._client_stub.ModelInfer(typed(**contents), metadata=tuple(HEADERS.items()))

    assert caught.value.code().name == "INVALID_ARGUMENT"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "version", "headers", "status"),
    [
        ("nobody", "", HEADERS, "NOT_FOUND"),
        ("balance", "2.0", HEADERS, "NOT_FOUND"),
        ("balance", "", {}, "UNAUTHENTICATED"),
    ],
)
def test_errors_are_status_codes(
    client: triton.InferenceServerClient, model: str, version: str, headers: dict[str, str], status: str
) -> None:
    """As the protocol's clients read them."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, tensor(), model_version=version, headers=headers)

    assert caught.value.status() == f"StatusCode.{status}"


def test_our_own_client_predicts_over_grpc(target: str) -> None:
    """By TorchServe's service: answers, options, refusals, unknown models, wrong keys."""
    observation = {"observation": [0.0, 0.0, 0.1, 0.2]}
    with GrpcClient(target=target, url="http://127.0.0.1:1", token=KEY) as own:
        assert own.predict("balance", observation)["action"] == 1
        assert own.predict("balance", observation, version="1.0")["action"] == 1
        with pytest.raises(RequestRefused, match="observation"):
            own.predict("balance", {"observation": [1]})
        with pytest.raises(RequestRefused, match="Model not found: nobody") as caught:
            own.predict("nobody", observation)
    assert (caught.value.status, caught.value.type) == (404, "ModelNotFoundException")
    with (
        GrpcClient(target=target, url="http://127.0.0.1:1", token="another-key") as stranger,
        pytest.raises(RequestRefused) as refused,
    ):
        stranger.predict("balance", observation)
    assert (refused.value.status, refused.value.type) == (401, "InvalidKeyException")


def test_the_messages_are_the_protocols() -> None:
    """Every field has the number and type that it has in Triton's client."""

    def fields(descriptor: Any) -> dict[str, tuple[int, int]]:
        return {field.name: (field.number, field.type) for field in descriptor.fields}

    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    for name, message in open_inference_pb2.DESCRIPTOR.message_types_by_name.items():
        assert fields(message) == fields(theirs[name])
        for inner in message.nested_types:
            assert fields(inner) == fields(theirs[name].nested_types_by_name[inner.name])
