"""Measurements of a model, of the data that a test has."""

from collections.abc import Callable
from typing import Any

from marina.core import kinds
from marina.core.spec import Spec
from marina.kinds.detector import AveragePrecision
from marina.kinds.kind import Answer, MeasurementOptions
from marina.kinds.pictures import Accuracy
from marina.kinds.segmenter import Overlap

BY_KIND = {
    "classifier": Accuracy,
    "video_classifier": Accuracy,
    "detector": AveragePrecision,
    "segmenter": Overlap,
}


def measure(spec: Spec, answer: Answer, images: Any = None, episodes: int = 100) -> dict[str, float]:
    """Metrics of `answer` on `images`, or on what the export was trained on, or over `episodes`."""
    if images is None:
        measurement = kinds.get(spec.kind).measurement(spec, MeasurementOptions(episodes=episodes))
    else:
        measurement = BY_KIND[spec.kind](spec, images, is_recorded=False)
    metrics: dict[str, float] = measurement.run(answer, iter, is_endpoint=False).metrics
    return metrics


def single(answer: Answer) -> Callable[[bytes], Any]:
    """One JSON request at a time."""

    def ask(body: bytes) -> Any:
        (reply,) = answer([(body, "application/json")], {})
        return reply

    return ask
