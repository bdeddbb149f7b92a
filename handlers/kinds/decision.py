"""Which class is answered first: the most probable one, or one that is to be found surely from a lower
probability on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Decision:
    """Class `class_index` is the answer where its probability is at least `threshold`, otherwise the most
    probable of the others.

    Probabilities are not touched: they keep their meaning, and the first class of an answer may be the less
    probable one.
    """

    class_index: int
    threshold: float  # 0..1

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Decision | None":
        """What postprocess_config.json says under "decision"; None where it says nothing and the most
        probable class is the answer.
        """
        said = config.get("decision")
        return cls(int(said["class_index"]), float(said["threshold"])) if said else None

    def decided(self, probabilities: np.ndarray) -> np.ndarray:
        """The answer of each row of [B, classes], int64 [B]."""
        own = probabilities[:, self.class_index]
        others = probabilities.copy()
        others[:, self.class_index] = -1
        return np.where(own >= self.threshold, self.class_index, others.argmax(1))


def ranked(probabilities: np.ndarray, decision: Decision | None) -> np.ndarray:
    """The classes of each row of [B, classes], int64 [B, classes]: the answer first, then by probability."""
    order = probabilities
    if decision:
        order = probabilities.copy()
        np.put_along_axis(order, decision.decided(probabilities)[:, None], 2.0, 1)
    return np.argsort(-order, axis=1, kind="stable")
