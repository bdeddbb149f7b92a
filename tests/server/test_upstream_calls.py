"""Clients that were written for other servers, on each engine: the calls of TorchServe's own collections,
Triton's client, and what reads an OpenAPI document.

The collections are test/postman/{inference,explanation,kf,kfv2}_api_test_collection.json of pytorch/serve.
Each registers a model, asks for a prediction or an explanation, looks at the metrics and unregisters the
model. They serve MNIST; so does this file, by the built-in model digits under their name.
"""

import base64
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from openapi_spec_validator import validate
from tritonclient.utils import InferenceServerException

from handlers.runtime.export import GoldenSample
from marina.client import Client
from marina.core import spec
from marina.core.spec import Spec
from marina.pipeline import readiness
from tests.support.engines import ONE_ENGINE, ONLY_TORCHSERVE

ROWS = np.array([[0, 0, 0.1, 0.2], [0, 0, -0.1, -0.2]], np.float32)


def port_of(client: Client, offset: int = 0) -> int:
    return int(client.inference.rsplit(":", 1)[1]) + offset


def key(client: Client, api: str = "inference") -> dict[str, str]:
    return {"Authorization": f"Bearer {client.token(api)}"}


@pytest.fixture(scope="module")
def digit() -> GoldenSample:
    return readiness.golden_samples(spec.load("digits"))[0]


@pytest.fixture(scope="module")
def mnist(client: Client, built_in: list[Spec]) -> Iterator[Client]:
    """The server with digits registered as mnist too, by the collections' calls."""
    (digits,) = [one for one in built_in if one.name == "digits"]
    url, headers = f"{client.management}/models", key(client, "management")
    query = {"url": digits.archive_name, "model_name": "mnist", "initial_workers": 1, "synchronous": "true"}
    registered = requests.post(url, params=query, headers=headers, timeout=120)
    yield client
    unregistered = requests.delete(f"{url}/mnist", headers=headers, timeout=60)
    assert registered.status_code == 200
    assert unregistered.status_code == 200


def post(client: Client, path: str, body: Any) -> requests.Response:
    """A call as the collections send it: a file, without any content type."""
    payload = {"data": body} if isinstance(body, bytes) else {"json": body}
    answer = requests.post(client.inference + path, headers=key(client), timeout=120, **payload)
    assert answer.status_code == 200, answer.text
    return answer


def test_upstream_predictions(mnist: Client, digit: GoldenSample) -> None:
    """The inference collection: what a file shows."""
    answer = post(mnist, "/predictions/mnist", digit["body"]).json()

    assert answer["predictions"][0]["class"] == digit["expect"]["class"]


def test_upstream_kserve_v1(mnist: Client, digit: GoldenSample) -> None:
    """The kf collection: as many predictions as instances."""
    body = {"instances": [{"data": base64.b64encode(digit["body"]).decode()}]}

    answer = post(mnist, "/v1/models/mnist:predict", body).json()

    assert [one["predictions"][0]["class"] for one in answer["predictions"]] == [digit["expect"]["class"]]


def test_upstream_open_inference(mnist: Client, digit: GoldenSample) -> None:
    """The kfv2 collection: id, name and version come back beside the outputs."""
    data = [base64.b64encode(digit["body"]).decode()]
    tensor = {"name": "input-0", "shape": [-1], "datatype": "BYTES", "data": data}

    answer = post(mnist, "/v2/models/mnist/infer", {"id": "d3b15cad", "inputs": [tensor]}).json()

    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("d3b15cad", "mnist", "1.0")
    assert answer["outputs"][0]["data"][0] == digit["expect"]["class"]


def test_upstream_explanations(mnist: Client, digit: GoldenSample) -> None:
    """The explanation collection, and the two others' explanations: one per instance."""
    data = base64.b64encode(digit["body"]).decode()
    tensor = {"name": "input-0", "shape": [-1], "datatype": "BYTES", "data": [data]}

    own = post(mnist, "/explanations/mnist", digit["body"]).json()
    version_1 = post(mnist, "/v1/models/mnist:explain", {"instances": [{"data": data}]}).json()
    version_2 = post(mnist, "/v2/models/mnist/explain", {"id": "d3", "inputs": [tensor]}).json()

    assert own["class"] == digit["expect"]["class"]
    assert len(version_1["explanations"]) == 1
    assert version_1["explanations"][0]["heat_map"] == own["heat_map"]
    assert (version_2["id"], version_2["model_name"]) == ("d3", "mnist")


def test_upstream_metrics(mnist: Client, engine: str, digit: GoldenSample) -> None:
    """The name under which a model is registered labels its metrics."""
    post(mnist, "/predictions/mnist", digit["body"])
    metric = "ts_inference_requests_total" if engine == "torchserve" else "marina_requests_total"

    text = requests.get(f"http://127.0.0.1:{port_of(mnist, 2)}/metrics", timeout=30).text

    assert [line for line in text.splitlines() if line.startswith(metric) and 'model_name="mnist"' in line]


def tensors(module: Any, **options: Any) -> list[Any]:
    own = module.InferInput("observation", [2, 4], "FP32")
    own.set_data_from_numpy(ROWS, **options)
    return [own]


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_over_http(client: Client, binary: bool) -> None:
    """Tensors go as bytes or JSON and come back as arrays; errors come with their words."""
    alone = [client.predict("cartpole", {"observation": row.tolist()})["action"] for row in ROWS]
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port_of(client)}") as triton:
        found = triton.infer("cartpole", tensors(tritonclient.http, binary_data=binary), headers=key(client))
        misspelt = {"determinstic": True}
        with pytest.raises(InferenceServerException, match="did you mean deterministic"):
            triton.infer("cartpole", tensors(tritonclient.http), headers=key(client), parameters=misspelt)
        ours = triton.infer(
            "cartpole",
            tensors(tritonclient.http),
            headers=key(client),
            parameters={"of_theirs": 1},
            sequence_id=3,
            priority=1,
        )

    assert found.as_numpy("action").tolist() == alone
    assert ours.as_numpy("action").tolist() == alone
    assert ours.get_response()["parameters"] == {"ignored": "of_theirs"}


@ONE_ENGINE
def test_tritons_client_over_grpc(client: Client) -> None:
    """As over HTTP."""
    alone = [client.predict("cartpole", {"observation": row.tolist()})["action"] for row in ROWS]
    headers = {"authorization": key(client)["Authorization"]}
    with closing(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port_of(client, 3)}")) as triton:
        found = triton.infer("cartpole", tensors(tritonclient.grpc), headers=headers)
        with pytest.raises(InferenceServerException, match="did you mean deterministic"):
            triton.infer(
                "cartpole", tensors(tritonclient.grpc), headers=headers, parameters={"determinstic": True}
            )

    assert found.as_numpy("action").tolist() == alone


@ONLY_TORCHSERVE
def test_tritons_client_over_grpc_is_told_that_there_is_none(client: Client) -> None:
    """TorchServe's gRPC is its own alone, as docs/reference/serving.md says."""
    with (
        closing(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port_of(client, 3)}")) as triton,
        pytest.raises(InferenceServerException) as caught,
    ):
        triton.infer("cartpole", tensors(tritonclient.grpc))

    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


@ONE_ENGINE
def test_served_documents_are_openapi(client: Client) -> None:
    """The whole server's and one model's. TorchServe's are not: their operation ids repeat."""
    for path in ("/", "/predictions/digits", "/predictions/digits/1.0"):
        answer = requests.options(client.inference + path, headers=key(client), timeout=30)

        assert answer.status_code == 200
        validate(answer.json())
