"""Serves semantic segmentation: class logits -> a class for every pixel of the image that was sent."""

import base64
from typing import Any, ClassVar

import numpy as np

from ..inputs.masks import (
    COUNTS_SCHEMA,
    POLYGON_SCHEMA,
    SIZE_SCHEMA,
    compressed,
    label_map,
    png_of,
    run_lengths,
)
from ..protocol.options import Choice
from ..protocol.replies import Picture
from ..protocol.requests import Prepared
from ..runtime.export import Export
from .image import ImagePredictor
from .instance_masks import Instance

AREA_TOLERANCE = 0.05  # of the picture, that an area may be larger or smaller than expected
FORMATS = ("json", "png", "rle", "compressed_rle", "polygons", "areas")
ABOUT = (
    "json: the label map as a PNG in base64; png: that PNG alone, values are class indices; rle, "
    "compressed_rle: COCO's run lengths of each class; polygons: lists x1, y1, x2, y2, … around its parts, "
    "holes filled; areas: no masks"
)

RUN_LENGTHS = {
    "type": "object",
    "properties": {"size": SIZE_SCHEMA, "counts": COUNTS_SCHEMA},
    "required": ["size", "counts"],
    "description": "formats rle and compressed_rle: COCO's run lengths; size is [height, width]",
}
POLYGONS = {
    "type": "array",
    "items": POLYGON_SCHEMA,
    "description": "format polygons: x1, y1, x2, y2, … around each part",
}


class SegmenterPredictor(ImagePredictor):
    """Answers {"width", "height", "areas": [{"class", "class_index", "pixels", "share"}, ...], "mask"},
    all classes in their order.
    """

    expectation: ClassVar[tuple[str, str]] = ("areas", "areas")
    reduced_precision_instances: ClassVar[int | None] = 16  # each has many answers

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export."""
        super().configure(export)
        self.options = {"format": Choice(FORMATS, ABOUT)}

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, classes, h, w] -> the class of every pixel of each image."""
        return [
            self._answer(label_map(logits, one.size, self.input), one)
            for logits, one in zip(outputs, prepared, strict=True)
        ]

    @classmethod
    def contradiction(cls, expected: Any, part: Any) -> str:
        """{"areas": {class: share}} expects these shares of the picture, to 0.05."""
        shares = {area["class"]: area["share"] for area in part}
        for name, share in expected.items():
            if not abs(shares.get(name, -1.0) - share) <= AREA_TOLERANCE:
                return f"{name!r} covers {shares.get(name, 0.0):.3f} of the picture instead of {share:.3f}"
        return ""

    def agreement(self, expected: Any, found: Any, prepared: list[Prepared], certain: float) -> list[float]:
        """The share of the graph's own pixels with the same class, per picture."""
        same = expected.argmax(1) == found.argmax(1)
        return [float(share) for share in same.mean((1, 2))]

    def answer_schema(self) -> dict[str, Any]:
        """Areas, and masks in the form that was asked for."""
        required = {
            "class": {"type": "string", "enum": self.labels},
            "class_index": {"type": "integer", "minimum": 0, "maximum": len(self.labels) - 1},
            "pixels": {"type": "integer", "minimum": 0},
            "share": {"type": "number", "minimum": 0, "maximum": 1, "description": "of the image"},
        }
        area = {
            "type": "object",
            "properties": {**required, "mask": RUN_LENGTHS, "polygons": POLYGONS},
            "required": list(required),
        }
        many = len(self.labels)
        png = "format json: a PNG of the image's size whose values are class indices"
        properties = {
            "width": {"type": "integer", "minimum": 1},
            "height": {"type": "integer", "minimum": 1},
            "areas": {
                "type": "array",
                "items": area,
                "minItems": many,
                "maxItems": many,
                "description": "one per class, in their order",
            },
            "mask": {
                "type": "string",
                "contentEncoding": "base64",
                "contentMediaType": "image/png",
                "description": png,
            },
        }
        return {"type": "object", "properties": properties, "required": ["width", "height", "areas"]}

    def _answer(self, labels: np.ndarray, one: Prepared) -> Any:
        form = one.options.get("format", "json")
        if form == "png":
            return Picture(png_of(labels, len(self.labels)), "image/png")
        width, height = one.size
        pixels = np.bincount(labels.ravel(), minlength=len(self.labels)).tolist()
        areas: list[dict[str, Any]] = [
            {
                "class": name,
                "class_index": index,
                "pixels": pixels[index],
                "share": pixels[index] / labels.size,
            }
            for index, name in enumerate(self.labels)
        ]
        if form in ("rle", "compressed_rle"):
            for index, area in enumerate(areas):
                counts = run_lengths(labels == index)
                area["mask"] = {
                    "size": [height, width],
                    "counts": compressed(counts) if form == "compressed_rle" else counts,
                }
        if form == "polygons":
            for index, area in enumerate(areas):
                area["polygons"] = Instance(labels == index, 0, 0, one.size).polygons()
        answer = {"width": width, "height": height, "areas": areas}
        return (
            {**answer, "mask": base64.b64encode(png_of(labels, len(self.labels))).decode()}
            if form == "json"
            else answer
        )


PREDICTOR = SegmenterPredictor
