"""The Open Inference Protocol v2 over HTTP, as Triton's client speaks it to a real server."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from handlers.protocol.replies import Reply
from marina.engines.gateway.open_inference import Outputs
from marina.engines.gateway.served_model import ServedModel
from tests.support.gateways import call, gateway, listening

ROWS = np.array([[0, 0, 0.1, 0.2], [0, 0, -0.1, -0.2]], np.float32)
TENSOR = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": ROWS.ravel().tolist()}
HEADER = "inference-header-content-length"


@pytest.fixture(scope="module")
def client(balance: ServedModel) -> Iterator[triton.InferenceServerClient]:
    with (
        listening(gateway(balance)) as port,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as connected,
    ):
        yield connected


def tensor(binary: bool) -> list[Any]:
    own = triton.InferInput("observation", [2, 4], "FP32")
    own.set_data_from_numpy(ROWS, binary_data=binary)
    return [own]


def test_the_server_and_its_models_say_what_they_are(client: triton.InferenceServerClient) -> None:
    """Live, ready, the server's metadata, and a model's: its tensors with their types and shapes."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("balance")
    assert client.is_model_ready("balance", "1.0")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("balance")
    assert (metadata["name"], metadata["versions"]) == ("balance", ["1.0"])
    assert metadata["inputs"] == [{"name": "observation", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [
        {"name": "action", "datatype": "INT64", "shape": [-1]},
        {"name": "q_values", "datatype": "FP32", "shape": [-1, 2]},
    ]


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_tensors_come_and_go_as_json_or_bytes(
    client: triton.InferenceServerClient, sent: bool, answered: bool, packed: str | None
) -> None:
    """The same answer in every form, plain or packed."""
    outputs = [triton.InferRequestedOutput("q_values", binary_data=answered)]

    result = client.infer(
        "balance",
        tensor(sent),
        model_version="1.0",
        outputs=outputs,
        request_id="a-1",
        request_compression_algorithm=packed,
    )

    found = result.as_numpy("q_values")
    assert (found.dtype, found.shape) == (np.float32, (2, 2))
    np.testing.assert_allclose(found, [[-0.4, 0.4], [0.4, -0.4]], atol=1e-6)
    assert result.get_response()["id"] == "a-1"
    assert result.as_numpy("action") is None


def test_all_outputs_come_where_none_is_named(client: triton.InferenceServerClient) -> None:
    """Triton's client asks for all of them as bytes then."""
    result = client.infer("balance", tensor(binary=True))

    assert result.as_numpy("action").tolist() == [1, 0]
    assert result.as_numpy("q_values").shape == (2, 2)


@pytest.mark.parametrize(
    ("model", "outputs", "message"),
    [("balance", ["nothing"], "unknown outputs: 'nothing'"),
     ("nobody", ["action"], "Model not found: nobody")],
)  # fmt: skip
def test_errors_reach_the_client(
    client: triton.InferenceServerClient, model: str, outputs: list[str], message: str
) -> None:
    """With the reason."""
    with pytest.raises(InferenceServerException, match=message):
        client.infer(model, tensor(True), outputs=[triton.InferRequestedOutput(name) for name in outputs])


@pytest.mark.parametrize(
    "changed",
    [
        {"outputs": "action"},
        {"outputs": ["action"]},
        {"outputs": [{"name": 1}]},
        {"outputs": [{"name": "action", "parameters": {"binary_data": "yes"}}]},
        {"parameters": {"binary_data_output": 1}},
    ],
)
def test_outputs_that_are_none_are_refused(balance: ServedModel, changed: dict[str, Any]) -> None:
    """Each with a 400 that says what to send."""
    answer = call(gateway(balance), "POST", "/v2/models/balance/infer", json={"inputs": [TENSOR], **changed})

    content = answer.json()
    assert (answer.status_code, content["type"], content["error"]) == (400, "BadRequest", content["message"])


def test_bytes_follow_the_json_in_the_order_of_the_outputs(balance: ServedModel) -> None:
    """Each with its size; the header says how long the JSON is; outputs in JSON stand beside them."""
    outputs = [{"name": "q_values"}, {"name": "action", "parameters": {"binary_data": True}}]

    answer = call(
        gateway(balance), "POST", "/v2/models/balance/infer", json={"inputs": [TENSOR], "outputs": outputs}
    )

    length = int(answer.headers[HEADER])
    found = json.loads(answer.content[:length])["outputs"]
    assert [output["name"] for output in found] == ["q_values", "action"]
    assert "data" in found[0]
    assert found[1]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(answer.content[length:], "<i8").tolist() == [1, 0]


def test_texts_as_bytes_have_their_lengths_in_front() -> None:
    """BYTES outputs, as Triton writes them."""
    content = {"outputs": [{"name": "class", "shape": [2], "datatype": "BYTES", "data": ["7", "é"]}]}

    reply, ((_, length),) = Outputs({}, True).written(Reply(json.dumps(content).encode()))

    assert reply.content[int(length) :] == b"\x01\x00\x00\x007\x02\x00\x00\x00\xc3\xa9"
