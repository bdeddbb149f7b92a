"""Selecting detections: the best candidates are examined first, and the result is that of examining all."""

from typing import Any

import numpy as np
import pytest

from handlers.inputs.images import ImageInput, boxes_to_input
from handlers.kinds import detections
from handlers.kinds.detections import overlaps, select
from training.data import Example
from training.vision.detection.evaluation import precision_of_answers

SIDE = 300


def candidates(anchors: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [A, 4] and scores [A, classes] of which few are high, some equal."""
    random = np.random.default_rng(seed)
    corners, sides = random.uniform(0, SIDE - 80, (anchors, 2)), random.uniform(4, 80, (anchors, 2))
    scores = (random.random((anchors, classes)) ** 6).round(3)
    return np.concatenate([corners, corners + sides], 1).astype(np.float32), scores.astype(np.float32)


def plain(boxes: np.ndarray, scores: np.ndarray, settings: dict[str, Any]) -> list[tuple[float, int, int]]:
    """(score, anchor, label) of what stays, by the definition: one after the other, all of them."""
    found = [(anchor, label) for anchor, label in np.argwhere(scores > settings["score_threshold"]).tolist()]
    found.sort(key=lambda pair: -scores[pair])
    if settings["candidates_per"] == "image":
        found = found[: settings["candidates"]]
    counts, stays = [0] * scores.shape[1], list[tuple[int, int]]()
    for anchor, label in found:
        counts[label] += 1
        if settings["candidates_per"] == "class" and counts[label] > settings["candidates"]:
            continue
        rivals = [other for other, known in stays if known == label]
        if not rivals or not (overlaps(boxes[[anchor]], boxes[rivals]) > settings["nms_threshold"]).any():
            stays.append((anchor, label))
    return [(float(scores[pair]), *pair) for pair in stays[: settings["detections_per_image"]]]


@pytest.mark.parametrize("per", ["image", "class"])
@pytest.mark.parametrize(("threshold", "most"), [(0.0, 5), (0.001, 40), (0.3, 40), (0.9, 400), (0.999, 10)])
def test_the_best_candidates_are_as_good_as_all_of_them(per: str, threshold: float, most: int) -> None:
    boxes, scores = candidates(400, 7)
    settings = {
        "score_threshold": threshold,
        "candidates": 60,
        "nms_threshold": 0.45,
        "detections_per_image": most,
        "candidates_per": per,
    }

    found, kept, labels = select(boxes, scores, **settings)

    wanted = plain(boxes, scores, settings)
    assert [round(float(score), 6) for score in kept] == [round(score, 6) for score, _, _ in wanted]
    assert labels.tolist() == [label for _, _, label in wanted]
    np.testing.assert_array_equal(found, boxes[[anchor for _, anchor, _ in wanted]].reshape(-1, 4))


def test_candidates_that_lie_on_each_other_make_it_look_at_more(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = candidates(400, 3)
    boxes[:300] = boxes[0]
    scores[:300] += 1
    looked_at = []
    sampled = detections._exceeded_by
    monkeypatch.setattr(
        detections, "_exceeded_by", lambda flat, many: looked_at.append(many) or sampled(flat, many)
    )

    _, kept, _ = select(boxes, scores / 2, 0.001, 1000, 0.5, 20)

    assert len(kept) == 20
    assert len(looked_at) == 2
    assert (kept[:3] >= 0.5).all()
    assert (kept[3:] < 0.5).all()


def test_nothing_is_found_where_there_is_nothing() -> None:
    boxes, scores = candidates(50, 4)

    found, kept, labels = select(boxes, scores * 0, 0.001, 1000, 0.5, 20)

    assert found.shape == (0, 4)
    assert found.dtype == kept.dtype == np.float32
    assert labels.dtype == np.int64
    assert not len(kept)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_precision_is_measured_in_each_pictures_own_pixels(fit: Any) -> None:
    """Answers in the input's pixels are measured against the ground truth of their pictures."""
    inputs, classes = ImageInput(64, 64, fit=fit), ["cup", "mug"]
    boxes = np.array([[10, 10, 60, 40], [80, 5, 150, 70]], np.float32)
    examples = [
        Example(np.zeros((80, 160, 3), np.uint8), boxes=boxes, labels=np.array([0, 1])) for _ in range(3)
    ]
    edges = boxes_to_input(boxes, (160, 80), inputs).tolist()
    right = {
        "detections": [
            {"bbox": box, "score": 0.9, "class": name} for box, name in zip(edges, classes, strict=True)
        ]
    }

    assert precision_of_answers([right, right], examples, inputs, classes) == pytest.approx(1)
    assert precision_of_answers([right, {"detections": []}], examples, inputs, classes) == pytest.approx(
        0.5, abs=0.02
    )
