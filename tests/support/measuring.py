"""Measurements of a model, of the data that a test has."""

from collections.abc import Callable
from typing import Any

from marina.client import Client
from marina.core import kinds
from marina.core.spec import Spec
from marina.evaluation import measurement
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
        measuring = kinds.get(spec.kind).measurement(spec, MeasurementOptions(episodes=episodes))
    else:
        measuring = BY_KIND[spec.kind](spec, images, is_recorded=False)
    metrics: dict[str, float] = measuring.run(answer, iter, is_endpoint=False).metrics
    return metrics


def measure_both(client: Client, spec: Spec, images: Any = None) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics through the endpoint, and of the same model in this process."""
    answers = measurement.through_endpoint(client, spec), measurement.in_process(spec)
    through, local = (measure(spec, answer, images) for answer in answers)
    return through, local


def single(answer: Answer) -> Callable[[bytes], Any]:
    """One JSON request at a time."""

    def ask(body: bytes) -> Any:
        (reply,) = answer([(body, "application/json")], {})
        return reply

    return ask
