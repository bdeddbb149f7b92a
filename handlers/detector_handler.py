"""Serves object detectors: candidates of the graph -> boxes, in pixels of the image that was sent."""

from typing import Any, ClassVar

import torch

from bundle_detections import select
from bundle_handler import Prepared
from bundle_image_handler import ImageHandler
from bundle_images import boxes_to_image
from bundle_options import Number


class DetectorHandler(ImageHandler):
    """Answers {"detections": [{"bbox": [x1, y1, x2, y2], "score", "class", "class_index"}, ...]}, highest score first."""

    ragged: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.options = {"confidence_threshold": Number(float, 0.0, 1.0, "detections with a lower score are left out")}

    def postprocess(self, outputs: Any, prepared: list[Prepared]) -> list[Any]:
        """(boxes [B, A, 4], scores [B, A, classes]) -> thresholds, non-maximum suppression, pixels of the image."""
        settings = {key: value for key, value in self.postprocess_config.items() if key != "type"}
        answers = []
        for boxes, scores, one in zip(*outputs, prepared, strict=True):
            threshold = one.options.get("confidence_threshold", settings["score_threshold"])
            found = select(boxes, scores, **{**settings, "score_threshold": threshold})
            answers.append({"detections": self._named(one, *found)})
        return answers

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
        one = {"type": "object", "properties": properties, "required": list(properties)}
        most = self.postprocess_config["detections_per_image"]
        detections = {"type": "array", "items": one, "maxItems": most, "description": "highest score first"}
        return {"type": "object", "properties": {"detections": detections}, "required": ["detections"]}

    def _named(self, one: Prepared, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
        pixels = boxes_to_image(boxes, one.size, self.input).tolist()
        return [
            {"bbox": [round(edge, 2) for edge in box], "score": score, "class": self.classes[label], "class_index": label}
            for box, score, label in zip(pixels, scores.tolist(), labels.tolist(), strict=True)
        ]
