"""Serves semantic segmentation: class logits -> a class for every pixel of the image that was sent."""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from bundle_image_handler import ImageHandler
from bundle_instances import Instance
from bundle_masks import compressed, label_map, png_of, run_lengths
from bundle_options import Choice
from bundle_replies import Picture
from bundle_requests import Prepared

FORMATS = ("json", "png", "rle", "compressed_rle", "polygons", "areas")
ABOUT = (
    "json: the label map as a PNG in base64; png: that PNG alone, values are class indices; rle, compressed_rle: COCO's run lengths "
    "of each class; polygons: lists x1, y1, x2, y2, … around its parts, holes filled; areas: no masks"
)


class SegmenterHandler(ImageHandler):
    """Answers {"width", "height", "areas": [{"class", "class_index", "pixels", "share"}, ...], "mask"}, all classes in their order."""

    def read_configs(self, folder: Path) -> None:
        """Read the JSON files of an export."""
        super().read_configs(folder)
        self.options = {"format": Choice(FORMATS, ABOUT)}

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, classes, h, w] -> the class of every pixel of each image."""
        return [self._answer(label_map(logits, one.size, self.input), one) for logits, one in zip(outputs, prepared, strict=True)]

    def answer_schema(self) -> dict[str, Any]:
        """Areas, and masks in the form that was asked for."""
        lengths = {
            "type": "object",
            "properties": {
                "size": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
                "counts": {"oneOf": [{"type": "array", "items": {"type": "integer", "minimum": 0}}, {"type": "string"}]},
            },
            "required": ["size", "counts"],
            "description": "formats rle and compressed_rle: COCO's run lengths; size is [height, width]",
        }
        required = {
            "class": {"type": "string", "enum": self.classes},
            "class_index": {"type": "integer", "minimum": 0, "maximum": len(self.classes) - 1},
            "pixels": {"type": "integer", "minimum": 0},
            "share": {"type": "number", "minimum": 0, "maximum": 1, "description": "of the image"},
        }
        corners = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 6}
        polygons = {"type": "array", "items": corners, "description": "format polygons: x1, y1, x2, y2, … around each part"}
        area = {"type": "object", "properties": {**required, "mask": lengths, "polygons": polygons}, "required": list(required)}
        many = len(self.classes)
        png = "format json: a PNG of the image's size whose values are class indices"
        properties = {
            "width": {"type": "integer", "minimum": 1},
            "height": {"type": "integer", "minimum": 1},
            "areas": {"type": "array", "items": area, "minItems": many, "maxItems": many, "description": "one per class, in their order"},
            "mask": {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png", "description": png},
        }
        return {"type": "object", "properties": properties, "required": ["width", "height", "areas"]}

    def _answer(self, labels: np.ndarray, one: Prepared) -> Any:
        form = one.options.get("format", "json")
        if form == "png":
            return Picture(png_of(labels, len(self.classes)), "image/png")
        width, height = one.size
        pixels = np.bincount(labels.ravel(), minlength=len(self.classes)).tolist()
        areas: list[dict[str, Any]] = [
            {"class": name, "class_index": index, "pixels": pixels[index], "share": pixels[index] / labels.size}
            for index, name in enumerate(self.classes)
        ]
        if form in ("rle", "compressed_rle"):
            for index, area in enumerate(areas):
                counts = run_lengths(labels == index)
                area["mask"] = {"size": [height, width], "counts": compressed(counts) if form == "compressed_rle" else counts}
        if form == "polygons":
            for index, area in enumerate(areas):
                area["polygons"] = Instance(labels == index, 0, 0, one.size).polygons()
        answer = {"width": width, "height": height, "areas": areas}
        return {**answer, "mask": base64.b64encode(png_of(labels, len(self.classes))).decode()} if form == "json" else answer
