"""Augmentation by name: torchvision's transforms from a spec, for pictures, boxes and masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from marina.core.spec import validate
from training.data import Example
from training.data.outlined_folder import IGNORED
from training.recipes import classifier, detector, segmenter
from training.vision.classification.augmentation import augmentation
from training.vision.detection.pixels import Batches, Prepared
from training.vision.transforms import build, of_batch, with_boxes, with_labels

PHOTO = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 64, 96), np.uint8))
EVERY: list[Any] = [
    {"RandomAffine": {"degrees": 15, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 5}},
    {"RandomPerspective": {"distortion_scale": 0.2, "p": 1.0}},
    {"ElasticTransform": {"alpha": 20.0}},
    {"RandomApply": {"transforms": [{"GaussianBlur": {"kernel_size": 5}}], "p": 0.5}},
    {"ColorJitter": {"brightness": 0.2, "hue": 0.1}},
    {"RandomRotation": {"degrees": 20}},
    "RandomResizedCrop",
    "RandomHorizontalFlip",
]


def settings(recipe: Any, transforms: Any, **more: Any) -> Any:
    return validate(recipe.Settings, {"data": "scenes", "augmentation": transforms, **more}, "training")


def target(*boxes: list[float]) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.arange(len(boxes))}


@pytest.mark.parametrize("recipe", [classifier, detector, segmenter])
def test_every_recipe_of_pictures_takes_a_list(recipe: Any) -> None:
    assert settings(recipe, EVERY).augmentation == EVERY
    assert settings(recipe, "light").augmentation == "light"


@pytest.mark.parametrize(
    ("transforms", "words"),
    [
        (["RandomRotate"], "no transform 'RandomRotate'.*did you mean RandomRotation"),
        ([{"RandomRotation": {"degree": 3}}], "RandomRotation takes no 'degree'; did you mean degrees"),
        ([{"RandomRotation": {"degrees": "much"}}], "RandomRotation: "),
        (["RandomRotation"], "RandomRotation: .*degrees"),
        (["Normalize"], "no transform 'Normalize'"),
        (["Lambda"], "no transform 'Lambda'"),
        ([{"RandomApply": {"p": 0.5}}], "RandomApply needs transforms"),
        ([{"a": {}, "b": {}}], "write a transform as its name"),
        ([], "the list is empty; say none"),
        (["RandomShortestSize"], "min_size"),
    ],
)
def test_what_is_unknown_is_refused_with_the_near_one(transforms: list[Any], words: str) -> None:
    with pytest.raises(CallError, match=words):
        settings(classifier, transforms)


def test_a_list_is_what_torchvision_does_in_that_order() -> None:
    entries = [
        {"ColorJitter": {"hue": 0.2}},
        {"RandomRotation": {"degrees": [10, 20]}},
        "RandomHorizontalFlip",
    ]
    ours = of_batch(build(entries, (64, 96)))
    theirs = v2.Compose(
        [v2.ColorJitter(hue=0.2), v2.RandomRotation((10, 20), fill=114), v2.RandomHorizontalFlip()]
    )
    torch.manual_seed(3)
    found = ours(PHOTO[None])
    torch.manual_seed(3)

    assert torch.equal(found[0], theirs(PHOTO))


def test_a_classifier_sees_the_list_alone_at_the_size_of_its_input() -> None:
    config = ImageInput(64, 96, fit="crop", resize=64)
    vary = augmentation(settings(classifier, [{"RandomCrop": {"size": 32}}]), config)
    invert = augmentation(settings(classifier, [{"RandomInvert": {"p": 1.0}}]), config)

    assert vary(PHOTO[None].repeat(4, 1, 1, 1)).shape == (4, 3, 64, 96)
    assert torch.equal(invert(PHOTO[None])[0], 255 - PHOTO)


def test_boxes_and_masks_follow() -> None:
    boxes = target([8, 8, 24, 40], [60, 10, 90, 30])
    boxes["masks"] = torch.zeros(2, 64, 96, dtype=torch.uint8)
    boxes["masks"][0, 8:40, 8:24] = 1
    picture, moved = with_boxes(build([{"RandomHorizontalFlip": {"p": 1.0}}], (64, 96)), PHOTO, boxes)

    assert torch.equal(picture, PHOTO.flip(-1))
    assert moved["boxes"].tolist() == [[72, 8, 88, 40], [6, 10, 36, 30]]
    assert torch.equal(moved["masks"], boxes["masks"].flip(-1))


def test_objects_that_leave_the_picture_are_dropped() -> None:
    """A shift by half the width to the right: one leaves, one is cut, one stays."""
    shift = build([{"RandomAffine": {"degrees": 0, "translate": [0.5, 0.0]}}], (64, 96))
    for seed in range(20):
        torch.manual_seed(seed)
        _, moved = with_boxes(shift, PHOTO, target([0, 0, 20, 20], [40, 0, 56, 20], [76, 0, 96, 20]))
        widths = moved["boxes"][:, 2] - moved["boxes"][:, 0]
        assert (moved["boxes"] >= 0).all()
        assert (moved["boxes"][:, 2] <= 96).all()
        assert all(width >= 8 for width in widths.tolist())
        assert len(moved["labels"]) == len(widths) <= 3


def test_what_comes_from_outside_does_not_count_for_a_segmenter() -> None:
    labels = torch.ones(64, 96, dtype=torch.uint8)
    turn = build([{"RandomRotation": {"degrees": [45, 45]}}], (64, 96), IGNORED)
    picture, moved = with_labels(turn, PHOTO, labels)

    assert moved[0, 0] == IGNORED
    assert picture[:, 0, 0].tolist() == [114, 114, 114]
    assert moved[32, 48] == 1
    assert set(moved.unique().tolist()) == {1, IGNORED}


def test_a_detectors_batches_are_transformed(tmp_path: Path) -> None:
    """The whole list, on pictures with and without objects: shapes and types stay, boxes stay inside."""
    pixels = PHOTO.permute(1, 2, 0).numpy()
    boxes = np.array([[8, 8, 24, 40], [60, 10, 90, 30]], np.float32)
    examples = [Example(pixels, boxes=boxes, labels=np.array([0, 1])), Example(pixels)] * 4
    loader = Batches(Prepared.of(examples, ImageInput(64, 96), "pictures"), 4, False, (), 0)
    loader.transforms = build(EVERY, (64, 96))
    torch.manual_seed(0)
    for pictures, targets in loader:
        assert pictures.shape == (4, 3, 64, 96)
        assert pictures.dtype == torch.float32
        for each in targets:
            assert len(each["boxes"]) == len(each["labels"])
            assert ((each["boxes"] >= 0) & (each["boxes"] <= torch.tensor([96, 64, 96, 64]))).all()
