"""The kind `audio_classifier`: sounds as files, samples and tensors; windows; what an answer rests on."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openapi_spec_validator
import pytest
from PIL import Image

from handlers.kinds.audio_classifier import AudioClassifierPredictor
from handlers.protocol.errors import BrokenArchive, RequestError
from handlers.protocol.replies import Picture
from handlers.runtime.golden import difference
from marina.core.errors import CallError
from marina.engines.gateway.open_inference import model_metadata
from marina.kinds.audio_classifier import KIND
from marina.packaging.openapi import of_description
from tests.support.bad_sounds import bad_sounds
from tests.support.sound_models import CLASSES, INPUT, file_of, serve, tone

LOW, HIGH = file_of(tone("low")), file_of(tone("high"))
LONG = np.concatenate([tone("low", 1.0), tone("high", 0.5), tone("low", 0.7)])
ROUNDED = 2e-4  # of probabilities, by the 16 bits of a file


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> AudioClassifierPredictor:
    return serve(tmp_path_factory.mktemp("sounds"))


def answer(predictor: AudioClassifierPredictor, body: Any, **headers: str) -> Any:
    """What a body gets: bytes as they are, all else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    (found,) = predictor.answer_rows([({"body": content}, headers)])
    return found


def coded(body: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(body).decode()


def test_every_form_of_a_sound_gets_the_same_answer(predictor: AudioClassifierPredictor) -> None:
    """A raw body, base64 in JSON and as text, samples, in both protocols of KServe."""
    alone = answer(predictor, LOW)
    assert alone["predictions"][0]["class"] == "low"
    assert alone["seconds"] == 0.4
    assert alone["clipped"] == 0
    jsonschema.validate(alone, predictor.answer_schema())
    samples = tone("low")
    for body in (
        {"audio": coded(LOW)},
        {"data": coded(LOW)},
        {"audio": {"b64": coded(LOW)}},
        coded(LOW).encode(),
        file_of(samples, form="FLAC"),
        file_of(np.stack([samples, samples], 1), subtype="PCM_24"),
        file_of(samples, subtype="FLOAT"),
        {"audio": samples.tolist()},
        {"audio": tone("low", rate=16_000).tolist(), "sample_rate": 16_000},
    ):
        found = answer(predictor, body)
        assert found["predictions"][0] == pytest.approx(alone["predictions"][0], abs=0.1), str(body)[:60]
    v1 = answer(predictor, {"instances": [{"audio": coded(LOW)}, {"b64": coded(HIGH)}]})
    assert not difference(v1["predictions"][0], alone)
    for tensor in (
        {"name": "audio", "shape": [2], "datatype": "BYTES", "data": [coded(LOW), coded(HIGH)]},
        {
            "name": "audio",
            "shape": [2, 3200],
            "datatype": "FP32",
            "data": [*samples.tolist(), *tone("high").tolist()],
        },
    ):
        found = answer(predictor, {"inputs": [tensor]})
        outputs = {one["name"]: one["data"] for one in found["outputs"]}
        assert outputs["class"] == ["low", "high", "high", "low"]
        assert outputs["predictions"] == [2, 2]
        assert outputs["seconds"] == [0.4, 0.4]
    for body in ({"audio": coded(LOW), "windows": True}, {"audio": samples[:300].tolist()}):
        jsonschema.validate(body, predictor.request_schema())


def test_lengths_of_a_batch_change_no_answer(predictor: AudioClassifierPredictor) -> None:
    """Sounds of any length, and a long one, beside each other."""
    bodies = [file_of(tone("low", seconds)) for seconds in (0.05, 0.3, 0.5, 0.07, 2.2)] + [file_of(LONG)]
    together = predictor.answer_rows([({"body": body}, {}) for body in bodies])
    for body, found in zip(bodies, together, strict=True):
        assert not difference(answer(predictor, body), found)


def test_a_long_sound_is_answered_window_by_window(predictor: AudioClassifierPredictor) -> None:
    """With times; the whole is the mean of their logits."""
    found = answer(predictor, file_of(LONG), windows="true")
    jsonschema.validate(found, predictor.answer_schema())
    windows = found["windows"]
    assert [one["start"] for one in windows] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.7]
    assert [one["end"] for one in windows] == [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.2]
    assert [one["answer"] for one in windows][:3] == ["low"] * 3
    assert windows[4]["answer"] == "high"
    assert windows[7]["answer"] == "low"
    assert "windows" not in answer(predictor, file_of(LONG))
    parts = [answer(predictor, file_of(LONG[2000 * k :][:4000])) for k in range(7)]
    for part, window in zip(parts, windows, strict=False):
        assert part["predictions"][0]["probability"] == pytest.approx(window["confidence"], abs=ROUNDED)
    kept = predictor.answer_rows([({"body": {"audio": LONG.tolist(), "windows": True}}, {})])[0]
    assert [one["answer"] for one in kept["windows"]] == [one["answer"] for one in windows]


