"""What the tool must know of the kind `counter`."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from marina.core.spec import Spec
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress


class Error:
    """The mean absolute error on numbers that training has not seen."""

    is_recorded = True

    def __init__(self, spec: Spec) -> None:
        self.rows = np.random.default_rng(spec.training.seed + 1).normal(size=(40, 4))

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Ask for every row."""
        bodies = [(json.dumps({"numbers": row.tolist()}).encode(), "application/json") for row in self.rows]
        answers = answer(list(progress(bodies)), {})
        errors = [abs(one["sum"] - row.sum()) for one, row in zip(answers, self.rows, strict=True)]
        return Measured({"mean_absolute_error": float(np.mean(errors)), "rows": len(errors)})

    def compare(self, served: Measured, local: Measured) -> Mapping[str, Any]:
        """Nothing more."""
        return {}


class CounterKind(Kind):
    """Numbers -> their sum."""

    def summarize(self, content: Any) -> str:
        """The sum."""
        return f"{content['sum']:.2f}"

    def same_decision(self, one: Any, other: Any) -> bool:
        """Whether both sums are the same to a tenth."""
        return abs(one["sum"] - other["sum"]) < 0.1

    def measurement(self, spec: Spec, options: MeasurementOptions) -> Error:
        """On numbers that training has not seen."""
        return Error(spec)


KIND = CounterKind()
