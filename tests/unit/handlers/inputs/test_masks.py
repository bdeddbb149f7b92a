"""Masks: run lengths against a slow reference and pycocotools, label maps against torch's own
interpolation, COCO's outlines.
"""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as reference

from handlers.inputs.images import ImageInput
from handlers.inputs.masks import (
    compressed,
    expanded,
    label_map,
    mask_of_run_lengths,
    palette,
    png_of,
    read_mask,
    run_lengths,
)
from handlers.runtime.golden import difference
from training.data import coco


def slow_counts(mask: np.ndarray) -> list[int]:
    """Pixel by pixel, down the columns."""
    counts, value = [0], False
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if bool(mask[row, column]) != value:
                counts.append(0)
                value = not value
            counts[-1] += 1
    return counts


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noisy = [
        rng.random((height, width)) < share
        for height, width, share in ((7, 5, 0.5), (1, 9, 0.3), (40, 33, 0.02), (12, 1, 0.9))
    ]
    disc = Image.new("1", (300, 200))
    ImageDraw.Draw(disc).ellipse((30, 20, 280, 190), fill=1)
    return [*noisy, np.zeros((3, 4), bool), np.ones((4, 3), bool), np.array(disc)]


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: f"{mask.shape}")
def test_run_lengths_equal_a_slow_reference_and_pycocotools(mask: np.ndarray) -> None:
    """Run lengths equal a slow reference and pycocotools, compressed and not."""
    counts = run_lengths(mask)
    text = compressed(counts)

    assert counts == slow_counts(mask)
    assert text == reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert expanded(text) == counts
    assert np.array_equal(mask_of_run_lengths(counts, *mask.shape), mask)
    assert np.array_equal(mask_of_run_lengths(text, *mask.shape), mask)


@pytest.mark.parametrize(
    "counts", [[3], [3, 4], [-1, 13], [12, 0.0], "e", "\x7f", "é", "o" * 40, [True] * 12]
)
def test_run_lengths_that_do_not_fill_the_picture_are_refused(counts: object) -> None:
    with pytest.raises(ValueError, match=r"add up to|no part|cut off"):
        mask_of_run_lengths(counts, 3, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 48), (200, 31), (7, 90), (1, 1)])
@pytest.mark.parametrize("at_once", [1000, 7])
def test_label_map_equals_argmax_after_torch_interpolation(
    size: tuple[int, int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label map is the most probable class after torch's bilinear interpolation."""
    monkeypatch.setattr("handlers.inputs.masks.ROWS_AT_ONCE", at_once)
    logits = torch.randn(3, 16, 20, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(logits[None], (size[1], size[0]), mode="bilinear")[0]

    labels = label_map(logits.numpy(), size, ImageInput(64, 80))

    sure = wide.topk(min(2, len(wide)), dim=0).values
    clear = (sure[0] - sure[1] > 1e-4).numpy()
    assert labels.dtype == np.uint8
    assert np.array_equal(labels[clear], wide.argmax(0).numpy()[clear])
    assert clear.mean() > 0.99


def test_letterbox_label_map_leaves_out_the_padding() -> None:
    """With letterboxing, only the part of the input that shows the picture counts."""
    logits = np.zeros((2, 32, 32), np.float32)
    logits[1, :16, :16] = 1  # the left half of a picture twice as wide as high
    logits[1, 16:] = 5  # padding

    labels = label_map(logits, (200, 100), ImageInput(64, 64, fit="letterbox"))

    assert labels[:96, :98].all()
    assert not labels[:96, 104:].any()


def test_label_map_png_has_class_values_and_a_palette() -> None:
    """A label map as PNG has the classes as values and shows them in colors."""
    labels = np.random.default_rng(0).integers(0, 5, (20, 30)).astype(np.uint8)
    file = png_of(labels, 5)

    assert np.array_equal(read_mask(base64.b64encode(file).decode()), labels)
    assert len(set(palette(255))) == len(palette(255)) == 255


@pytest.mark.parametrize(
    "sent",
    ["", "????", "aGFsbG8=", None, 3, {}, {"size": [2, 2], "counts": [3]}, {"size": [2], "counts": [4]}],
)
def test_what_is_no_mask_is_none(sent: object) -> None:
    assert read_mask(sent) is None


def test_golden_masks_may_differ_in_some_pixels_of_an_outline_and_no_more() -> None:
    labels = np.zeros((100, 100), np.uint8)
    labels[20:60, 30:70] = 1
    near, far = labels.copy(), labels.copy()
    near[20:40, 70] = 0
    near[25, 30:45] = 0
    far[20:40, 30:34] = 0

    def answer(of: np.ndarray, text: bool = True) -> dict:
        mask = (
            base64.b64encode(png_of(of, 2)).decode()
            if text
            else {"size": [100, 100], "counts": run_lengths(of == 1)}
        )
        return {
            "areas": [{"class": "a", "pixels": int((of == 1).sum()), "share": float((of == 1).mean())}],
            "mask": mask,
        }

    for text in (True, False):
        assert difference(answer(labels, text), answer(near, text)) == ""
        assert "of its pixels differ" in difference(
            answer(labels, text)["mask"], answer(far, text)["mask"], "answer.mask"
        )
        assert difference(answer(labels, text), answer(far, text))
    assert "another form" in difference(
        answer(labels), {**answer(labels), "mask": answer(labels, False)["mask"]}
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own affair with numpy
def test_painted_polygons_equal_pycocotools_within_a_pixel() -> None:
    """Polygons are painted as pycocotools paints them, to within a pixel of their edges."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        angles, centre = np.sort(rng.random(9) * 2 * np.pi), rng.random(2) * [60, 40] + [60, 60]
        corners = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(25, 55, (9, 1))
        polygon = corners.ravel().tolist()
        theirs = reference.decode(reference.merge(reference.frPyObjects([polygon], 160, 180))).astype(bool)
        ours = coco.filled([polygon], 180, 160)

        assert ours.shape == (160, 180)
        assert not (ours & ~grown(theirs)).any()
        assert not (theirs & ~grown(ours)).any()
        assert abs(int(ours.sum()) - int(theirs.sum())) < 0.05 * theirs.sum()


def grown(mask: np.ndarray) -> np.ndarray:
    """With the pixels beside it."""
    return torch.nn.functional.max_pool2d(torch.from_numpy(mask)[None].float(), 3, 1, 1)[0].bool().numpy()


def test_outlines_of_many_polygons_and_both_run_length_forms() -> None:
    """All polygons of an object belong to it; run lengths are read in both forms."""
    two = coco.filled([[0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 30, 0, 30, 10, 20, 10]], 40, 12)

    assert two[5, 5]
    assert two[5, 25]
    assert not two[5, 15]
    for counts in (run_lengths(two), compressed(run_lengths(two))):
        assert np.array_equal(coco.filled({"size": [12, 40], "counts": counts}, 40, 12), two)


@pytest.mark.parametrize(
    "outline",
    [
        None,
        [],
        {},
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, float("nan"), 4, 5, 6]],
        {"size": [3, 4], "counts": [12]},
        "x",
    ],
)
def test_outlines_that_can_not_be_painted_are_refused(outline: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        coco.filled(outline, 3, 4)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_the_masks_of_real_data_are_those_that_coco_reads(shared_data: Path) -> None:
    import json

    rows = json.loads((shared_data / "pennfudan" / "instances.json").read_text())["annotations"][:20]
    for row in rows:
        height, width = row["segmentation"]["size"]

        assert np.array_equal(
            coco.filled(row["segmentation"], width, height),
            reference.decode(row["segmentation"]).astype(bool),
        )