@pytest.mark.parametrize("name", bad_sounds())
def test_a_bad_sound_harms_no_neighbor(predictor: AudioClassifierPredictor, name: str) -> None:
    """It is refused in words, alone."""
    body, status, words = bad_sounds()[name]
    alone = answer(predictor, HIGH)
    first, refused, last = predictor.answer_rows([({"body": one}, {}) for one in (HIGH, body, HIGH)])

    assert not difference(alone, first)
    assert not difference(alone, last)
    assert refused.status == status
    with pytest.raises(RequestError, match=words):
        raise refused


def test_an_explanation_shows_where_the_sound_is(predictor: AudioClassifierPredictor) -> None:
    """A high tone in the second half of a low hum: there is the evidence for high, in its band."""
    sound = 0.3 * tone("low", 0.5)
    sound[2_400:] += tone("high", 0.2)
    found = answer(predictor, file_of(sound), explain="true", class_index="0")
    jsonschema.validate(found, predictor.explanation_schema())
    heat = np.array(found["heat_map"])
    assert heat.shape[0] == 8
    assert len(found["frequencies"]) == 9
    assert (found["class"], found["start"], found["end"]) == ("high", 0, 0.5)
    band, part = np.unravel_index(heat.argmax(), heat.shape)
    assert found["frequencies"][band] <= 1_900 * 1.25
    assert found["frequencies"][band + 1] >= 1_800 * 0.8
    assert part >= heat.shape[1] * 0.55
    picture = answer(predictor, file_of(sound), explain="true", class_index="0", format="png")
    assert isinstance(picture, Picture)
    assert Image.open(io.BytesIO(picture.content)).size == (720, 260)


def test_an_explanation_takes_the_window_that_decides(predictor: AudioClassifierPredictor) -> None:
    """Of a long sound."""
    found = answer(predictor, file_of(LONG), explain="true", class_index="0")
    assert (found["start"], found["end"]) == (1.0, 1.5)


def test_its_description_is_valid_and_complete(predictor: AudioClassifierPredictor) -> None:
    """OpenAPI, limits, metadata of the Open Inference Protocol."""
    predictor.export.__dict__["samples"] = [{"answer": answer(predictor, LOW)}]
    predictor.computing = {"runtime": "torch"}
    described = predictor.describe()
    assert described["limits"]["max_seconds"] == INPUT.max_seconds
    openapi_spec_validator.validate(of_description({**described, "about": "A toy."}))
    metadata = model_metadata(predictor, ["1.0"])
    assert metadata["inputs"][0]["name"] == "audio"
    assert predictor.labels == CLASSES


def test_a_worker_without_the_packages_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(BrokenArchive, match=r"pip install 'marina\[audio\]'"):
        serve(tmp_path)


def test_the_tool_draws_a_sound_with_its_answer(predictor: AudioClassifierPredictor) -> None:
    """The spectrogram, and a bar for each class."""
    found = answer(predictor, LOW)
    for body in (LOW, json.dumps({"audio": coded(LOW)}).encode()):
        assert KIND.draw(body, found).size[0] == 720
    assert KIND.summarize(found).startswith("low (0.")
    assert KIND.same_decision(found, answer(predictor, {"audio": tone("low").tolist()}))
    with pytest.raises(CallError, match="only the file of a sound can be drawn"):
        KIND.draw(b"hello", found)
