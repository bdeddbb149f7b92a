"""The ways in which people call a served model, over real HTTP: KServe v1 and v2, explanations, describe,
metrics, log lines.
"""

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import requests
from PIL import Image, ImageDraw
from prometheus_client.parser import text_string_to_metric_families

from handlers.runtime.telemetry import METRICS
from marina.client import Client
from marina.core import paths, spec
from marina.core.spec import Spec
from marina.packaging import openapi
from marina.pipeline import readiness as ready

NAMES = spec.names()
WAIT_SECONDS = 10.0


def port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[1])


def send(client: Client, path: str, body: Any, headers: dict[str, str] | None = None) -> requests.Response:
    own = {"Authorization": f"Bearer {client.token('inference')}", **(headers or {})}
    payload = {"data": body} if isinstance(body, bytes) else {"json": body}
    return requests.post(client.inference + path, headers=own, timeout=30, **payload)


def corner_seven() -> tuple[Image.Image, bytes]:
    """A seven in the lower right corner of an otherwise empty sheet of 600 x 400."""
    image = Image.new("RGB", (600, 400), (250, 248, 240))
    points = [(0.28, 0.24), (0.7, 0.24), (0.62, 0.42), (0.5, 0.6), (0.43, 0.78)]
    ImageDraw.Draw(image).line(
        [(430 + 150 * x, 230 + 150 * y) for x, y in points], fill=(20, 20, 60), width=12, joint="curve"
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return image, buffer.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_golden_sample_is_answered_alike_as_an_instance(client: Client, name: str) -> None:
    one = spec.load(name)
    samples = ready.golden_samples(one)
    json_bodies = [
        json.loads(sample["body"])
        if sample["content_type"] == "application/json"
        else {"b64": base64.b64encode(sample["body"]).decode()}
        for sample in samples
    ]

    version_1 = send(client, f"/v1/models/{name}:predict", {"instances": json_bodies}).json()["predictions"]

    assert [
        ready.difference(sample["answer"], answer, reduced=bool(sample.get("reduced")))
        for sample, answer in zip(samples, version_1, strict=True)
    ] == [""] * len(samples)


def test_observations_as_tensors_act_as_they_do_one_by_one(client: Client) -> None:
    rows = np.random.default_rng(0).normal(0, 0.1, (50, 4)).astype(np.float32)
    body = {
        "id": "a-1",
        "inputs": [{"name": "input-0", "shape": [50, 4], "datatype": "FP32", "data": rows.ravel().tolist()}],
    }

    answer = send(client, "/v2/models/cartpole/infer", body).json()

    outputs = {one["name"]: one for one in answer["outputs"]}
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("cartpole", "1.0", "a-1")
    assert (outputs["action"]["shape"], outputs["action"]["datatype"]) == ([50], "INT64")
    assert outputs["q_values"]["shape"] == [50, 2]
    alone = [client.predict("cartpole", {"observation": row.tolist()})["action"] for row in rows[:10]]
    assert outputs["action"]["data"][:10] == alone


def test_a_picture_is_answered_alike_as_file_text_and_pixels(client: Client) -> None:
    image, file = corner_seven()
    text = {
        "inputs": [
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(file).decode()]}
        ]
    }
    pixels = np.asarray(image)[None]
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    raw = {"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": pixels.size}}]})
    binary = header.encode() + pixels.tobytes()

    plain = client.predict("digits", file)["predictions"]
    answers = [
        send(client, "/v2/models/digits/infer", text).json(),
        send(client, "/v2/models/digits/infer", raw).json(),
        send(
            client, "/v2/models/digits/infer", binary, {"Inference-Header-Content-Length": str(len(header))}
        ).json(),
    ]

    assert answers[0]["outputs"][0]["data"] == [one["class"] for one in plain]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.slow
