"""Serves classifiers of table rows: the classes with their probabilities, answer first.

{"radius": 17.9, "texture": 10.4}    -> {"predictions": [{"class", "probability", "class_index"}, ...]}
"""

from typing import Any, ClassVar

import numpy as np

from ..protocol.requests import Prepared
from .classes import ClassPredictor, softmax
from .tables import TablePredictor


class TabularClassifierPredictor(TablePredictor, ClassPredictor):
    """Answers `ClassAnswers`."""

    reduced_precision_instances: ClassVar[int | None] = None

    def explained(self, outputs: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """The probability of the class that is answered."""
        probabilities = softmax(outputs).astype(np.float64)
        (answer,) = self.answers.of(outputs[:1], [Prepared((), {"top_k": 1})])
        return probabilities[:, answer["predictions"][0]["class_index"]], answer["predictions"][0]

    def explained_schema(self) -> dict[str, Any]:
        """The class."""
        return self.answers.named_schema()


PREDICTOR = TabularClassifierPredictor
