"""What a text classifier reaches: calibrated on validation, measured on test."""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from sklearn.metrics import f1_score

from handlers.kinds.decision import Decision, ranked
from marina.core.errors import CallError
from training.vision.classification import calibration
from training.vision.classification.label_scores import (
    LABEL_METRICS,
    best_thresholds,
    metrics_of_several,
)

Thresholds = tuple[float, ...]
TOP_K = 5  # classes of an answer, unless it says
SURE = 0.9  # certain enough for a sample that comes first
SAMPLES = 64  # of a model, at most
UNSURE = 0.02  # too near to a threshold for any


class HasOperatingPoint(Protocol):
    """The settings of a recipe for texts or signals."""

    @property
    def operating_point(self) -> Mapping[Any, Any] | None:
        """{"class": name, "recall": share}."""


@dataclass(frozen=True)
class Assessment:
    """Answers to the test split, and what they are worth."""

    probabilities: torch.Tensor  # calibrated, float32 [N, classes]
    labels: torch.Tensor  # int64 [N], or float32 [N, classes] of 0 and 1
    answers: torch.Tensor  # the same
    metrics: dict[str, float]
    temperature: float = 1.0
    uncalibrated: torch.Tensor | None = None  # of one label per text
    decision: Decision | None = None
    thresholds: Thresholds = ()  # of several labels, by class

    @property
    def certainty(self) -> torch.Tensor:
        """How far each answer is from another one, 0..1: float32 [N]."""
        if self.thresholds:
            return (self.probabilities - torch.tensor(self.thresholds)).abs().min(1).values
        return self.probabilities.max(1).values

    @property
    def postprocess(self) -> dict[str, Any]:
        """What serving does with probabilities."""
        about: dict[str, Any] = {"type": "classification", "top_k": min(TOP_K, self.probabilities.shape[1])}
        if self.thresholds:
            about |= {"type": "labels", "thresholds": list(self.thresholds)}
        elif self.decision:
            about["decision"] = vars(self.decision)
        return about

    @property
    def is_right(self) -> torch.Tensor:
        """Which answers are, all labels of a text together: bool [N]."""
        same = self.answers == self.labels
        return same.all(1) if self.labels.ndim == 2 else same


def assess_one(
    validated: torch.Tensor,
    expected: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    classes: Sequence[str],
    settings: HasOperatingPoint,
) -> Assessment:
    """Of one label per text: temperature and operating point from the logits and labels of validation,
    metrics of those of test.

    Metrics: accuracy and macro_f1, ece and ece_uncalibrated, auroc where every class is in the test split;
    recall_NAME, precision_NAME and f1_NAME of both classes where there are two, else of the operating
    point's.
    """
    temperature = calibration.fit_temperature(validated, expected)
    decision = _decision(settings, classes, (validated / temperature).softmax(1), expected)
    probabilities = (logits / temperature).softmax(1)
    answers = torch.from_numpy(ranked(probabilities.numpy(), decision)[:, 0].copy())
    metrics = metrics_of_one(probabilities, labels, answers, classes, decision)
    metrics["ece_uncalibrated"] = calibration.calibration_error(logits.softmax(1), labels)
    return Assessment(probabilities, labels, answers, metrics, temperature, logits.softmax(1), decision)


def calibrated(
    model: Any,
    splits: Sequence[Any],
    logits_of: Callable[[Any, Any], torch.Tensor],
    classes: Sequence[str],
    settings: HasOperatingPoint,
) -> Assessment:
    """How good a model is on the last of three `splits`, with the temperature that fits the second, which it
    has afterwards.
    """
    _, validation, test = splits
    validated, logits = logits_of(model, validation), logits_of(model, test)
    assessment = assess_one(validated, validation.labels, logits, test.labels, classes, settings)
    model.temperature = assessment.temperature
    return assessment


# of one label per text and of several
TEXT_METRICS = (
    *calibration.CLASS_METRICS,
    "ece_uncalibrated",
    "f1_*",
    *LABEL_METRICS,
)

SEVERAL_METRICS = ("micro_f1", "exact_match", "mean_average_precision")
ONE_METRICS = tuple(name for name in TEXT_METRICS if name not in SEVERAL_METRICS)  # of one label per example


