"""Serves image classifiers: logits -> the most probable classes."""

from typing import Any, ClassVar

import torch

from bundle_handler import Decoded
from bundle_image_handler import ImageHandler
from bundle_requests import Option


class ClassifierHandler(ImageHandler):
    """Answers {"predictions": [{"class", "probability", "class_index"}, ...]}, most probable first."""

    options: ClassVar[dict[str, Option]] = {"top_k": Option(int, 1, 1000)}

    def postprocess(self, outputs: torch.Tensor, decoded: list[Decoded], options: list[dict[str, Any]]) -> list[Any]:
        """Logits [B, classes] -> the `top_k` best classes of each row."""
        probabilities, order = outputs.float().softmax(dim=1).sort(dim=1, descending=True, stable=True)
        default = int(self.postprocess_config["top_k"])
        answers = []
        for row, indices, chosen in zip(probabilities.tolist(), order.tolist(), options, strict=True):
            best = list(zip(row, indices, strict=True))[: chosen.get("top_k", default)]
            answers.append({"predictions": [{"class": self.classes[i], "probability": p, "class_index": i} for p, i in best]})
        return answers
