"""Serves object detectors: what the graph found -> boxes, and masks if asked for, in pixels of the image
that was sent.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ..inputs.images import Opened, boxes_to_image
from ..inputs.masks import COUNTS_SCHEMA, POLYGON_SCHEMA, SIZE_SCHEMA
from ..protocol.options import Choice, Number
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from .detections import GUESS, Detections, box_iou, detections_of, further_inputs, partners
from .image import ImagePredictor
from .instance_masks import ABOUT, FORMATS, place_mask


class DetectorPredictor(ImagePredictor):
    """Answers {"detections": [{"bbox": [x1, y1, x2, y2], "score", "class", "class_index", ("mask")},
    ...]}, highest score first.
    """

    ragged: ClassVar[bool] = True
    expectation: ClassVar[tuple[str, str]] = ("detections", "detections")
    reduced_precision_instances: ClassVar[int | None] = 16  # each has many answers
    agreement_options: ClassVar[Mapping[str, Any]] = {"confidence_threshold": GUESS}

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export; a model with masks has an option for them."""
        super().configure(export)
        self.options = {
            "confidence_threshold": Number(float, 0.0, 1.0, "detections with a lower score are left out")
        }
        if self.export.postprocess.get("masks"):
            self.options["masks"] = Choice(FORMATS, ABOUT)

    def preprocess(self, item: Opened, instance: Instance) -> Prepared:
        """The picture, and what else the graph takes."""
        prepared = super().preprocess(item, instance)
        masks = instance.options.get("masks", "none") != "none"
        further = further_inputs(self._threshold(prepared), masks, self.export.postprocess)
        return replace(prepared, arrays=(*prepared.arrays, *further))

    def postprocess(self, outputs: Any, prepared: list[Prepared]) -> list[Any]:
        """The graph's outputs -> detections in pixels of each image."""
        found = detections_of(outputs, [self._threshold(one) for one in prepared], self.export.postprocess)
        return [{"detections": self._named(one, here)} for one, here in zip(prepared, found, strict=True)]

    @classmethod
    def contradiction(cls, expected: Any, part: Any) -> str:
        """{"detections": [...]} expects exactly these objects: each with its class and an intersection over
        union of at least 0.5.
        """
        left = list(part)
        for item in expected:
            same = [found for found in left if found["class"] == item["class"]]
            best = max(same, key=lambda found: box_iou(found["bbox"], item["bbox"]), default=None)
            if best is None or box_iou(best["bbox"], item["bbox"]) < 0.5:
                return f"no {item['class']!r} at {[round(edge) for edge in item['bbox']]}"
            left.remove(best)
        return f"{len(left)} more than expected, the first a {left[0]['class']!r}" if left else ""

    def same_answer(self, one: Any, other: Any, certain: float) -> float:
        """Share of the detections above `certain` that have a partner in the other answer (`partners`)."""
        return partners(one["detections"], other["detections"], certain)

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
            "class": {"type": "string", "enum": self.labels},
            "class_index": {"type": "integer", "minimum": 0, "maximum": len(self.labels) - 1},
        }
        required = list(properties)
        if "masks" in self.options:
            properties["mask"] = mask_schema()
        one = {"type": "object", "properties": properties, "required": required}
        most = self.export.postprocess["detections_per_image"]
        detections = {"type": "array", "items": one, "maxItems": most, "description": "highest score first"}
        return {"type": "object", "properties": {"detections": detections}, "required": ["detections"]}

    def _threshold(self, one: Prepared) -> float:
        return float(one.options.get("confidence_threshold", self.export.postprocess["score_threshold"]))

    def _named(self, one: Prepared, found: Detections) -> list[dict[str, Any]]:
        # to whole hundredths, as text too
        pixels = boxes_to_image(found.boxes, one.size, self.input).astype(np.float64).round(2).tolist()
        named: list[dict[str, Any]] = [
            {"bbox": box, "score": score, "class": self.labels[label], "class_index": label}
            for box, score, label in zip(pixels, found.scores.tolist(), found.labels.tolist(), strict=True)
        ]
        form = one.options.get("masks", "none")
        if found.masks is not None and form != "none":
            whole = boxes_to_image(found.boxes, one.size, self.input, clip=False)
            for item, mask, box in zip(named, found.masks, whole, strict=True):
                item["mask"] = place_mask(mask, box, one.size).sent(form)
        return named


def mask_schema() -> dict[str, Any]:
    """One object's mask, in the form that the option `masks` asks for."""
    return {
        "type": "object",
        "properties": {
            "size": SIZE_SCHEMA,
            "counts": {**COUNTS_SCHEMA, "description": "masks rle and compressed_rle: COCO's run lengths"},
            "polygons": {
                "type": "array",
                "items": POLYGON_SCHEMA,
                "description": "masks polygons: x1, y1, x2, y2, … around each part",
            },
        },
        "required": ["size"],
        "description": (
            "the pixels of the object, where masks are asked for; size is [height, width] of the image "
            "that was sent"
        ),
    }


PREDICTOR = DetectorPredictor
