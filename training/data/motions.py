"""Clips of one handwritten digit that moves, grows, shrinks or turns: the class is the motion, never the
digit.

No single frame tells the class: pose (place, size, angle) in the middle of the clip are drawn from one
distribution for all classes, and each class has its opposite, which shows the same frames backwards. The
digits of a split (`training.data.digits`) are used in that split alone. Clip i of a split is the same
whatever the counts.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from training.data import Example, ImageData, digits
from training.data.clip_folder import Clip

FRAMES, SIDE = 15, 40
SEED = 20240811
# per clip, from its first to its last frame: pixels to the right, pixels down, powers of 2 in size, degrees
# counterclockwise
MOTIONS = {
    "left": (-1, 0, 0, 0),
    "right": (1, 0, 0, 0),
    "up": (0, -1, 0, 0),
    "down": (0, 1, 0, 0),
    "grows": (0, 0, 1, 0),
    "shrinks": (0, 0, -1, 0),
    "turns left": (0, 0, 0, 1),
    "turns right": (0, 0, 0, -1),
}
LEAST, MOST = np.array([5, 5, 0.3, 25.0]), np.array([18, 18, 1.0, 100.0])  # of each motion, in those units

Rng = np.random.Generator


def load(train: int = 960, validation: int = 160, test: int = 400) -> ImageData:
    """So many clips per split, grey uint8 [15, 40, 40, 1], the classes one after the other."""
    source = digits.load()
    return ImageData(
        name="motions",
        classes=tuple(MOTIONS),
        train=_clips(source.train, train, 0),
        validation=_clips(source.validation, validation, 1),
        test=_clips(source.test, test, 2),
        source=f"composed from {source.source}",
        licence=source.licence,
    )


def _clips(figures: Sequence[Example], count: int, split: int) -> list[Clip]:
    clips = []
    for index in range(count):
        label = index % len(MOTIONS)
        clips.append(
            Clip(image=clip(figures, label, np.random.default_rng([SEED, split, index])), label=label)
        )
    return clips


def clip(figures: Sequence[Example], label: int, rng: Rng) -> np.ndarray:
    """One clip of the motion `label`, uint8 [15, 40, 40, 1]; all that is drawn from `rng` is drawn alike
    for every motion.
    """
    figure = np.asarray(figures[int(rng.integers(len(figures)))].image, np.uint8)
    middle = np.array(
        [
            SIDE / 2 + rng.uniform(-4, 4),
            SIDE / 2 + rng.uniform(-4, 4),
            rng.uniform(-0.2, 0.2),
            rng.uniform(-30, 30),
        ]
    )
    speed = np.array(list(MOTIONS.values())[label]) * rng.uniform(LEAST, MOST)
    sway = rng.normal(0, 0.6, (FRAMES, 2))  # pixels, as of a hand that holds the camera
    ground, ink = _ground(rng)
    noise = 4 * rng.standard_normal((FRAMES, SIDE, SIDE), np.float32)
    frames = []
    for index in range(FRAMES):
        pose = middle + speed * (index / (FRAMES - 1) - 0.5)
        pose[:2] += sway[index]
        share = _drawn(figure, *pose.tolist())
        frames.append(np.clip(ground + share * (ink - ground) + noise[index], 0, 255).astype(np.uint8))
    return np.stack(frames)[..., None]


def _ground(rng: Rng) -> tuple[np.ndarray, float]:
    """(a blotched ground, float32 [SIDE, SIDE] in 0..255; the grey of ink that shows on it)."""
    grey = rng.uniform(30, 225)
    blotches = np.clip(grey + rng.normal(0, rng.uniform(2, 18), (5, 5)), 0, 255).astype(np.uint8)
    ground = np.asarray(Image.fromarray(blotches).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    contrast = rng.uniform(70, 130)
    return ground, grey + contrast if grey < 128 else grey - contrast


def _drawn(figure: np.ndarray, x: float, y: float, size: float, angle: float) -> np.ndarray:
    """The share of ink, 0..1 [SIDE, SIDE], of an 8x8 figure around (x, y), 18 * 2 ** `size` pixels high,
    turned counterclockwise.
    """
    scale, turn = 18 * 2**size / 8, np.deg2rad(angle)
    inverse = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    offset = 6 - inverse @ np.array([x, y])
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    padded = Image.fromarray(np.pad(figure, 2))
    drawn = padded.transform((SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    softened = np.asarray(drawn.filter(ImageFilter.GaussianBlur(0.4)), np.float32)
    return np.clip((softened / 255 - 0.2) / 0.45, 0, 1)  # type: ignore[no-any-return]
