"""The detector's data and metrics: augmentation, selection of boxes, average precision, samples."""

import numpy as np
import pytest
import torch
import torchvision

from handlers.inputs.images import ImageInput
from handlers.kinds import detections
from handlers.kinds.detections import select
from training.data import Example, ImageData, scenes
from training.vision.detection.evaluation import (
    Found,
    average_precision,
    best_threshold,
    match_detections,
    precision_recall,
)
from training.vision.detection.pixels import Batches, Prepared, augment
from training.vision.detection.samples import make_samples

INPUTS = ImageInput(scenes.HEIGHT, scenes.WIDTH)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return scenes.load(train=16, validation=6, test=6)


@pytest.fixture(scope="module")
def pictures(data) -> Prepared:
    return Prepared.of(data.train, INPUTS, "pictures")


def test_selection_keeps_the_best_of_overlapping_boxes_of_one_class_only():
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]])
    scores = np.array([[0.9, 0.0], [0.8, 0.7], [0.0, 0.4]])
    found, kept, labels = select(
        boxes, scores, 0.3, candidates=100, nms_threshold=0.5, detections_per_image=10
    )

    assert kept.tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert labels.tolist() == [0, 1, 1]
    assert found.tolist() == boxes[[0, 1, 2]].tolist()


@pytest.mark.parametrize("per", ["image", "class"])
def test_selection_respects_its_limits_and_may_find_nothing(per):
    """Selection takes no more candidates and detections than it may, and may find nothing."""
    boxes = np.arange(50)[:, None] * 20 + np.array([0.0, 0, 10, 10])
    scores = np.random.default_rng(0).random((50, 3)) * 0.8 + 0.1

    assert len(select(boxes, scores, 0.0, 7, 0.5, 100, per)[0]) == {"image": 7, "class": 21}[per]
    assert (
        select(boxes, scores, 0.0, 100, 0.5, 4, per)[1].tolist() == sorted(scores.ravel(), reverse=True)[:4]
    )
    assert [len(part) for part in select(boxes, scores, 0.95, 7, 0.5, 100, per)] == [0, 0, 0]


