"""The pictures of a segmenter's report: how it learned, and what it finds in test pictures, the worst ones
by themselves.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from handlers.inputs.masks import palette
from training.data import ImageData
from training.data.outlined_folder import IGNORED
from training.data.overview import painted
from training.vision.detection.pixels import open_example
from training.vision.segmentation.evaluation import overlap

CELL, ROWS = 300, 6


def examples(
    found: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    data: ImageData,
    counts: Sequence[np.ndarray],
    report: Path,
) -> None:
    """examples.png (the first test pictures) and worst.png (least mean IoU first): picture, truth, what
    was found, what is wrong.
    """
    scores = [overlap(one)["mean_iou"] for one in counts]
    order = sorted(range(len(scores)), key=scores.__getitem__)
    for name, rows in (("examples", list(range(len(scores)))[:ROWS]), ("worst", order[:ROWS])):
        _sheet([_row(k, found[k], truth[k], data, scores[k]) for k in rows], data.classes).save(
            report / f"{name}.png"
        )


def truth(pixels: torch.Tensor, labels: torch.Tensor, count: int) -> Image.Image:
    """A training picture, float32 [3, H, W] of 0..255, with its classes painted, int64 [H, W]."""
    image = Image.fromarray(pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    return painted(image, labels.to(torch.uint8).numpy(), count)


def _row(
    k: int, found: np.ndarray, truth: np.ndarray, data: ImageData, score: float
) -> list[tuple[str, Image.Image]]:
    image = open_example(data.test[k])
    colours = np.zeros((256, 3))
    colours[: len(data.classes)] = palette(len(data.classes))
    colours[IGNORED] = 128
    pixels = np.asarray(image, float)

    def laid(labels: np.ndarray) -> Image.Image:
        shown = np.where(labels[..., None] > 0, 0.4 * pixels + 0.6 * colours[labels], pixels)
        return Image.fromarray(shown.astype(np.uint8))

    wrong = (found != truth) & (truth != IGNORED)
    faults = np.where(wrong[..., None], np.array([215.0, 48, 39]), 0.3 * pixels)
    return [
        ("picture", image),
        ("truth", laid(truth)),
        (f"found, mean IoU {score:.2f}", laid(found)),
        ("wrong", Image.fromarray(faults.astype(np.uint8))),
    ]


def _sheet(rows: list[list[tuple[str, Image.Image]]], classes: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(14)
    cells = [
        [(text, image.resize(_fitting(image.size), Image.Resampling.BICUBIC)) for text, image in row]
        for row in rows
    ]
    heights = [max(image.height for _, image in row) + 24 for row in cells]
    sheet = Image.new("RGB", (4 * (CELL + 8) + 8, sum(heights) + 36), "white")
    pen = ImageDraw.Draw(sheet)
    left = 8.0
    for name, colour in list(zip(classes, palette(len(classes)), strict=True))[1:20]:
        pen.rectangle((left, 9, left + 16, 25), fill=colour)
        pen.text((left + 22, 8), name, fill="black", font=font)
        left += 44 + pen.textlength(name, font=font)
    top = 32
    for row, height in zip(cells, heights, strict=True):
        for column, (text, image) in enumerate(row):
            pen.text((8 + column * (CELL + 8), top), text, fill="black", font=font)
            sheet.paste(image, (8 + column * (CELL + 8), top + 18))
        top += height
    return sheet


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
    scale = CELL / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
