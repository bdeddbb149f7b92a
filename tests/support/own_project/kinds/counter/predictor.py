"""Answers requests of the kind `counter`: numbers -> their weighted sum."""

from typing import Any

import numpy as np

from handlers.inputs.payloads import numbers_of, only_key
from handlers.protocol.requests import Instance, Prepared
from handlers.runtime.export import Export
from handlers.runtime.predictor import Predictor

from .words import ABOUT


class CounterPredictor(Predictor):
    """Takes {"numbers": [...]} and answers {"sum": number}."""

    reduced_precision_instances = None

    def configure(self, export: Export) -> None:
        """Take how many numbers there are from the export."""
        super().configure(export)
        self.count = int(export.preprocess["count"])

    def decode(self, instance: Instance) -> np.ndarray:
        """The numbers. Raises BadRequest for anything else."""
        numbers = numbers_of(only_key(instance.payload, "numbers"), (self.count,), "numbers")
        return numbers.astype(np.float32)

    def preprocess(self, item: np.ndarray, instance: Instance) -> Prepared:
        """The numbers as they are."""
        return Prepared((item,), instance.options)

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """One sum per row of the graph's output [B, 1]."""
        return [{"sum": float(row[0])} for row in outputs]

    def explanation(self, item: np.ndarray, prepared: Prepared) -> Any:
        """What each number adds: the difference that leaving it out makes."""
        whole = self.model(item[None])[0, 0]
        without = self.model(item[None] * (1 - np.eye(self.count, dtype=np.float32)))[:, 0]
        return {"contributions": [float(whole - value) for value in without]}

    def request_schema(self) -> dict[str, Any]:
        """The numbers."""
        numbers = {
            "type": "array",
            "items": {"type": "number"},
            "minItems": self.count,
            "maxItems": self.count,
        }
        return {
            "type": "object",
            "properties": {"numbers": {**numbers, "description": ABOUT}},
            "required": ["numbers"],
        }

    def answer_schema(self) -> dict[str, Any]:
        """The sum."""
        return {"type": "object", "properties": {"sum": {"type": "number"}}, "required": ["sum"]}

    def explanation_schema(self) -> dict[str, Any]:
        """A number for each number."""
        numbers = {"type": "array", "items": {"type": "number"}}
        return {"type": "object", "properties": {"contributions": numbers}, "required": ["contributions"]}


PREDICTOR = CounterPredictor
