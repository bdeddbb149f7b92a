"""Serves image classifiers: logits -> the classes, answer first, and where in the picture the evidence lies."""

import io
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bundle_decision import Decision, ranked
from bundle_explanations import GradCam, on_image, overlay
from bundle_handler import Picture, Prepared
from bundle_image_handler import ImageHandler
from bundle_images import view_of
from bundle_options import Choice, Number


class ClassifierHandler(ImageHandler):
    """Answers {"predictions": [{"class", "probability", "class_index"}, ...]}, most probable first.

    An export may carry a decision (`bundle_decision`): then the class that it decides for comes first, whatever its probability.
    """

    def read_configs(self, folder: Path) -> None:
        """Read the JSON files of an export; options are bounded by the number of classes."""
        super().read_configs(folder)
        self.decision = Decision.from_config(self.postprocess_config)
        self.options = {"top_k": Number(int, 1, 1000, "so many classes at most; all when there are fewer")}
        self.explain_options = {
            "class_index": Number(int, 0, len(self.classes) - 1, "the class to explain; by default the one that is answered"),
            "format": Choice(("json", "png"), "json: the heat on a grid over the picture; png: laid over the picture"),
        }

    @cached_property
    def grad_cam(self) -> GradCam:
        """Made at the first explanation; most workers never explain anything."""
        return GradCam(self.graph)

    def postprocess(self, outputs: torch.Tensor, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, classes] -> the `top_k` best classes of each row."""
        probabilities = outputs.float().softmax(dim=1)
        order = ranked(probabilities, self.decision)
        probabilities = probabilities.gather(1, order)
        default = int(self.postprocess_config["top_k"])
        answers = []
        for row, indices, one in zip(probabilities.tolist(), order.tolist(), prepared, strict=True):
            best = list(zip(row, indices, strict=True))[: one.options.get("top_k", default)]
            answers.append({"predictions": [self._named(index, probability) for probability, index in best]})
        return answers

    def explanation(self, item: Image.Image, prepared: Prepared) -> Any:
        """Grad-CAM of one class: the heat on a grid over the picture that was sent, or laid over that picture as PNG."""
        image = torch.as_tensor(prepared.tensors[0])[None].to(self.device)
        chosen = prepared.options.get("class_index")
        if chosen is None and self.decision:
            with torch.inference_mode():
                chosen = int(self.decision.decided(self.model(image).float().softmax(dim=1)))
        heat = self.grad_cam(image, chosen)
        view = view_of(item, self.input)
        if prepared.options.get("format") == "png":
            buffer = io.BytesIO()
            overlay(item, heat.values, view).save(buffer, "PNG")
            return Picture(buffer.getvalue(), "image/png")
        probability = float(heat.logits.float().softmax(dim=-1).flatten()[heat.target])
        grid = [[round(value, 4) for value in row] for row in on_image(heat.values, view, item.size).tolist()]
        return {**self._named(heat.target, probability), "method": heat.method, "heat_map": grid}

    def answer_schema(self) -> dict[str, Any]:
        """The predictions."""
        one = {"type": "object", "properties": self._named_schema(), "required": ["class", "probability", "class_index"]}
        predictions = {"type": "array", "items": one, "minItems": 1, "description": self._order_in_words()}
        return {"type": "object", "properties": {"predictions": predictions}, "required": ["predictions"]}

    def explanation_schema(self) -> dict[str, Any]:
        """The class that is explained, and the heat map."""
        row = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
        about = "rows of equal cells over the whole picture; the class rests on the high ones"
        heat_map = {"type": "array", "items": row, "description": about}
        method = {"type": "string", "enum": ["grad-cam", "saliency"]}
        properties = {**self._named_schema(), "method": method, "heat_map": heat_map}
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _order_in_words(self) -> str:
        if self.decision is None:
            return "most probable first"
        name = self.classes[self.decision.class_index]
        return f"{name} first from probability {self.decision.threshold:.3g} on; the rest most probable first"

    def _named(self, index: int, probability: float) -> dict[str, Any]:
        return {"class": self.classes[index], "probability": probability, "class_index": index}

    def _named_schema(self) -> dict[str, Any]:
        return {
            "class": {"type": "string", "enum": self.classes},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "class_index": {"type": "integer", "minimum": 0, "maximum": len(self.classes) - 1},
        }
