"""Serves object detectors: what the graph found -> boxes, and masks if asked for, in pixels of the image that was sent."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bundle_detections import Detections, detections_of, further_inputs
from bundle_image_handler import ImageHandler
from bundle_images import Opened, boxes_to_image
from bundle_instances import ABOUT, FORMATS, laid
from bundle_options import Choice, Number
from bundle_requests import Instance, Prepared


class DetectorHandler(ImageHandler):
    """Answers {"detections": [{"bbox": [x1, y1, x2, y2], "score", "class", "class_index", ("mask")}, ...]}, highest score first."""

    ragged: ClassVar[bool] = True

    def read_configs(self, folder: Path) -> None:
        """Read the JSON files of an export; a model with masks has an option for them."""
        super().read_configs(folder)
        self.options = {"confidence_threshold": Number(float, 0.0, 1.0, "detections with a lower score are left out")}
        if self.postprocess_config.get("masks"):
            self.options["masks"] = Choice(FORMATS, ABOUT)

    def preprocess(self, item: Opened, instance: Instance) -> Prepared:
        """The picture, and what else the graph takes."""
        prepared = super().preprocess(item, instance)
        masks = instance.options.get("masks", "none") != "none"
        further = further_inputs(self._threshold(prepared), masks, self.postprocess_config)
        return replace(prepared, arrays=(*prepared.arrays, *further))

    def postprocess(self, outputs: Any, prepared: list[Prepared]) -> list[Any]:
        """The graph's outputs -> detections in pixels of each image."""
        found = detections_of(outputs, [self._threshold(one) for one in prepared], self.postprocess_config)
        return [{"detections": self._named(one, here)} for one, here in zip(prepared, found, strict=True)]

    def answer_schema(self) -> dict[str, Any]:
        """The detections."""
        properties = {
            "bbox": {
                "type": "array",
                "items": {"type": "number", "minimum": 0},
                "minItems": 4,
                "maxItems": 4,
                "description": "x1, y1, x2, y2 in pixels of the image that was sent",
            },
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "class": {"type": "string", "enum": self.classes},
            "class_index": {"type": "integer", "minimum": 0, "maximum": len(self.classes) - 1},
        }
        required = list(properties)
        if "masks" in self.options:
            properties["mask"] = mask_schema()
        one = {"type": "object", "properties": properties, "required": required}
        most = self.postprocess_config["detections_per_image"]
        detections = {"type": "array", "items": one, "maxItems": most, "description": "highest score first"}
        return {"type": "object", "properties": {"detections": detections}, "required": ["detections"]}

    def _threshold(self, one: Prepared) -> float:
        return float(one.options.get("confidence_threshold", self.postprocess_config["score_threshold"]))

    def _named(self, one: Prepared, found: Detections) -> list[dict[str, Any]]:
        pixels = boxes_to_image(found.boxes, one.size, self.input).astype(np.float64).round(2).tolist()  # to whole hundredths, as text too
        named: list[dict[str, Any]] = [
            {"bbox": box, "score": score, "class": self.classes[label], "class_index": label}
            for box, score, label in zip(pixels, found.scores.tolist(), found.labels.tolist(), strict=True)
        ]
        form = one.options.get("masks", "none")
        if found.masks is not None and form != "none":
            whole = boxes_to_image(found.boxes, one.size, self.input, clip=False)
            for item, mask, box in zip(named, found.masks, whole, strict=True):
                item["mask"] = laid(mask, box, one.size).sent(form)
        return named


def mask_schema() -> dict[str, Any]:
    """One object's mask, in the form that the option `masks` asks for."""
    lengths = [{"type": "array", "items": {"type": "integer", "minimum": 0}}, {"type": "string"}]
    corners = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 6}
    return {
        "type": "object",
        "properties": {
            "size": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
            "counts": {"oneOf": lengths, "description": "masks rle and compressed_rle: COCO's run lengths"},
            "polygons": {"type": "array", "items": corners, "description": "masks polygons: x1, y1, x2, y2, … around each part"},
        },
        "required": ["size"],
        "description": "the pixels of the object, where masks are asked for; size is [height, width] of the image that was sent",
    }
