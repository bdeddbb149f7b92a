"""Golden samples: requests with the answers of the model that was trained, and the comparison of answers.

samples/samples.json lists {"name", "file", "content_type", "expect", "answer"}; the files lie beside it.
"""

import json
import math
from pathlib import Path
from typing import Any

FOLDER = "samples"
INDEX = "samples.json"
TOLERANCE = 2e-3  # batch kernels differ in the last bits of float32; labels, order and counts must be equal
PIXELS = 0.5  # and boxes, in pixels
MASK_SHARE = 2e-3  # of a mask's pixels; on an outline two classes are equally likely


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The samples of an export or an unpacked archive, each with its request's bytes under "body"."""
    samples: list[dict[str, Any]] = json.loads((folder / FOLDER / INDEX).read_text(encoding="utf-8"))
    return [{**sample, "body": (folder / FOLDER / sample["file"]).read_bytes()} for sample in samples]


def difference(golden: Any, answer: Any, where: str = "answer", tolerance: float = TOLERANCE) -> str:
    """Where `answer` differs from `golden`, in words; empty when it does not. Numbers may differ by the tolerance, masks by some pixels."""
    if where.endswith(".mask") and (found := _mask_difference(golden, answer, where)) is not None:
        return found
    if isinstance(golden, bool) or not isinstance(golden, int | float | dict | list):
        return "" if golden == answer and type(golden) is type(answer) else f"{where}: {answer!r} instead of {golden!r}"
    if isinstance(golden, int | float):
        close = isinstance(answer, int | float) and not isinstance(answer, bool) and _close(golden, answer, tolerance)
        return "" if close else f"{where}: {answer!r} instead of {golden!r}"
    if type(golden) is not type(answer) or len(golden) != len(answer):
        return f"{where}: another form or length than the golden answer's"
    if isinstance(golden, dict):
        if set(golden) != set(answer):
            return f"{where}: the keys {sorted(answer)} instead of {sorted(golden)}"
        pairs = {f"{where}.{key}": (golden[key], answer[key]) for key in golden}
    else:
        pairs = {f"{where}[{index}]": pair for index, pair in enumerate(zip(golden, answer, strict=True))}
    if isinstance(golden, dict) and {"pixels", "share"} <= golden.keys():
        pairs.pop(f"{where}.pixels")  # its share says the same, and may differ a little
    differences = (difference(*pair, place, PIXELS if place.endswith("bbox") else tolerance) for place, pair in pairs.items())
    return next(filter(None, differences), "")


def _close(left: float, right: float, tolerance: float) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    relative = 0.0 if tolerance == PIXELS else tolerance
    return math.isclose(left, right, rel_tol=relative, abs_tol=tolerance)


def _mask_difference(golden: Any, answer: Any, where: str) -> str | None:
    """As `difference` for two masks; None where `golden` is none."""
    from bundle_masks import read_mask  # it needs torch, which the tools that compare other answers start without

    one, other = read_mask(golden), read_mask(answer)
    if one is None:
        return None
    if other is None or one.shape != other.shape or type(golden) is not type(answer):
        return f"{where}: another form or size than the golden answer's"
    share = float((one != other).mean())
    return f"{where}: {share:.2%} of its pixels differ" if share > MASK_SHARE else ""
