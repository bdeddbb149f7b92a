"""Scenes to find things in: real handwritten digits, in ink of many colours, on cluttered grounds.

Each scene shows one to five of scikit-learn's digits (`training.data.digits`) at other places, sizes,
slants and colours, light on dark or dark on light, among lines, shapes and pieces of digits that are none.
The digits of a split are used in that split alone, so that the test scenes show hands which the training has
not seen. Scene i of a split is the same whatever the counts.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.data import Example, ImageData, digits

WIDTH, HEIGHT = 160, 128
MOST_DIGITS = 5
SMALLEST, LARGEST = 20, 60  # height of the digits' cell before slant and crop, pixels
INK = 0.35  # share of ink from which on a pixel belongs to a box
CONTRAST = 70  # least difference of luminance between ink and the ground below it, 0..255
OVERLAP = 0.05  # most that two things may share, as a part of the smaller one's box
SEED = 20240607

Rng = np.random.Generator
Box = tuple[int, int, int, int]


def load(train: int = 2400, validation: int = 200, test: int = 400) -> ImageData:
    """So many scenes per split, RGB uint8 [128, 160, 3], with tight boxes around the ink and classes "0"
    to "9".
    """
    source = digits.load()
    return ImageData(
        name="scenes",
        classes=source.classes,
        train=[_scene(source.train, np.random.default_rng([SEED, 0, i])) for i in range(train)],
        validation=[
            _scene(source.validation, np.random.default_rng([SEED, 1, i])) for i in range(validation)
        ],
        test=[_scene(source.test, np.random.default_rng([SEED, 2, i])) for i in range(test)],
        source=f"composed from {source.source}",
        licence=source.licence,
    )


def _scene(figures: Sequence[Example], rng: Rng) -> Example:
    canvas = _ground(rng)
    taken: list[Box] = []
    boxes, labels = [], []
    for _ in range(rng.integers(1, MOST_DIGITS + 1)):
        figure = figures[int(rng.integers(len(figures)))]
        box = _place(canvas, _ink(np.asarray(figure.image), rng), taken, rng)
        if box is not None:
            boxes.append(box)
            labels.append(figure.label)
    for _ in range(rng.integers(0, 4)):
        figure = figures[int(rng.integers(len(figures)))]
        if figure.label != 1:  # the quarters of a 1 are bars, as a 1 is
            _place(canvas, _ink(_shuffled(np.asarray(figure.image), rng), rng), taken, rng)
    canvas += rng.standard_normal(canvas.shape, np.float32) * rng.uniform(1, 7)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Example(
        image=image, boxes=np.array(boxes, np.float32).reshape(-1, 4), labels=np.array(labels, np.int64)
    )


def _ground(rng: Rng) -> np.ndarray:
    """A ground with a gradient, soft blotches, lines and filled shapes: float32 [HEIGHT, WIDTH, 3] in
    0..255.
    """
    corners = _colour(rng) + rng.normal(0, 14, (2, 2, 3))
    blotches = np.clip(corners.mean((0, 1)) + rng.normal(0, rng.uniform(2, 22), (8, 10, 3)), 0, 255).astype(
        np.uint8
    )
    soft = np.asarray(Image.fromarray(blotches).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    gradient = Image.fromarray(np.clip(corners, 0, 255).astype(np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BILINEAR
    )
    image = Image.fromarray(((soft + np.asarray(gradient, np.float32)) / 2).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 4)):
        points = [tuple(point) for point in rng.uniform((0, 0), (WIDTH, HEIGHT), (3, 2)).tolist()]
        draw.polygon(points, fill=_shade(image, rng))
    for _ in range(rng.integers(0, 5)):
        ends = rng.uniform((-20, -20), (WIDTH + 20, HEIGHT + 20), (2, 2))
        draw.line(
            [tuple(point) for point in ends.tolist()], fill=_shade(image, rng), width=int(rng.integers(1, 3))
        )
    return np.array(image.filter(ImageFilter.GaussianBlur(0.6)), np.float32)


def _colour(rng: Rng) -> np.ndarray:
    """A colour of any brightness, seldom a garish one: float [3]."""
    grey = rng.uniform(15, 240)
    return np.clip(grey + rng.normal(0, 35, 3), 0, 255)


def _shade(image: Image.Image, rng: Rng) -> tuple[int, int, int]:
    """A colour not far from the ground's own, so that clutter is fainter than ink."""
    red, green, blue = np.clip(np.asarray(image)[0, 0] + rng.normal(0, 40, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def _ink(figure: np.ndarray, rng: Rng) -> np.ndarray:
    """An 8x8 figure enlarged, turned and slanted, cut to its ink: float32 [h, w], the share of ink in
    0..1.
    """
    height = SMALLEST * (LARGEST / SMALLEST) ** rng.uniform()  # small ones as often as large ones
    angle, slant = np.deg2rad(rng.uniform(-14, 14)), rng.uniform(-0.2, 0.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[rng.uniform(0.85, 1.15), slant], [0, 1]]) * (height / 8)
    inverse = np.linalg.inv(forward)
    side = int(height * 1.8)
    offset = 6 - inverse @ np.array([side / 2, side / 2])
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    padded = Image.fromarray(np.pad(figure, 2))
    drawn = padded.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    ramp = np.clip((np.asarray(drawn, np.float32) / 255 - 0.25) / 0.4, 0, 1)
    ink = ramp * ramp * (3 - 2 * ramp)
    rows, columns = np.nonzero((ink > INK).any(1))[0], np.nonzero((ink > INK).any(0))[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _shuffled(figure: np.ndarray, rng: Rng) -> np.ndarray:
    """A figure whose quarters have changed places, which makes it a scribble and no digit: uint8 [8, 8]."""
    upper, lower = figure[:4], figure[4:]
    quarters = [upper[:, :4], upper[:, 4:], lower[:, :4], lower[:, 4:]]
    first, second, third, fourth = (
        quarters[k] for k in ([3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1])[rng.integers(3)]
    )
    return np.block([[first, second], [third, fourth]])


def _place(canvas: np.ndarray, ink: np.ndarray, taken: list[Box], rng: Rng) -> Box | None:
    """Draw `ink` onto `canvas` where nothing else is, in a colour that shows; its box, or None where there
    is no room.
    """
    height, width = ink.shape
    for _ in range(30):
        left, top = int(rng.integers(1, WIDTH - width)), int(rng.integers(1, HEIGHT - height))
        box = (left, top, left + width, top + height)
        if any(_shared(box, other) > OVERLAP for other in taken):
            continue
        taken.append(box)
        under = canvas[top : top + height, left : left + width]
        colour = _contrasting(under.mean((0, 1)), rng)
        share = (ink * rng.uniform(0.85, 1))[:, :, None]
        under += share * (colour - under)
        return box
    return None


def _contrasting(ground: np.ndarray, rng: Rng) -> np.ndarray:
    """A colour whose luminance differs enough from the ground's: float32 [3]."""
    while True:
        colour = np.clip(rng.uniform(0, 255) + rng.normal(0, 45, 3), 0, 255)
        if abs(float((colour - ground) @ (0.299, 0.587, 0.114))) >= CONTRAST:
            return colour.astype(np.float32)


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes share, as a part of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0, width) * max(0, height) / smaller
