"""What the kinds share that are measured by one JSON request per example of held-out data."""

import json
from typing import Any, ClassVar

import numpy as np

from marina.core.errors import WorkError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Measured, Progress

SAME = 1e-3  # that values of two runs may differ by, relative to the largest


class RequestMeasurement:
    """Sends a request per example, and scores the answers; a subclass reads the examples."""

    at_once: ClassVar[int] = 32  # requests that are sent together
    is_recorded: bool

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        """Read the examples: `data` is what the model learned from where `is_recorded`. Raises CallError."""
        self.is_recorded = is_recorded

    def requests(self) -> list[Any]:
        """The bodies, to be written as JSON."""
        raise NotImplementedError

    def score(self, answers: list[Any]) -> Measured:
        """Metrics of the answers, in the order of the requests."""
        raise NotImplementedError

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Metrics of what comes back."""
        bodies = [
            (json.dumps(one, ensure_ascii=False).encode(), "application/json") for one in self.requests()
        ]
        answers: list[Any] = []
        for start in progress(range(0, len(bodies), self.at_once)):
            answers += answer(bodies[start : start + self.at_once], {})
        return self.score(answers)

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """Nothing: their metrics stand side by side."""
        return {}


def largest_difference(served: Any, local: Any) -> float:
    """Between two arrays of answers, relative to the largest value, or absolute where all are below 1. Raises
    WorkError where it is above SAME.
    """
    one, other = np.array(served), np.array(local)
    worst = float(np.abs(one - other).max(initial=0)) / max(1.0, float(np.abs(other).max(initial=0)))
    if worst > SAME:
        raise WorkError(f"the endpoint's answers are off by {worst:.3g} from those of this process")
    return worst
