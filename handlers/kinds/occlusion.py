"""What an answer rests on: a class's log-odds with and without each part of a text (Zeiler and Fergus 2014,
section 4.2, for words instead of squares of a picture). Probabilities near 0 and 1 would hide it.
"""

from collections.abc import Callable

import numpy as np

from ..inputs.tokenization import UNKNOWN

PARTS = 512  # of a text; neighbors of a longer one are left out together, so that its time is bounded


def occlusions(log_odds: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, most: int) -> list[float]:
    """By how much the log-odds fall without each of the tokens int64 [length].

    `log_odds` takes tokens int64 [B, length], at most `most` rows at once, and gives float64 [B]. A text of
    one token keeps UNKNOWN in its place.
    """
    whole = float(log_odds(tokens[None])[0])
    if len(tokens) == 1:
        return [whole - float(log_odds(np.array([[UNKNOWN]]))[0])]
    parts = np.array_split(np.arange(len(tokens)), min(len(tokens), PARTS))
    falls = np.zeros(len(tokens))
    for size in sorted({len(part) for part in parts}):
        same = [part for part in parts if len(part) == size]
        for start in range(0, len(same), most):
            left_out = same[start : start + most]
            rows = np.stack([np.delete(tokens, part) for part in left_out])
            for part, odds in zip(left_out, log_odds(rows).tolist(), strict=True):
                falls[part] = (whole - odds) / size
    return falls.tolist()  # type: ignore[no-any-return]
