"""A handler: a classifier that says with each answer whether it is sure, as strictly as the request asks."""

from typing import Any

import numpy as np

from handlers.kinds.classifier import ClassifierPredictor
from handlers.protocol.options import Number
from handlers.protocol.requests import Prepared
from handlers.runtime.export import Export


class CarefulPredictor(ClassifierPredictor):
    def configure(self, export: Export) -> None:
        super().configure(export)
        self.options["sure_from"] = Number(float, 0, 1, "least probability of a sure answer; 0.9 by default")

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        answers = super().postprocess(outputs, prepared)
        for answer, one in zip(answers, prepared, strict=True):
            answer["sure"] = answer["predictions"][0]["probability"] >= one.options.get("sure_from", 0.9)
        return answers

    def answer_schema(self) -> dict[str, Any]:
        schema = super().answer_schema()
        return {**schema, "properties": {**schema["properties"], "sure": {"type": "boolean"}}}


PREDICTOR = CarefulPredictor
