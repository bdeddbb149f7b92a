"""Masks of objects: laid on their boxes, as run lengths and as polygons."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.models.detection.roi_heads import paste_masks_in_image

from handlers.inputs.masks import run_lengths
from handlers.kinds.instance_masks import Instance, place_mask
from tests.support.two_stage_models import filled, whole_mask


def test_pasted_masks_and_run_lengths_equal_torchvisions() -> None:
    """Masks are pasted into their boxes as by torchvision; run lengths are those of the whole picture."""
    rng = np.random.default_rng(0)
    for number in range(400):
        size = tuple(rng.integers(1, 60, 2).tolist())
        grain = 28 if number % 2 else 5
        mask = torch.nn.functional.interpolate(torch.rand(1, 1, grain, grain), (28, 28), mode="bilinear")[
            0, 0
        ]
        corners = rng.uniform(0, size, (2, 2))
        box = torch.tensor(np.concatenate([corners.min(0), corners.max(0)]), dtype=torch.float32)
        expected = (paste_masks_in_image(mask[None, None], box[None], size[::-1])[0, 0] > 0.5).numpy()
        instance = place_mask(mask.numpy(), box.numpy(), size)  # type: ignore[arg-type]

        assert np.array_equal(whole_mask(instance), expected)
        assert instance.run_lengths() == run_lengths(expected)


def test_polygons_are_exact_for_straight_edges_and_close_for_round() -> None:
    """Polygons hold a mask of straight edges exactly, and a round one closely with few corners."""
    size = (120, 90)
    sheet = Image.new("1", size)
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((10, 10, 29, 39), fill=1)
    pen.rectangle((20, 30, 59, 39), fill=1)
    angular = Instance(np.array(sheet), 0, 0, size)
    pen.ellipse((60, 40, 110, 85), fill=1)
    both = Instance(np.array(sheet)[5:], 0, 5, size)

    assert angular.polygons() == [[30, 10, 30, 30, 60, 30, 60, 40, 10, 40, 10, 10]]
    polygons = both.polygons()
    assert len(polygons) == 2
    found, truth = filled(polygons, size), whole_mask(both)
    assert (found & truth).sum() / (found | truth).sum() > 0.98
    assert len(polygons[1]) / 2 < 70  # of about 190 corners of pixels


def test_polygons_leave_holes_out_and_part_what_touches_at_a_corner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.kinds.instance_masks.TOLERANCE", 0.0)
    ring = np.ones((6, 7), bool)
    ring[2:4, 2:5] = False
    steps = np.array([[1, 0], [0, 1]], bool)

    assert Instance(ring, 3, 1, (20, 20)).polygons() == [[10, 1, 10, 7, 3, 7, 3, 1]]
    assert len(Instance(steps, 0, 0, (2, 2)).polygons()) == 2
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = rng.random(rng.integers(1, 9, 2)) < 0.5
        one = Instance(mask, 0, 0, mask.shape[::-1])
        found = filled(one.polygons(), one.size)
        assert found[mask].all()
        assert mask.any() or not one.polygons()