def metrics_of_one(
    probabilities: torch.Tensor,
    labels: torch.Tensor,
    answers: torch.Tensor,
    classes: Sequence[str],
    decision: Decision | None = None,
) -> dict[str, float]:
    """As `calibration.metrics_of`, and the F1 of the classes whose recall is listed."""
    listed = [0, 1] if len(classes) == 2 else [decision.class_index] if decision else []
    metrics = calibration.metrics_of(probabilities, labels, answers, list(classes), listed)
    for name in [name for name in metrics if name.startswith("recall_")]:
        recall, precision = metrics[name], metrics[name.replace("recall_", "precision_", 1)]
        both = recall + precision
        metrics[name.replace("recall_", "f1_", 1)] = 2 * recall * precision / both if both else 0.0
    return metrics


def assess_several(
    validated: torch.Tensor, expected: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> Assessment:
    """Of several labels per text: a threshold per class from validation, metrics of test."""
    thresholds = best_thresholds(validated, expected)
    probabilities = logits.sigmoid()
    answers = (probabilities >= torch.tensor(thresholds)).float()
    metrics = metrics_of_several(probabilities.numpy(), answers.numpy(), labels.numpy())
    return Assessment(probabilities, labels, answers, metrics, thresholds=thresholds)


def by_class(
    assessment: Assessment, classes: Sequence[str], things: str = "texts"
) -> list[Mapping[str, object]]:
    """A row per class for the report: how many `things` it has, precision, recall, F1, AUROC or threshold."""
    if not assessment.thresholds:
        rows = calibration.by_class(
            assessment.probabilities, assessment.labels, assessment.answers, list(classes)
        )
        return [{"class": row["class"], things: row["pictures"], **_without(row)} for row in rows]
    scores = f1_score(assessment.labels, assessment.answers, average=None, zero_division=0)
    counts = assessment.labels.sum(0).long().tolist()
    columns = zip(classes, counts, scores.tolist(), assessment.thresholds, strict=True)
    return [
        {"class": name, "texts": count, "f1": f1, "threshold": threshold}
        for name, count, f1, threshold in columns
    ]


def class_samples(
    assessment: Assessment, labels: Sequence[int], classes: Sequence[str], taken: Callable[[int], bool]
) -> list[tuple[int, str, str]]:
    """Row, name and class of SAMPLES answers that are right and no matter of rounding, of each class in turn,
    sure ones first, among the rows that are `taken`.
    """
    certainty, right = assessment.certainty.tolist(), assessment.is_right.tolist()
    sound = [row for row in range(len(labels)) if right[row] and not _is_close(assessment, row)]
    rows = [row for row in sound if taken(row)]
    turns = in_turns(rows, labels.__getitem__, lambda row: certainty[row] >= SURE, SAMPLES)
    names = [slug(name) or f"class-{label}" for label, name in enumerate(classes)]
    return [(row, f"{names[labels[row]]}-{number}", classes[labels[row]]) for number, row in turns]


def _is_close(assessment: Assessment, row: int) -> bool:
    """Whether the answer is a matter of rounding."""
    decision, probabilities = assessment.decision, assessment.probabilities[row]
    if decision is not None:
        return abs(float(probabilities[decision.class_index]) - decision.threshold) <= UNSURE
    first, second = probabilities.topk(2).values.tolist()
    return bool(first - second <= UNSURE)


def slug(name: str) -> str:
    """A class in the name of a sample: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50]


def _without(row: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key not in ("class", "pictures")}


def operating_class(settings: HasOperatingPoint, classes: Sequence[str]) -> int | None:
    """The index of the class that the operating point is about; None without one. Raises CallError for a
    class that isn't there.
    """
    if settings.operating_point is None:
        return None
    name = str(settings.operating_point["class"])
    if name not in classes:
        raise CallError(f"operating_point: no class {name!r}; the data has {', '.join(classes)}")
    return list(classes).index(name)


def _decision(
    settings: HasOperatingPoint, classes: Sequence[str], probabilities: torch.Tensor, labels: torch.Tensor
) -> Decision | None:
    index = operating_class(settings, classes)
    if settings.operating_point is None or index is None:
        return None
    if not bool((labels == index).any()):
        raise CallError(
            f"operating_point: validation has nothing of {classes[index]!r} to choose a threshold by"
        )
    return calibration.fit_decision(probabilities, labels, index, float(settings.operating_point["recall"]))


def in_turns(
    rows: Sequence[int], class_of: Callable[[int], Hashable], is_sure: Callable[[int], bool], count: int
) -> list[tuple[int, int]]:
    """(number, row) of up to `count` rows for samples: of each class in turn, those first that are sure. The
    number counts the rows of a class from 1.
    """
    seen: Counter[Hashable] = Counter()
    turns = []
    for row in sorted(rows, key=lambda row: not is_sure(row)):
        seen[class_of(row)] += 1
        turns.append((seen[class_of(row)], row))
    return sorted(turns, key=lambda turn: turn[0])[:count]
