"""Heat of explanations on digits, as an overlay and as a grid."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from handlers.inputs.images import ImageInput, prepare, view_of
from handlers.kinds.explanations import GradCam, on_image, overlay
from marina.core import spec
from training.data import digits


@pytest.fixture(scope="module")
def built_digits() -> tuple[Any, ImageInput]:
    """The built-in model and its preprocessing."""
    folder: Path = spec.load("digits").export_dir
    if not (folder / "SHA256SUMS").is_file():
        pytest.skip("exports/digits is not there; train it with: marina train digits")
    config = ImageInput.from_config(
        json.loads((folder / "preprocess_config.json").read_text(encoding="utf-8"))
    )
    return torch.export.load(folder / "model.pt2").module(), config


def two(
    left: int, top: int, size: tuple[int, int] = (900, 700)
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A large white canvas with a small two, and the box of its ink (left, top, right, bottom)."""
    canvas = Image.new("L", size, 255)
    pen = ImageDraw.Draw(canvas)
    pen.arc((left, top, left + 70, top + 70), 190, 50, fill=0, width=11)
    pen.line(
        [(left + 60, top + 55), (left + 5, top + 120), (left + 75, top + 120)],
        fill=0,
        width=11,
        joint="curve",
    )
    box = Image.fromarray(255 - np.asarray(canvas)).getbbox()
    assert box
    return canvas, box


@pytest.mark.parametrize(("left", "top"), [(12, 10), (800, 10), (12, 560), (800, 560)])
def test_the_heat_of_a_digit_in_a_corner_lies_on_the_digit(
    built_digits: tuple[Any, ImageInput], left: int, top: int
) -> None:
    module, config = built_digits
    canvas, (x1, y1, x2, y2) = two(left, top)

    heat = GradCam(module)(torch.from_numpy(prepare(canvas, config)[None]))
    difference = np.abs(
        np.asarray(overlay(canvas, heat.values, view_of(canvas, config)), int)
        - np.asarray(canvas.convert("RGB"), int)
    )
    grid = on_image(heat.values, view_of(canvas, config), canvas.size)
    y, x = np.mgrid[0:700, 0:900]
    # the box widened by half on every side
    near = (abs(x - (x1 + x2) / 2) < x2 - x1) & (abs(y - (y1 + y2) / 2) < y2 - y1)

    assert heat.target == 2
    assert difference.sum(2)[near].sum() > 0.9 * difference.sum() > 0
    rows, columns = (np.arange(size) for size in grid.shape)
    centre = (
        np.array([(grid.sum(0) * (columns + 0.5)).sum(), (grid.sum(1) * (rows + 0.5)).sum()])
        / grid.sum()
        * 900
        / 32
    )
    assert np.abs(centre - [(x1 + x2) / 2, (y1 + y2) / 2]).max() < 25


def test_covering_the_hottest_ink_costs_more_than_covering_the_coldest(
    built_digits: tuple[Any, ImageInput],
) -> None:
    """Cells of 4 x 4 pixels that have ink; on average over 40 digits (Zeiler and Fergus 2014 cover parts
    to see what counts).
    """
    module, config = built_digits
    cam, drops = GradCam(module), []
    for example in digits.load().test[:40]:
        image = torch.from_numpy(prepare(Image.fromarray(np.asarray(example.image)), config)[None])
        heat = cam(image)
        inked = image[0, 0].float().reshape(4, 4, 4, 4).mean((1, 3)).numpy() > 40
        order = [cell for cell in heat.values.argsort(axis=None) if inked.flat[cell]]
        covered = image.repeat(3, 1, 1, 1)
        for row, cell in enumerate((order[-1], order[0])):
            covered[row, 0, cell // 4 * 4 : cell // 4 * 4 + 4, cell % 4 * 4 : cell % 4 * 4 + 4] = 0
        drops.append(
            1 - module(covered).softmax(1)[:2, heat.target] / module(image).softmax(1)[0, heat.target]
        )
    hottest, coldest = torch.stack(drops).mean(0).tolist()

    assert hottest > 0.3
    assert hottest > 3 * coldest


def test_the_overlay_is_red_where_it_is_hottest_and_the_picture_elsewhere() -> None:
    image = Image.new("RGB", (60, 40), (128, 128, 128))
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1

    pixels = np.asarray(overlay(image, values, (20, 0, 60, 40)), int)

    red, green, blue = pixels[15, 45]
    assert red > green + 40 > blue
    assert (pixels[:, :20] == 128).all()
    assert (pixels[35:, 20:30] == 128).all()


def test_the_view_counts_in_pixels_of_the_picture_before_it_is_reduced() -> None:
    pixels = np.asarray(
        overlay(Image.new("L", (4096, 2048)), np.ones((4, 4), np.float32), (2048, 0, 4096, 2048)), int
    )

    assert pixels[:, :512].max() == 0
    assert pixels[:, 512:].max(2).min() > 100


@pytest.mark.parametrize(
    ("size", "reduced"),
    [((4000, 1000), (1024, 256)), ((10, 3000), (3, 1024)), ((1, 1), (1, 1)), ((1024, 9), (1024, 9))],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_an_overlay_is_rgb_and_of_a_handy_size(
    mode: str, size: tuple[int, int], reduced: tuple[int, int]
) -> None:
    image = overlay(
        Image.new("L", size, 255).convert(mode), np.ones((3, 2), np.float32), (-9.0, -9.0, 9.0, 5000.0)
    )

    assert (image.mode, image.size) == ("RGB", reduced)


def test_cold_everywhere_is_the_picture_itself() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))

    assert np.array_equal(
        np.asarray(overlay(image, np.zeros((7, 7), np.float32), (0, 0, 50, 30))), np.asarray(image)
    )


@pytest.mark.parametrize(
    ("size", "shape"), [((640, 480), (24, 32)), ((30, 300), (32, 3)), ((8, 8), (8, 8)), ((5000, 2), (1, 32))]
)
def test_the_grid_has_at_most_32_cells_in_the_pictures_proportions(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    grid = on_image(np.ones((4, 4), np.float32), (0, 0, *size), size)

    assert (grid.shape, grid.dtype) == (shape, np.float32)
    np.testing.assert_allclose(grid, 1)


def test_a_cell_of_the_grid_is_the_mean_over_its_area() -> None:
    """The view covers the right part from pixel 50 of 320; a cell has 10 pixels, so that from 50 is hot,
    one at 325 not there.
    """
    whole = on_image(np.ones((4, 4), np.float32), (55, 0, 400, 100), (320, 100))

    assert whole[:, :5].max() == 0
    np.testing.assert_allclose(whole[:, 5], 0.5)
    np.testing.assert_allclose(whole[:, 6:], 1)


def test_the_heat_falls_off_smoothly_between_its_cells() -> None:
    row = on_image(np.array([[0, 0, 1, 0]], np.float32), (0, 0, 32, 32), (32, 32))[16]

    assert np.abs(np.diff(row)).max() < 0.25
    assert 0 <= row.min() <= row.max() <= 1
    assert 18 <= row.argmax() <= 21