def test_boxes_follow_their_pixels_through_augmentation():
    """A white block on grey, as the padding is, lies where its moved box says, mirrored or not."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.full((40, 3, 96, 128), 114.0)
    pixels[:, :, 20:50, 60:80] = 255
    targets = [{"boxes": torch.tensor([[60.0, 20, 80, 50]]), "labels": torch.tensor([4])} for _ in pixels]
    moved, boxes = augment(pixels, targets, light=True, flips=("horizontal",), generator=generator)

    centres = []
    for image, target in zip(moved, boxes, strict=True):
        bright = image.mean(0) > (image.mean(0).amax() + image.mean(0).median()) / 2
        rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
        seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        torch.testing.assert_close(target["boxes"][0], seen, rtol=0, atol=1.6)
        centres.append(float(seen[[0, 2]].mean()))
    assert min(centres) < 55
    assert max(centres) > 72


def test_objects_that_leave_the_picture_are_no_objects_any_more(pictures):
    pixels, targets = pictures.pixels.float(), pictures.targets
    generator = torch.Generator().manual_seed(1)
    moved = [
        target
        for _ in range(5)
        for target in augment(pixels, targets, light=True, flips=(), generator=generator)[1]
    ]
    boxes = torch.cat([target["boxes"] for target in moved])

    assert len(boxes) < 5 * sum(len(target["labels"]) for target in targets)
    assert all(len(target["boxes"]) == len(target["labels"]) for target in moved)
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= torch.tensor([scenes.WIDTH, scenes.HEIGHT])).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 2).all()


def test_an_object_of_which_less_than_half_stays_is_left_out():
    """Of an object at the edge, 20 x 30 pixels, no slice is left that is much narrower than half of it."""
    targets = [{"boxes": torch.tensor([[0.0, 30, 20, 60]]), "labels": torch.tensor([1])} for _ in range(200)]
    generator = torch.Generator().manual_seed(0)
    moved = augment(torch.zeros(200, 3, 96, 128), targets, light=True, flips=(), generator=generator)[1]
    boxes = torch.cat([target["boxes"] for target in moved])
    slimness = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])

    assert 100 < len(boxes) < 190
    assert slimness.min() > 20 / 30 / 2 * np.exp(-0.24)


def test_batches_show_every_picture_once_in_an_order_that_the_seed_decides(pictures):
    sums = [
        [float(image.sum()) for pixels, _ in Batches(pictures, 4, False, False, seed) for image in pixels]
        for seed in (0, 0, 1)
    ]

    assert sorted(sums[0]) == sorted(pictures.pixels.float().sum((1, 2, 3)).tolist())
    assert sums[0] == sums[1] != sums[2]


def test_detection_counts_once_per_object_by_class_and_overlap():
    """A detection is correct once per object, with its class and enough overlap."""
    example = Example(
        np.zeros((50, 50, 3), np.uint8),
        boxes=np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32),
        labels=np.array([1, 2]),
    )
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [20, 24, 30, 34]])
    right, taken = match_detections(
        Found(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 3, 2])), example
    )

    assert right.tolist() == [True, False, False, False]
    assert taken.tolist() == [True, False]


def parts(found: Found) -> tuple[torch.Tensor, ...]:
    return found.boxes, found.scores, found.labels


def exact(example: Example, score: float = 0.9) -> Found:
    return Found(
        torch.from_numpy(example.boxes),
        torch.full((len(example.labels),), score),
        torch.from_numpy(example.labels),
    )


def test_average_precision_is_one_for_the_truth_and_nought_for_nothing(data):
    nothing = Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    perfect = precision_recall([exact(example) for example in data.test], data.test)[0]
    assert {"map", "ap50"} < perfect.keys() <= {"map", "ap50", "map_small", "map_medium", "map_large"}
    assert set(perfect.values()) == {1.0}
    assert set(precision_recall([nothing] * len(data.test), data.test)[0].values()) == {0.0}


def test_average_precision_by_class(data):
    """Average precision is 1 for the classes that are found and 0 for the others."""
    labels = sorted({int(label) for example in data.test for label in example.labels})
    found = []
    for example in data.test:
        truth = exact(example)
        keep = truth.labels != labels[0]
        found.append(Found(truth.boxes[keep], truth.scores[keep], truth.labels[keep]))
    measured = average_precision(found, data.test)
    each = measured.by_class

    assert list(each) == labels
    assert measured.curves.shape == (101, labels[-1] + 1)
    assert [label for label in range(labels[-1] + 1) if measured.curves[0, label] >= 0] == labels
    assert [value["ap50"] for value in each.values()] == pytest.approx([0.0] + [1.0] * (len(labels) - 1))
    assert sum(value["objects"] for value in each.values()) == sum(
        len(example.labels) for example in data.test
    )


def test_the_best_threshold_lies_between_right_and_wrong_scores(data):
    found = []
    for example in data.test:
        truth = exact(example, 0.7)
        wrong = Found(truth.boxes + 60, truth.scores - 0.4, truth.labels)
        found.append(Found(*(torch.cat(pair) for pair in zip(parts(truth), parts(wrong), strict=True))))

    assert 0.4 < best_threshold(found, data.test) < 0.6


def test_samples_are_wholly_right_test_pictures_spread_over_the_classes(data):
    found = [exact(example) for example in data.test]
    found[0].labels = (found[0].labels + 1) % 10
    found[1].scores[0] = 0.51  # too near to the threshold
    found[2] = Found(
        *(
            torch.cat([value, value[:1] + extra])
            for value, extra in zip(parts(found[2]), (60, 0, 0), strict=True)
        )
    )
    chosen = make_samples(found, data, threshold=0.5)

    assert {sample.name for sample in chosen} == {"scenes-3", "scenes-4", "scenes-5"}
    for sample in chosen:
        example = data.test[int(sample.name.rsplit("-", 1)[1])]
        assert sample.content_type == "image/png"
        assert [item["class"] for item in sample.expect["detections"]] == [
            str(label) for label in example.labels
        ]
        assert [item["bbox"] for item in sample.expect["detections"]] == example.boxes.tolist()


def test_samples_fall_back_to_the_best_pictures(data):
    """Where no picture is entirely correct, the closest ones become samples, with what was found."""
    found = []
    for example in data.test:
        truth = exact(example)
        found.append(
            Found(
                *(
                    torch.cat([value, value[:1] + extra])
                    for value, extra in zip(parts(truth), (70, 0, 0), strict=True)
                )
            )
        )
    found[0].scores[0] = 0.501  # a picture whose answer hangs on the threshold proves nothing
    chosen = make_samples(found, data, threshold=0.5)

    assert {sample.name for sample in chosen} == {f"scenes-{k}-as-found" for k in range(1, 6)}
    objects = [len(sample.expect["detections"]) for sample in chosen]
    assert objects == sorted(objects, reverse=True)
    assert objects[0] == max(len(example.labels) for example in data.test[1:]) + 1


def test_boxes_are_suppressed_as_torchvision_does() -> None:
    random = np.random.default_rng(1)
    for number in range(200):
        count = int(random.integers(1, 600))
        corners = random.uniform(0, 100, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(0, 60, (count, 2))], 1).astype(np.float32)
        # so that some overlap by exactly the threshold, and some have no area
        boxes = boxes.round() if number % 2 else boxes
        scores = np.sort(random.random(count).astype(np.float32))[::-1].copy()
        labels, threshold = random.integers(0, 3, count), float(random.choice([0.3, 0.5, 0.7]))

        stays = detections._non_maximum_suppression(boxes, labels, threshold, count)

        apart = torch.from_numpy(boxes + labels.astype(np.float32)[:, None] * (boxes.max() + 1))
        assert stays.tolist() == torchvision.ops.nms(apart, torch.from_numpy(scores), threshold).tolist()
