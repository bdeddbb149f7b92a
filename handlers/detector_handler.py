"""Serves object detectors: candidates of the graph -> boxes, in pixels of the image that was sent."""

from typing import Any, ClassVar

import torch

from bundle_detections import select
from bundle_handler import Decoded
from bundle_image_handler import ImageHandler
from bundle_images import boxes_to_image
from bundle_requests import Option


class DetectorHandler(ImageHandler):
    """Answers {"detections": [{"bbox": [x1, y1, x2, y2], "score", "class", "class_index"}, ...]}, highest score first."""

    options: ClassVar[dict[str, Option]] = {"confidence_threshold": Option(float, 0.0, 1.0)}

    def postprocess(self, outputs: Any, decoded: list[Decoded], options: list[dict[str, Any]]) -> list[Any]:
        """(boxes [B, A, 4], scores [B, A, classes]) -> thresholds, non-maximum suppression, pixels of the image."""
        settings = {key: value for key, value in self.postprocess_config.items() if key != "type"}
        answers = []
        for boxes, scores, item, chosen in zip(*outputs, decoded, options, strict=True):
            threshold = chosen.get("confidence_threshold", settings["score_threshold"])
            found = select(boxes, scores, **{**settings, "score_threshold": threshold})
            answers.append({"detections": self._describe(item, *found)})
        return answers

    def _describe(self, item: Decoded, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
        pixels = boxes_to_image(boxes, item.size, self.input).tolist()
        return [
            {"bbox": [round(edge, 2) for edge in box], "score": score, "class": self.classes[label], "class_index": label}
            for box, score, label in zip(pixels, scores.tolist(), labels.tolist(), strict=True)
        ]
