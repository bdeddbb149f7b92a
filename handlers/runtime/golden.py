"""Golden samples: requests with the answers of the model that was trained, and the comparison of answers.

samples/samples.json lists {"name", "file", "content_type", "expect", "answer", "reduced"}; the files lie
beside it. `reduced` says that a worker may compute in bfloat16, whose answers are compared with more
patience.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..inputs.masks import read_mask
from ..protocol.states import contents


class Patience(NamedTuple):
    """What two right answers may differ by."""

    number: float  # relative and absolute; labels, order and counts must be equal
    pixels: float  # of a box's edges, or
    side: float  # this share of its width or height, whichever is more
    mask: float  # share of a mask's pixels; on an outline two classes are equally likely


EXACT = Patience(2e-3, 0.5, 0, 2e-3)  # batch kernels differ in the last bits of float32
REDUCED = Patience(0.05, 2.0, 0.05, 2e-2)  # a bfloat16 has 8 bits


def difference(golden: Any, answer: Any, where: str = "answer", reduced: bool = False) -> str:
    """Where `answer` differs from `golden`, in words; empty when it does not. Numbers may differ a little,
    masks by some pixels; classes that are nearly as probable may have changed places behind the first, and
    detections whose scores are nearly the same.

    Where one is `reduced` in precision they may differ more.
    """
    return _difference(golden, answer, where, REDUCED if reduced else EXACT)


def _difference(golden: Any, answer: Any, where: str, patience: Patience) -> str:
    special = {
        "bbox": _box_difference,
        "embedding": _vector_difference,
        "mask": _mask_difference,
        "state": _state_difference,
    }.get(where.rpartition(".")[2])
    if special and (found := special(golden, answer, where, patience)) is not None:
        return found
    if isinstance(golden, bool) or not isinstance(golden, int | float | dict | list):
        return (
            ""
            if golden == answer and type(golden) is type(answer)
            else f"{where}: {answer!r} instead of {golden!r}"
        )
    if isinstance(golden, int | float):
        close = (
            isinstance(answer, int | float)
            and not isinstance(answer, bool)
            and _close(golden, answer, patience)
        )
        return "" if close else f"{where}: {answer!r} instead of {golden!r}"
    if type(golden) is not type(answer) or len(golden) != len(answer):
        return f"{where}: another form or length than the golden answer's"
    found = _difference_inside(golden, answer, where, patience)
    if not found or not isinstance(golden, list):
        return found
    return "" if _same_but_for_ties(golden, list(answer), where, patience) else found


def _same_but_for_ties(golden: list[Any], answer: list[Any], where: str, patience: Patience) -> bool:
    """Whether classes or detections that are nearly as probable have changed places, and nothing else has
    changed.
    """
    entries = [*golden, *answer]
    if all(isinstance(entry, dict) and {"class", "probability"} <= entry.keys() for entry in entries):
        return not _ranking_difference(golden, answer, where, patience.number)
    if all(isinstance(entry, dict) and "similarity" in entry for entry in entries):
        return _same_similarities(golden, answer, patience.number)
    if not all(isinstance(entry, dict) and {"class", "score", "bbox"} <= entry.keys() for entry in entries):
        return False
    left = list(answer)
    for entry in golden:
        same = next((one for one in left if not _difference(entry, one, where, patience)), None)
        if same is None:
            return False
        left.remove(same)
    return True


def _difference_inside(golden: Any, answer: Any, where: str, patience: Patience) -> str:
    """Of two dicts, or of two lists of one length."""
    if isinstance(golden, dict):
        if set(golden) != set(answer):
            return f"{where}: the keys {sorted(answer)} instead of {sorted(golden)}"
        pairs = {f"{where}.{key}": (golden[key], answer[key]) for key in golden}
    else:
        pairs = {f"{where}[{index}]": pair for index, pair in enumerate(zip(golden, answer, strict=True))}
    if isinstance(golden, dict) and {"pixels", "share"} <= golden.keys():
        pairs.pop(f"{where}.pixels")  # its share says the same, and may differ a little
    return next(filter(None, (_difference(*pair, place, patience) for place, pair in pairs.items())), "")


def _close(left: float, right: float, patience: Patience) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return math.isclose(left, right, rel_tol=patience.number, abs_tol=patience.number)


def _ranking_difference(golden: list[Any], answer: list[Any], where: str, tolerance: float) -> str:
    """As `difference` for classes with their probabilities: the first must be the same, the others nearly
    as probable.
    """
    if golden[0]["class"] != answer[0]["class"]:
        return f"{where}[0].class: {answer[0]['class']!r} instead of {golden[0]['class']!r}"
    if wrong := next((entry for entry in answer if not _is_named(entry, golden)), None):
        return f"{where}: {wrong!r} is named otherwise"
    one, other = ({entry["class"]: entry["probability"] for entry in ranking} for ranking in (golden, answer))
    for name in {**one, **other}:  # one that is not listed is at most as probable as the last that is
        left, right = one.get(name, min(one.values())), other.get(name, min(other.values()))
        if not abs(left - right) <= tolerance:
            return f"{where}: {name!r} has {right:.4g} instead of {left:.4g}"
    return ""


def _is_named(entry: Any, golden: list[Any]) -> bool:
    """Whether an entry of a ranking has the same class index as the golden one of its class, if there is
    one.
    """
    return all(
        entry["class_index"] == known["class_index"] for known in golden if known["class"] == entry["class"]
    )


def _same_similarities(golden: list[Any], answer: list[Any], tolerance: float) -> bool:
    """Whether two lists of what is most similar differ by entries alone that are as similar as others."""

    def by_entry(entries: list[Any]) -> dict[str, float]:
        return {
            repr({key: value for key, value in entry.items() if key != "similarity"}): entry["similarity"]
            for entry in entries
        }

    one, other = by_entry(golden), by_entry(answer)
    names = {**one, **other}  # one that is not listed is at most as similar as the last that is
    pairs = [(one.get(name, min(one.values())), other.get(name, min(other.values()))) for name in names]
    return all(abs(left - right) <= tolerance for left, right in pairs)


def _vector_difference(golden: Any, answer: Any, where: str, patience: Patience) -> str | None:
    """As `difference` for unit vectors, by their distance; None where `golden` is none."""
    if not isinstance(golden, list) or not isinstance(answer, list) or len(golden) != len(answer):
        return None
    distance = float(np.linalg.norm(np.subtract(golden, answer)))
    return "" if distance <= 2 * patience.number else f"{where}: a vector at the distance {distance:.3g}"


def _box_difference(golden: Any, answer: Any, where: str, patience: Patience) -> str | None:
    """As `difference` for x1, y1, x2, y2 in pixels; None where one of the two is no such box."""
    if not all(
        isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)
        for box in (golden, answer)
    ):
        return None
    sides = (golden[2] - golden[0], golden[3] - golden[1])
    for index, (left, right) in enumerate(zip(golden, answer, strict=True)):
        if not abs(left - right) <= max(patience.pixels, patience.side * sides[index % 2]):
            return f"{where}[{index}]: {right!r} instead of {left!r}"
    return ""


def _mask_difference(golden: Any, answer: Any, where: str, patience: Patience) -> str | None:
    """As `difference` for two masks; None where `golden` is none."""
    one, other = read_mask(golden), read_mask(answer)
    if one is None:
        return None
    if other is None or one.shape != other.shape or type(golden) is not type(answer):
        return f"{where}: another form or size than the golden answer's"
    share = float((one != other).mean())
    return f"{where}: {share:.2%} of its pixels differ" if share > patience.mask else ""


def _state_difference(golden: Any, answer: Any, where: str, patience: Patience) -> str | None:
    """As `difference` for what two policies remember; None where `golden` is no state."""
    one, other = contents(golden), contents(answer)
    if one is None:
        return None
    if (
        other is None
        or one[0] != other[0]
        or one[1].shape != other[1].shape
        or one[1].dtype != other[1].dtype
    ):
        return f"{where}: another step or form than the golden answer's"
    close = (
        np.allclose(one[1], other[1], patience.number, patience.number)
        if one[1].dtype.kind == "f"
        else np.array_equal(one[1], other[1])
    )
    return "" if close else f"{where}: it remembers other values"
