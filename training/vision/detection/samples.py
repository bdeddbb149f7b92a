"""The requests that an export of a detector brings along, each with the objects that must come back."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from handlers.inputs.images import ImageInput, open_image, prepare
from training.data import Example, ImageData
from training.export.trained import Sample
from training.vision.detection.architectures import Detector
from training.vision.detection.evaluation import Found, best_threshold, detect, match_detections

SAMPLES = 64
TIE = 1e-4  # of scores
CROWD = 12  # most detections in a made picture that serve as a sample
LEAST_SIDE = 4  # of their boxes, in pixels: of slivers the overlap hangs on a hair


def make_samples(found: Sequence[Found], data: ImageData, threshold: float) -> list[Sample]:
    """Test pictures that are answered wholly rightly, and not by a hair; those with the classes seldom shown
    so far come first.

    Crowded pictures may never be wholly right. Where none is, those that come nearest stand with what was
    found in them, under the name "…-as-found": they prove that a server answers as the model does, not that
    it is right.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", data.name.lower()).strip("-")[:40] or "picture"
    sure = [
        k
        for k, (one, example) in enumerate(zip(found, data.test, strict=True))
        if _sure(one, example, threshold)
    ]
    if not sure:
        nearest = sorted(range(len(found)), key=lambda k: -_f1(found[k].above(threshold), data.test[k]))
        steady = [
            k
            for k in nearest
            if not ((found[k].scores - threshold).abs() < 0.002).any()
            and _f1(found[k].above(threshold), data.test[k])
        ]
        own = {k: found[k].above(threshold) for k in steady[:SAMPLES]}
        return [
            _sample(f"{stem}-{k}-as-found", data, k, one.boxes.numpy(), one.labels.numpy())
            for k, one in own.items()
        ]
    shown = np.zeros(len(data.classes))
    chosen: list[Sample] = []
    while sure and len(chosen) < SAMPLES:
        k = min(sure, key=lambda row: float(shown[data.test[row].labels].mean()))
        sure.remove(k)
        np.add.at(shown, data.test[k].labels, 1)
        chosen.append(_sample(f"{stem}-{k}", data, k, data.test[k].boxes, data.test[k].labels))
    return chosen


def _sample(name: str, data: ImageData, row: int, boxes: np.ndarray, labels: np.ndarray) -> Sample:
    expect = [
        {"class": data.classes[label], "bbox": [round(value, 2) for value in box]}
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
    ]
    return Sample(name, *data.test[row].encoded(), {"detections": expect})


def request_masks(sample: Sample) -> Sample:
    """The same request, so that its golden answer has the masks too."""
    is_json = sample.content_type == "application/json"
    content = json.loads(sample.body) if is_json else {"image": base64.b64encode(sample.body).decode()}
    return replace(
        sample,
        body=json.dumps({**content, "masks": "compressed_rle"}).encode(),
        content_type="application/json",
    )


def _f1(found: Found, example: Example) -> float:
    right, taken = match_detections(found, example)
    return 2 * float(right.sum()) / max(1, len(right) + len(taken))


def _sure(found: Found, example: Example, threshold: float) -> bool:
    """All objects found and nothing else, at a threshold a little lower and a little higher too."""
    for least in (threshold - 0.03, threshold + 0.03):
        right, taken = match_detections(found.above(least), example, overlap=0.55)
        if not (len(taken) and taken.all() and right.all()):
            return False
    return True


def make_steady_samples(found: Sequence[Found], data: ImageData, threshold: float) -> list[Sample]:
    """Pictures answered rightly, or nearly; at a threshold of their own where the served one lets pass
    what is no sure find.
    """
    at = threshold if threshold >= 0.05 else best_threshold(found, data.test)
    rows = range(len(found))
    steady = [row for row in rows if _is_steady(found[row].above(at - 0.03))] or rows
    chosen = make_samples(
        [found[row] for row in steady], replace(data, test=[data.test[row] for row in steady]), at
    )
    return [sample if at == threshold else _with_threshold(sample, at) for sample in chosen]


def _is_steady(found: Found) -> bool:
    """Whether no two scores are so near that they might change places between one kernel and another."""
    return bool((found.scores[:-1] - found.scores[1:] > TIE).all())


def _with_threshold(sample: Sample, threshold: float) -> Sample:
    body = json.dumps(
        {"image": base64.b64encode(sample.body).decode(), "confidence_threshold": threshold}
    ).encode()
    return replace(sample, body=body, content_type="application/json")


def make_samples_as_found(
    graph: Detector,
    pictures: Sequence[bytes],
    inputs: ImageInput,
    postprocess: dict[str, Any],
    names: Sequence[str],
) -> list[Sample]:
    """PNG `pictures` with what the model sees in them: they prove that a server answers as it does, no more.

    Each has a threshold of its own, in the widest gap between the best scores, and above any box that is next
    to nothing.
    """
    samples = []
    for number, file in enumerate(pictures):
        image = open_image(file)
        (found,) = detect(
            graph,
            torch.from_numpy(prepare(image, inputs)[None]),
            [image.size],
            inputs,
            {**postprocess, "score_threshold": 0.0},
        )
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).amin(1)
        sound = int((sides >= LEAST_SIDE).long().cumprod(0).sum())  # so many before the first that isn't
        edges = torch.cat([torch.ones(1), found.scores, torch.zeros(1)])[: min(CROWD, sound) + 2]
        gaps = (edges[:-1] - edges[1:]).tolist()  # behind so many detections
        steady = [k for k in range(1, len(gaps)) if gaps[k] > 10 * TIE and min(gaps[1:k], default=1) > TIE]
        many = max(steady, key=gaps.__getitem__, default=0)
        threshold = float(edges[many : many + 2].mean())
        shown = found.above(threshold)
        expect = [
            {"class": names[label], "bbox": box}
            for box, label in zip(shown.boxes.tolist(), shown.labels.tolist(), strict=True)
        ]
        samples.append(
            _with_threshold(
                Sample(f"made-{number}-as-found", file, "image/png", {"detections": expect}), threshold
            )
        )
    return sorted(samples, key=lambda sample: not sample.expect["detections"])
