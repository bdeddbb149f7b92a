"""The golden samples on the client's side: does an answer say what the spec expects, and how to show both in a table."""

from collections import Counter
from typing import Any

Box = list[float]
AREA = 0.05  # of the picture, that an area may be larger or smaller than expected
ANSWERED_BY = {"class": "predictions", "detections": "detections", "areas": "areas", "action": "action"}  # expectation -> key of the answer


def mismatch(expect: dict[str, Any], answer: Any) -> str:
    """In words, where `answer` is not what `expect` says; empty when it is.

    {"class": name} asks for the most probable class; {"detections": [...]} for exactly these objects, each with its class
    and an intersection over union of at least 0.5; {"areas": {class: share}} for these classes' shares of the picture, to 0.05;
    {"action": value} for the action, to 1e-3 where it is continuous.
    """
    if not isinstance(answer, dict):
        return f"no JSON object: {str(answer)[:80]}"
    asked = [key for key in ANSWERED_BY if key in expect]
    if not asked or ANSWERED_BY[asked[0]] not in answer:
        return f"expected {', '.join(expect)}, but the answer has {', '.join(answer)}; expect one of {', '.join(ANSWERED_BY)}"
    if "class" in expect:
        found = answer["predictions"][0]["class"]
        return "" if found == expect["class"] else f"class {found!r} instead of {expect['class']!r}"
    if "detections" in expect:
        return _detections(expect["detections"], answer["detections"])
    if "areas" in expect:
        return _areas(expect["areas"], answer["areas"])
    return "" if _same_action(expect["action"], answer["action"]) else f"action {answer['action']} instead of {expect['action']}"


def short(content: dict[str, Any]) -> str:
    """An expectation or an answer in a few characters."""
    if "predictions" in content:
        best = content["predictions"][0]
        return f"{best['class']} ({best['probability']:.3f})" if "class" in best else f"{len(content['predictions'])} answers"
    if "detections" in content:
        counts = Counter(str(item["class"]) for item in content["detections"])
        return " ".join(name if count == 1 else f"{name}×{count}" for name, count in sorted(counts.items())) or "nothing"
    if "areas" in content:
        areas = content["areas"]
        shares = areas if isinstance(areas, dict) else {one["class"]: one["share"] for one in areas}
        return " ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
    if "class" in content:
        return str(content["class"])
    action = content.get("action")
    values = content.get("q_values") or content.get("probabilities") or []
    return f"{action}" + (f" (q {' '.join(f'{value:.1f}' for value in values)})" if values and len(values) <= 4 else "")


def intersection_over_union(one: Box, two: Box) -> float:
    """Of two boxes [x1, y1, x2, y2]; 0 when they don't touch."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(0.0, width) * max(0.0, height)
    total = (one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1]) - shared
    return shared / total if total > 0 else 0.0


def _detections(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    left = list(found)
    for item in expected:
        same = [one for one in left if one["class"] == item["class"]]
        best = max(same, key=lambda one: intersection_over_union(one["bbox"], item["bbox"]), default=None)
        if best is None or intersection_over_union(best["bbox"], item["bbox"]) < 0.5:
            return f"no {item['class']!r} at {[round(edge) for edge in item['bbox']]}"
        left.remove(best)
    return f"{len(left)} more than expected, the first a {left[0]['class']!r}" if left else ""


def _areas(expected: dict[str, float], found: list[dict[str, Any]]) -> str:
    shares = {one["class"]: one["share"] for one in found}
    wrong = [name for name, share in expected.items() if not abs(shares.get(name, -1.0) - share) <= AREA]
    return f"{wrong[0]!r} covers {shares.get(wrong[0], 0.0):.3f} of the picture instead of {expected[wrong[0]]:.3f}" if wrong else ""


def _same_action(expected: Any, action: Any) -> bool:
    if isinstance(expected, list) and isinstance(action, list):
        return len(expected) == len(action) and all(map(_same_action, expected, action))
    if isinstance(expected, int) and isinstance(action, int):
        return expected == action
    return isinstance(action, int | float) and isinstance(expected, int | float) and abs(action - expected) <= 1e-3
