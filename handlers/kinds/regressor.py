"""Serves regressors of table rows: a number, and the interval in which the true one lies.

    {"age": 63, "sex": "f"}    -> {"value": 152.1, "lower": 61.4, "upper": 242.8}

postprocess_config.json has the interval's half width, from rows that nothing was learned from (split
conformal prediction, `training.tables.conformal`), and its coverage; without them the value stands alone.
"""

from typing import Any

import numpy as np

from ..protocol.requests import Prepared
from .tables import TablePredictor


class RegressorPredictor(TablePredictor):
    """Answers {"value", "lower", "upper"}."""

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Values float32 [B] -> one answer each."""
        width = self.export.postprocess.get("half_width")
        if width is None:
            return [{"value": value} for value in outputs.tolist()]
        return [
            {"value": value, "lower": value - width, "upper": value + width} for value in outputs.tolist()
        ]

    def explained(self, outputs: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """The value."""
        return outputs.astype(np.float64), {}

    def answer_schema(self) -> dict[str, Any]:
        """The value, and the interval's ends."""
        config = self.export.postprocess
        unit = {"description": f"in {config['unit']}"} if config.get("unit") else {}
        number = {"type": "number", "format": "double", **unit}
        names = ["value"] if config.get("half_width") is None else ["value", "lower", "upper"]
        return {"type": "object", "properties": dict.fromkeys(names, number), "required": names}


PREDICTOR = RegressorPredictor
