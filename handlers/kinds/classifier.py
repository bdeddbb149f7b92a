"""Serves image classifiers: logits -> the classes, answer first, or the labels, and where in the picture the
evidence lies.
"""

import io
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..inputs.images import Opened, view_of
from ..protocol.options import Choice, Number
from ..protocol.replies import Picture
from ..protocol.requests import Prepared
from ..runtime.export import Export
from .classes import softmax
from .image import ImagePredictor
from .labels import LabelPredictor

if TYPE_CHECKING:
    from .explanations import GradCam


class ClassifierPredictor(LabelPredictor, ImagePredictor):
    """Answers `ClassAnswers` or `LabelAnswers`, and explains them."""

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export; options are bounded by the number of classes."""
        super().configure(export)
        self.explain_options = {
            "class_index": Number(
                int, 0, len(self.labels) - 1, "the class to explain; by default the one that is answered"
            ),
            "format": Choice(
                ("json", "png"), "json: the heat on a grid over the picture; png: laid over the picture"
            ),
        }

    @cached_property
    def grad_cam(self) -> "GradCam":
        """Made at the first explanation; most workers never explain anything, and never read torch."""
        from .explanations import GradCam

        return GradCam(self.graph)

    def explanation(self, item: Opened, prepared: Prepared) -> Any:
        """Grad-CAM of one class: the heat on a grid over the picture that was sent, or laid over that
        picture as PNG.
        """
        import torch

        from .explanations import on_image, overlay

        pixels = prepared.arrays[0][None]
        chosen = prepared.options.get("class_index")
        decision = self.answers.decision
        if chosen is None and decision:
            chosen = int(decision.decided(softmax(self.model(pixels)))[0])
        heat = self.grad_cam(torch.from_numpy(pixels).to(self.device), chosen)
        view = view_of(item.image, self.input)
        if prepared.options.get("format") == "png":
            buffer = io.BytesIO()
            overlay(item.image, heat.values, view).save(buffer, "PNG")
            return Picture(buffer.getvalue(), "image/png")
        logits = heat.logits.float().numpy().reshape(1, -1)
        probability = float(self.answers.probabilities(logits)[0, heat.target])
        grid = [[round(value, 4) for value in row] for row in on_image(heat.values, view, item.size).tolist()]
        return {**self.answers.named(heat.target, probability), "method": heat.method, "heat_map": grid}

    def explanation_schema(self) -> dict[str, Any]:
        """The class that is explained, and the heat map."""
        row = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
        about = "rows of equal cells over the whole picture; the class rests on the high ones"
        heat_map = {"type": "array", "items": row, "description": about}
        method = {"type": "string", "enum": ["grad-cam", "saliency"]}
        properties = {**self.answers.named_schema(), "method": method, "heat_map": heat_map}
        return {"type": "object", "properties": properties, "required": list(properties)}


PREDICTOR = ClassifierPredictor
