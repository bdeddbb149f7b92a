"""Draws an answer on the picture that was sent: a detector's boxes and masks, a segmenter's masks, the best classes of a classifier.

Of a clip some frames stand side by side.
"""

import io
import json
from pathlib import Path
from typing import Any

from marina.errors import CallError

# Okabe and Ito's colours (2008), which people with any kind of colour vision can tell apart
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
FRAMES = 6  # of a clip
LEAST_SIDE = 480  # small pictures are enlarged to it, so that the writing can be read


def draw(body: bytes, answer: dict[str, Any], target: Path, clip: bool = False) -> None:
    """Write `body` (an image, or a `clip`) with `answer` on it to `target`, whose suffix decides the format.

    Raises CallError for an answer that is not about an image and for a suffix that Pillow doesn't write.
    """
    from PIL import Image, ImageOps

    if not answer.keys() & {"detections", "predictions", "areas"}:
        raise CallError("only answers about images can be drawn; for a policy see: marina play NAME --gif FILE")
    image = _strip(body) if clip else ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
    scale = max(1.0, LEAST_SIDE / max(image.size))
    sharp = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.BICUBIC
    image = image.resize((round(image.width * scale), round(image.height * scale)), sharp)
    if "areas" in answer:
        drawn = _masks(image, answer)
    else:
        drawn = _boxes(image, answer["detections"], scale) if "detections" in answer else _classes(image, answer["predictions"])
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        drawn.save(target)
    except ValueError as error:
        raise CallError(f"can't write {target}: {error}; use a name like answer.png") from error


def _strip(body: bytes) -> Any:
    """FRAMES frames of a clip side by side."""
    from PIL import Image

    from bundle_clips import ClipInput, open_clip, open_frames
    from bundle_errors import Refusal
    from bundle_images import ImageInput
    from bundle_payloads import bytes_of

    config = ClipInput(FRAMES, ImageInput(8, 8))
    try:
        if body.lstrip()[:1] in (b"{", b"["):
            said = json.loads(body)
            listed = next((value for value in said.values() if isinstance(value, list)), []) if isinstance(said, dict) else said
            frames = open_frames([bytes_of(frame) for frame in listed], config)
        else:
            frames = open_clip(body, config)
    except Refusal as refusal:
        raise CallError(f"only a clip in a file, or a list of frames, can be drawn: {refusal}") from refusal
    width, height = frames[0].size
    strip = Image.new("RGB", (FRAMES * (width + 1) - 1, height), "white")
    for index, frame in enumerate(frames):
        strip.paste(frame, (index * (width + 1), 0))
    return strip


def _boxes(image: Any, detections: list[dict[str, Any]], scale: float) -> Any:
    from PIL import ImageDraw

    image = _instances(image, detections, scale)
    pen = ImageDraw.Draw(image)
    font, line = _font(max(image.size)), max(2, max(image.size) // 240)
    for found in reversed(detections):  # the surest on top
        colour = COLOURS[found["class_index"] % len(COLOURS)]
        x1, y1, x2, y2 = (edge * scale for edge in found["bbox"])
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=line)
        text = f"{found['class']} {found['score']:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 6, bottom - top + 6
        place = (min(max(0, x1), image.width - width), y1 - height if y1 >= height else y1)
        pen.rectangle((*place, place[0] + width, place[1] + height), fill=colour)
        pen.text((place[0] + 3 - left, place[1] + 3 - top), text, fill="black", font=font)
    return image


def _instances(image: Any, detections: list[dict[str, Any]], scale: float) -> Any:
    """The picture with the masks of the detections that have one, the surest on top."""
    from PIL import Image, ImageDraw

    for found in reversed([one for one in detections if "mask" in one]):
        inside = Image.new("L", image.size)
        if "polygons" in found["mask"]:
            pen = ImageDraw.Draw(inside)
            for polygon in found["mask"]["polygons"]:
                pen.polygon([edge * scale for edge in polygon], fill=140)
        else:
            from bundle_masks import read_mask

            pixels = read_mask(found["mask"])
            if pixels is None:
                raise CallError("an answer with a broken mask can't be drawn")
            inside = Image.fromarray(pixels).convert("L").resize(image.size).point(lambda value: 140 if value > 127 else 0)
        image.paste(COLOURS[found["class_index"] % len(COLOURS)], mask=inside)
    return image


def _masks(image: Any, answer: dict[str, Any]) -> Any:
    """The picture with each class but the first in its colour, and the classes' shares below it."""
    import numpy as np
    from PIL import Image, ImageDraw

    from bundle_masks import palette, read_mask

    labels = read_mask(answer.get("mask"))
    if labels is None:
        raise CallError("only an answer with its label map can be drawn; leave the option format out")
    colours = palette(len(answer["areas"]))
    labels = np.array(Image.fromarray(labels).resize(image.size, Image.Resampling.NEAREST))
    pixels = np.array(image)
    shown = labels > 0
    pixels[shown] = (0.45 * pixels[shown] + 0.55 * np.array(colours, float)[labels[shown]]).astype(np.uint8)
    font = _font(max(image.size))
    found = [one for one in answer["areas"] if one["pixels"] and one["class_index"]]
    row = round(font.size * 1.7)
    sheet = Image.new("RGB", (image.width, image.height + row * len(found)), "white")
    sheet.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for index, one in enumerate(found):
        top = image.height + index * row
        pen.rectangle((0, top + 2, row, top + row - 2), fill=colours[one["class_index"]])
        pen.text((row + 8, top + row / 2), f"{one['class']}  {one['share']:.1%}", fill="black", font=font, anchor="lm")
    return sheet


def _classes(image: Any, predictions: list[dict[str, Any]]) -> Any:
    """The picture with a bar per class below it."""
    from PIL import Image, ImageDraw

    font = _font(max(image.size))
    row = round(font.size * 1.7)
    sheet = Image.new("RGB", (image.width, image.height + row * len(predictions) + row // 2), "white")
    sheet.paste(image, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for index, found in enumerate(predictions):
        top = image.height + row // 4 + index * row
        pen.rectangle((0, top + 2, found["probability"] * sheet.width, top + row - 2), fill=COLOURS[1])
        pen.text((8, top + row / 2), f"{found['class']}  {found['probability']:.3f}", fill="black", font=font, anchor="lm")
    return sheet


def _font(side: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=max(16, side // 24))
