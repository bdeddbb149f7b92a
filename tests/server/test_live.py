"""The built-in models on a live TorchServe: correct answers, isolated refusals, the tools."""

import base64
import dataclasses
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image, ImageDraw, ImageFont

from marina.client import Client
from marina.core import kinds, paths, spec
from marina.core.errors import RequestError
from marina.core.spec import Spec
from marina.evaluation import measurement as evaluate
from marina.kinds.kind import MeasurementOptions
from marina.load import load_test as loadtest
from marina.pipeline import readiness as ready
from tests.support.engines import ONE_ENGINE
from tests.support.measuring import measure

NAMES = spec.names()


def port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[1])


def header(client: Client, api: str = "inference") -> dict[str, str]:
    return {"Authorization": f"Bearer {client.token(api)}"}


def seven(side: int = 300, form: str = "PNG") -> bytes:
    """A seven that was drawn with a thick pen, dark on light."""
    image = Image.new("RGB", (side, side), (250, 248, 240))
    points = [(0.28, 0.24), (0.7, 0.24), (0.62, 0.42), (0.5, 0.6), (0.43, 0.78)]
    ImageDraw.Draw(image).line(
        [(x * side, y * side) for x, y in points], fill=(20, 20, 60), width=side // 14, joint="curve"
    )
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_golden_sample_comes_back_right(client: Client, name: str) -> None:
    answered = ready.send_samples(client, spec.load(name))

    assert len(answered) >= 3
    assert [one.problem for one in answered] == [""] * len(answered)


def test_all_models_are_ready_and_the_server_runs_them_as_their_specs_say(
    client: Client, built_in: list[Spec]
) -> None:
    assert [reason for one in built_in for reason in ready.problems(client, one)] == []
    for one in built_in:
        (described,) = client.describe(one.name, one.version)
        wanted = one.serving.model_config_yaml()
        assert {key: described[key] for key in wanted if key in described} == {
            key: wanted[key] for key in wanted if key in described
        }
        assert {
            "batchSize",
            "maxBatchDelay",
            "responseTimeout",
            "startupTimeout",
            "minWorkers",
            "maxWorkers",
        } <= described.keys()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("side", [60, 300, 1200])
def test_a_drawn_seven_is_a_seven_at_any_size_and_in_any_format(client: Client, side: int, form: str) -> None:
    answer = client.predict("digits", seven(side, form))

    assert answer["predictions"][0]["class"] == "7"


def test_probabilities_are_ordered_and_top_k_cuts_them(client: Client) -> None:
    found = client.predict("digits", seven(), headers={"top_k": "3"})["predictions"]

    assert len(found) == 3
    assert found == sorted(found, key=lambda one: -one["probability"])
    assert sum(
        one["probability"]
        for one in client.predict("digits", seven(), headers={"top_k": "10"})["predictions"]
    ) == pytest.approx(1)


def test_raw_multipart_and_base64_bodies_get_the_same_answer(client: Client) -> None:
    url, image = f"{client.inference}/predictions/digits", seven()
    raw = requests.post(url, data=image, headers=header(client), timeout=30)
    form = requests.post(url, files={"data": ("seven.png", image)}, headers=header(client), timeout=30)
    text = requests.post(
        url, json={"image": base64.b64encode(image).decode()}, headers=header(client), timeout=30
    )

    assert raw.headers["content-type"] == "application/json"
    assert raw.json() == form.json() == text.json()


@pytest.mark.slow
def test_boxes_lie_inside_the_image_that_was_sent_and_scale_with_it(client: Client) -> None:
    one = spec.load("scenes")
    sample = next(iter(ready.golden_samples(one)))
    image = Image.open(io.BytesIO(sample["body"]))
    buffer = io.BytesIO()
    image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC).save(buffer, "PNG")

    small = client.predict("scenes", sample["body"])["detections"]
    large = client.predict("scenes", buffer.getvalue())["detections"]

    assert small
    assert sorted(found["class"] for found in small) == sorted(found["class"] for found in large)
    for found in large:
        x1, y1, x2, y2 = found["bbox"]
        assert 0 <= x1 < x2 <= image.width * 3
        assert 0 <= y1 < y2 <= image.height * 3
        boxes = [np.array(one["bbox"]) for one in small if one["class"] == found["class"]]
        # three pixels of the small picture
        assert min(np.abs(3 * box - found["bbox"]).max() for box in boxes) < 9


@pytest.mark.slow
def test_the_confidence_threshold_of_a_request_counts_for_it_alone(client: Client) -> None:
    sample = next(iter(ready.golden_samples(spec.load("scenes"))))["body"]
    thresholds = ["0.02", "0.999", "0.02", "0.999"] * 4

    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(
                lambda t: client.predict("scenes", sample, headers={"confidence_threshold": t})["detections"],
                thresholds,
            )
        )

    few, many = {len(one) for one in found[1::2]}, {len(one) for one in found[::2]}
    assert len(few) == len(many) == 1
    assert max(few) < min(many)
    assert all(one["score"] > 0.999 for answer in found[1::2] for one in answer)


GARBAGE = {
    "no image": b"hello",
    "cut off": seven()[:200],
    "huge": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    + (50_000).to_bytes(4, "big") * 2
    + b"\x08\x02\0\0\0"
    + bytes(400),
    "broken JSON": b"{",
    "deep JSON": b"[" * 100_000,
}


