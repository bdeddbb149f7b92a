"""Segmenters: a class for every pixel."""

from typing import Any

import numpy as np

from handlers.inputs.masks import palette, read_mask
from handlers.kinds.segmenter import AREA_TOLERANCE
from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import Kind, MeasurementOptions
from marina.kinds.pictures import PictureMeasurement, canvas, check_classes, font, limits_of, opened
from marina.kinds.recorded_data import data_of, is_trained_on


class SegmenterKind(Kind):
    """A picture -> its areas."""

    name = "segmenter"

    def summarize(self, content: Any) -> str:
        """The share of each class that covers half a percent or more."""
        areas = content["areas"]
        shares = areas if isinstance(areas, dict) else {area["class"]: area["share"] for area in areas}
        return " ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether each class covers about the same share of the picture in both (0.05 more or less)."""
        shares = [{area["class"]: area["share"] for area in reply["areas"]} for reply in (answer, other)]
        names = shares[0].keys() | shares[1].keys()
        return all(abs(shares[0].get(name, 0) - shares[1].get(name, 0)) <= AREA_TOLERANCE for name in names)

    def draw(self, body: bytes, answer: Any) -> Any:
        """The picture with each class but the first in its color."""
        return draw_areas(canvas(opened(body)).image, answer)

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "Overlap":
        """Mean IoU and Dice on the test split."""
        from training import data

        trained = Export.open(spec.export_dir).metadata["training"]
        images = data.load_outlines(
            data_of(spec, options.data),
            spec.training.seed,
            limits=limits_of(spec),
            ignore_index=trained.get("ignore_index", 255),
        )
        check_classes(spec, images)
        return Overlap(spec, images, is_recorded=is_trained_on(spec, options.data))


class Overlap(PictureMeasurement):
    """Mean intersection over union, and Dice."""

    def score(self, answers: list[Any]) -> dict[str, float]:
        """Over all pixels of all test pictures."""
        from training.vision.segmentation.evaluation import overlap, pairs, truth_of

        index = {name: position for position, name in enumerate(self.images.classes)}
        order = np.array([index[area["class"]] for area in answers[0]["areas"]], np.uint8)
        counts = sum(
            pairs(order[read_mask(answer["mask"])], truth_of(example), len(order))
            for answer, example in zip(answers, self.images.test, strict=True)
        )
        return overlap(np.asarray(counts))


def draw_areas(image: Any, answer: dict[str, Any]) -> Any:
    """The picture with each class but the first in its color, and the classes' shares below it."""
    from PIL import Image, ImageDraw

    labels = read_mask(answer.get("mask"))
    if labels is None:
        raise CallError("only an answer with its label map can be drawn; leave the option format out")
    colors = palette(len(answer["areas"]))
    labels = np.array(Image.fromarray(labels).resize(image.size, Image.Resampling.NEAREST))
    pixels = np.array(image)
    shown = labels > 0
    pixels[shown] = (0.45 * pixels[shown] + 0.55 * np.array(colors, float)[labels[shown]]).astype(np.uint8)
    letters = font(max(image.size))
    areas = [area for area in answer["areas"] if area["pixels"] and area["class_index"]]
    row = round(letters.size * 1.7)
    sheet = Image.new("RGB", (image.width, image.height + row * len(areas)), "white")
    sheet.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for index, area in enumerate(areas):
        top = image.height + index * row
        pen.rectangle((0, top + 2, row, top + row - 2), fill=colors[area["class_index"]])
        text = f"{area['class']}  {area['share']:.1%}"
        pen.text((row + 8, top + row / 2), text, fill="black", font=letters, anchor="lm")
    return sheet


KIND = SegmenterKind()