def test_detections_as_tensors_have_a_row_for_each_box(client: Client) -> None:
    samples = ready.golden_samples(spec.load("scenes"))[:3]
    data = [base64.b64encode(sample["body"]).decode() for sample in samples]

    answer = send(
        client,
        "/v2/models/scenes/infer",
        {"inputs": [{"name": "x", "shape": [3], "datatype": "BYTES", "data": data}]},
    ).json()

    outputs = {one["name"]: one for one in answer["outputs"]}
    counts = [len(sample["answer"]["detections"]) for sample in samples]
    assert outputs["detections"]["data"] == counts
    assert outputs["bbox"]["shape"] == [sum(counts), 4]
    assert outputs["class"]["data"] == [
        one["class"] for sample in samples for one in sample["answer"]["detections"]
    ]


def test_many_masks_in_one_request_are_obeyed(client: Client) -> None:
    observation = [0, 0, 0.1, 0]
    instances = [{"observation": observation, "action_mask": mask} for mask in ([1, 1], [1, 0], [0, 1])]

    found = client.predict("cartpole", {"instances": instances})["predictions"]

    assert [one["action"] for one in found] == [1, 0, 1]
    assert (
        client.predict("cartpole", {"observation": observation}, headers={"action_mask": "1,0"})["action"]
        == 0
    )


def test_the_heat_lies_on_the_digit_in_its_corner(client: Client) -> None:
    image, file = corner_seven()

    answer = send(client, "/explanations/digits", file).json()
    drawn = send(client, "/explanations/digits", file, {"format": "png"})
    accepted = send(client, "/explanations/digits", file, {"Accept": "image/png"})

    heat = np.array(answer["heat_map"])
    right, lower = int(heat.shape[1] * 0.75), int(heat.shape[0] * 0.6)
    assert (answer["class"], answer["method"]) == ("7", "grad-cam")
    assert heat[lower:, right:].sum() > 0.9 * heat.sum() > 0
    assert drawn.headers["content-type"] == accepted.headers["content-type"] == "image/png"
    assert drawn.content == accepted.content
    overlay = np.asarray(Image.open(io.BytesIO(drawn.content)).convert("RGB")).astype(int)
    changed = np.abs(overlay - np.asarray(image)).max(2) > 8
    assert changed[:200, :400].mean() < 0.001
    assert changed[240:, 440:].mean() > 0.2


def test_another_class_can_be_explained_and_an_unknown_one_is_refused(client: Client) -> None:
    _, file = corner_seven()

    assert send(client, "/explanations/digits", file, {"class_index": "3"}).json()["class"] == "3"
    refused = send(client, "/explanations/digits", file, {"class_index": "10"})
    assert refused.status_code == 400
    assert "class_index must be a whole number from 0 to 9" in refused.json()["message"]


def test_a_policys_saliency_says_which_numbers_decide(client: Client) -> None:
    answer = send(client, "/explanations/cartpole", {"observation": [0, 0, 0.1, 0]}).json()

    assert answer["action"] == 1
    assert answer["names"] == ["cart position", "cart velocity", "pole angle", "pole angular velocity"]
    assert sum(answer["saliency"]) == pytest.approx(1)
    assert answer["gradient"][2] > 0, (
        "the further the pole leans to the right, the more a push to the right leads"
    )
    many = send(
        client, "/v1/models/cartpole:explain", {"instances": [[0, 0, 0.1, 0], [0, 0, -0.1, 0]]}
    ).json()["explanations"]
    assert many[0] == answer


@pytest.mark.slow
def test_a_kind_without_explanations_says_so(client: Client) -> None:
    answer = send(client, "/explanations/scenes", corner_seven()[1])

    assert (answer.status_code, answer.json()["type"]) == (415, "NotSupported")
    assert "call /predictions/scenes" in answer.json()["message"]


def without_nulls(content: Any) -> Any:
    """TorchServe's management API leaves them out."""
    if isinstance(content, dict):
        return {key: without_nulls(value) for key, value in content.items() if value is not None}
    return content