@pytest.mark.parametrize("name", ["digits", "scenes"])
def test_bad_requests_fail_alone_and_the_worker_survives(client: Client, name: str) -> None:
    """Bad requests among good ones fail alone, and the worker survives."""

    def worker() -> int:
        return int(client.describe(name)[0]["workers"][0]["pid"])

    sample = ready.golden_samples(spec.load(name))[0]
    bodies = [body for bad in GARBAGE.values() for body in (sample["body"], bad)] * 4
    before = worker()

    def send(body: bytes) -> tuple[int, dict]:
        answer = requests.post(
            f"{client.inference}/predictions/{name}", data=body, headers=header(client), timeout=30
        )
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, bodies))

    good, bad = answers[::2], answers[1::2]
    assert {status for status, _ in good} == {200}
    reduced = bool(sample.get("reduced"))
    assert all(ready.difference(sample["answer"], answer, reduced=reduced) == "" for _, answer in good)
    assert {status for status, _ in bad} <= {400, 413}
    assert all(answer.keys() == {"code", "type", "message", "request_id"} for _, answer in bad)
    assert worker() == before


def test_a_get_without_a_body_is_refused_and_told_what_to_send(client: Client) -> None:
    answer = requests.get(f"{client.inference}/predictions/cartpole", headers=header(client), timeout=30)

    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequest")


def test_a_refusal_reaches_the_client_with_the_servers_own_words(client: Client) -> None:
    with pytest.raises(RequestError, match="observation must be a nested list of shape") as caught:
        client.predict("cartpole", {"observation": [1, 2]})

    assert caught.value.status == 400


def test_many_observations_in_one_request_act_as_they_do_one_by_one(client: Client) -> None:
    observations = np.random.default_rng(0).normal(0, 0.1, (100, 4)).tolist()

    together = client.predict("cartpole", {"instances": observations})["predictions"]

    alone = [client.predict("cartpole", {"observation": row}) for row in observations[:10]]
    assert len(together) == 100
    assert [one["action"] for one in together[:10]] == [one["action"] for one in alone]
    assert {one["action"] for one in together} == {0, 1}


@ONE_ENGINE
@pytest.mark.parametrize("name", NAMES)
def test_measured_through_the_endpoint_a_model_is_as_good_as_in_process(client: Client, name: str) -> None:
    one = spec.load(name)
    episodes = 10

    images = None
    if one.kind == "detector":
        images = kinds.get("detector").measurement(one, MeasurementOptions()).images
        images = dataclasses.replace(images, test=images.test[:100])

    served = measure(one, evaluate.through_endpoint(client, one), images, episodes=episodes)
    local = measure(one, evaluate.in_process(one), images, episodes=episodes)

    assert served.keys() == local.keys()
    for metric, value in local.items():
        assert served[metric] == pytest.approx(value, abs=2e-3 if one.kind == "detector" else 1e-9), metric
    floors = {
        metric: least for metric, least in one.floor.items() if metric in served and one.kind != "policy"
    }
    assert all(served[metric] >= least for metric, least in floors.items())


@ONE_ENGINE
def test_a_load_test_counts_every_answer_and_writes_its_page(client: Client, tmp_path: Path) -> None:
    figures = loadtest.run(
        spec.load("digits"), port_of(client), users=4, seconds=4, report=tmp_path / "report.html"
    )

    assert figures.requests > 20
    assert (figures.failures, figures.errors) == (0, [])
    assert 0 < figures.p50_ms <= figures.p95_ms <= figures.p99_ms
    assert "digits" in (tmp_path / "report.html").read_text()


@ONE_ENGINE
def test_a_load_test_that_gets_wrong_answers_fails(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of another home expect other answers, so that each one that comes back counts as wrong."""
    import zipfile

    one = spec.load("digits")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "digits.yaml").write_text((paths.models() / "digits.yaml").read_text())
    (tmp_path / "model_store").mkdir()
    (tmp_path / "run").symlink_to(paths.find_home() / "run")
    with zipfile.ZipFile(paths.model_store() / one.archive_name) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    changed = {
        name: content.replace(b'"class_index": ', b'"class_index": 1') for name, content in contents.items()
    }
    for name, content in contents.items():
        digests = [hashlib.sha256(each).hexdigest().encode() for each in (content, changed[name])]
        changed["SHA256SUMS"] = changed["SHA256SUMS"].replace(*digests)
    with zipfile.ZipFile(tmp_path / "model_store" / one.archive_name, "w") as new:
        for name, content in changed.items():
            new.writestr(name, content)
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))

    figures = loadtest.run(
        one.moved(tmp_path), port_of(client), users=2, seconds=2, report=tmp_path / "report.html"
    )

    assert figures.failures == figures.requests > 0
    assert any("failed" in breach for breach in figures.breaches(one))


@ONE_ENGINE
def test_printed_digits_are_mostly_read_too(client: Client) -> None:
    right = 0
    for digit in "0123456789":
        image = Image.new("L", (200, 260), 255)
        ImageDraw.Draw(image).text((50, 10), digit, fill=0, font=ImageFont.load_default(size=200))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=60)
        right += client.predict("digits", buffer.getvalue())["predictions"][0]["class"] == digit

    assert right >= 8
