"""Intervals around a value: split conformal prediction.

Sources: Papadopoulos et al. 2002, "Inductive Confidence Machines for Regression"; Lei et al. 2018,
"Distribution-Free Predictive Inference for Regression", section 2.2 and theorem 2.
"""

import math

import numpy as np

from marina.core.errors import CallError


def half_width(residuals: np.ndarray, coverage: float) -> float:
    """How far from the value the true one lies at most, in at least the share `coverage` of new rows that are
    drawn like these: the ceil((n + 1) coverage)-th smallest of the n absolute residuals [n].

    The rows must not have been learned from. Raises CallError where they are too few for the coverage.
    """
    count = len(residuals)
    rank = math.ceil((count + 1) * coverage)
    if rank > count:
        least = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise CallError(
            f"coverage: {coverage:g} needs {least:,} rows that nothing is learned from, and there are "
            f"{count:,}; raise calibration, give more rows, or coverage: null for values alone"
        )
    return float(np.sort(np.abs(residuals))[rank - 1])