@pytest.mark.parametrize("name", NAMES)
def test_the_servers_description_is_the_archives(client: Client, name: str) -> None:
    described = without_nulls(client.describe(name, "1.0", customized=True)[0]["customizedMetadata"])
    archived = without_nulls(json.loads(json.dumps(openapi.description(spec.load(name)))))

    # each worker's own choice
    assert described.pop("computing")["runtime"] in ("onnxruntime", "openvino", "torch")
    assert described == {key: value for key, value in archived.items() if key != "computing"}
    assert described["metrics"].keys() >= spec.load(name).floor.keys()
    for sample in ready.golden_samples(spec.load(name)):
        jsonschema.validate(
            client.predict(name, sample["body"], content_type=sample["content_type"]), described["answer"]
        )


def scrape(client: Client) -> dict[tuple[str, ...], float]:
    """(sample's name, model, version, type of refusal) -> value."""
    text = requests.get(f"http://127.0.0.1:{port_of(client) + 2}/metrics", timeout=30).text
    return {
        (
            sample.name,
            *(sample.labels.get(label, "") for label in ("model_name", "model_version", "type")),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("marina_") and not sample.name.endswith("_bucket")
    }


def test_scrape_counts_by_model_and_version(client: Client) -> None:
    """A scrape counts requests, refusals and seconds by model and version."""
    before = scrape(client)
    for _ in range(5):
        client.predict("cartpole", {"observation": [0, 0, 0, 0]})
    assert send(client, "/predictions/cartpole", {"observation": [1]}).status_code == 400

    def grown(name: str, kind: str = "") -> float:
        key = (name, "cartpole", "1.0", kind)
        return after.get(key, 0) - before.get(key, 0)

    deadline = time.monotonic() + WAIT_SECONDS  # the front end reads its workers' output in its own time
    while (after := scrape(client)) and grown("marina_requests_total") < 6 and time.monotonic() < deadline:
        time.sleep(0.1)

    assert grown("marina_requests_total") == 6
    assert grown("marina_refusals_total", "BadRequest") == 1
    assert grown("marina_batch_size_sum") == 6
    for stage in ("decode", "preprocess", "inference", "postprocess"):
        assert grown(f"marina_{stage}_seconds_count") in (5, 6), stage
        assert 0 < grown(f"marina_{stage}_seconds_sum") < 5, stage
    families = {name.removesuffix("_count").removesuffix("_sum") for name, *_ in after}
    assert families >= METRICS.keys()


def test_the_documented_metrics_are_those_that_there_are() -> None:
    page = (paths.SOURCE / "docs" / "reference" / "serving.md").read_text(encoding="utf-8")

    assert {name for name in METRICS if f"`{name}`" in page} == METRICS.keys()


def lines_of(client: Client) -> list[dict[str, Any]]:
    log = Path(paths.run(port_of(client)) / "logs" / "models.log").read_text(encoding="utf-8")
    return [json.loads(line[line.index("{") :]) for line in log.splitlines() if '{"event"' in line]


def test_a_trace_is_found_in_the_one_line_of_its_batch(client: Client, built_in: list[Spec]) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = send(client, "/predictions/cartpole", {"observation": [0, 0, 0, 0]}, {"traceparent": parent})
    request_id = answer.headers["x-request-id"]

    deadline = time.monotonic() + WAIT_SECONDS
    while (
        not (found := [line for line in lines_of(client) if request_id in json.dumps(line)])
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)

    (line,) = found
    assert (line["event"], line["model"], line["version"]) == ("batch", "cartpole", "1.0")
    assert {"id": request_id, "status": 200, "traceparent": parent} in line["answers"]
    starts = {line["model"]: line for line in lines_of(client) if line["event"] == "ready"}
    assert starts.keys() >= {one.name for one in built_in}
    assert all(
        0 < start["seconds_since_process_start"] < 300 and 50 < start["memory_mib"] < 8000
        for start in starts.values()
    )
