"""What a classifier of pictures or clips reaches: calibrated on validation, measured on test, drawn."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from handlers.kinds.decision import Decision, ranked
from training.data import ImageData
from training.export.trained import Trained, spread
from training.runs.run import Run
from training.vision.classification import calibration, drawing, inputs
from training.vision.classification.learner import Learner, logits_of
from training.vision.classification.networks import Classifier
from training.vision.records import Rows

# probabilities of the validation split float32 [N, classes], its labels int64 [N] -> the decision that is
# served
ChoosesDecision = Callable[[torch.Tensor, torch.Tensor], Decision | None]


class Assessed(Protocol):
    """What an export says of answers to the test split."""

    @property
    def temperature(self) -> float:
        """Of the logits."""

    @property
    def metrics(self) -> dict[str, float]:
        """By name."""

    @property
    def postprocess(self) -> dict[str, Any]:
        """What the handler must know of it."""


@dataclass(frozen=True)
class Assessment:
    """Answers to the test split, and what they are worth."""

    temperature: float
    logits: torch.Tensor  # float32 [N, classes], before the temperature
    labels: torch.Tensor  # int64 [N]
    answers: torch.Tensor  # int64 [N]
    metrics: dict[str, float]
    decision: Decision | None

    @property
    def probabilities(self) -> torch.Tensor:
        """Calibrated, float32 [N, classes]."""
        return (self.logits / self.temperature).softmax(1)

    @property
    def postprocess(self) -> dict[str, Any]:
        """What the handler must know of it."""
        if self.decision is None:
            return {"type": "classification"}
        return {"type": "classification", "decision": vars(self.decision)}


def assess(
    network: nn.Module,
    validation: Rows,
    test: Rows,
    classes: Sequence[str],
    choose: ChoosesDecision = lambda *_: None,
) -> Assessment:
    """Fit the temperature and the decision on validation, measure on test.

    Metrics: accuracy and macro_f1 of the answers, ece and ece_uncalibrated, auroc (macro, one class against
    the rest) where every class is in the test split; recall_NAME and precision_NAME of both classes where
    there are two, else of the decision's.
    """
    expected, labels = validation.tensors[1], test.tensors[1]
    validated, logits = (logits_of(network, part) for part in (validation, test))
    temperature = calibration.fit_temperature(validated, expected)
    decision = choose((validated / temperature).softmax(1), expected)
    probabilities = (logits / temperature).softmax(1)
    answers = torch.from_numpy(ranked(probabilities.numpy(), decision)[:, 0].copy())
    listed = [0, 1] if len(classes) == 2 else [decision.class_index] if decision else []
    metrics = calibration.metrics_of(probabilities, labels, answers, list(classes), listed)
    metrics["ece_uncalibrated"] = calibration.calibration_error(logits.softmax(1), labels)
    return Assessment(temperature, logits, labels, answers, metrics, decision)


def write_report(
    assessment: Assessment,
    learner: Learner,
    classes: list[str],
    picture: Callable[[int], torch.Tensor],
    report: Path,
    wide: int = 1,
) -> None:
    """Curves, confusions, reliability, mistakes and classes.json; `picture` gives a test example as [C, H,
    W], which is `wide` pictures wide.
    """
    probabilities, labels, answers = assessment.probabilities, assessment.labels, assessment.answers
    uncalibrated = assessment.logits.softmax(1)
    drawing.draw_curves(learner.history, learner.best_epoch, report / "curves.png")
    drawing.draw_confusion(labels, answers, classes, report / "confusion.png")
    drawing.draw_reliability(
        uncalibrated, probabilities, labels, assessment.temperature, report / "reliability.png"
    )
    if len(classes) == 2:
        shown = assessment.decision or Decision(1, 0.5)
        drawing.draw_trade_off(probabilities, labels, shown, classes, report / "trade_off.png")
    drawing.draw_mistakes(
        picture, labels, probabilities, answers, classes, report / "mistakes.png", wide=wide
    )
    rows = calibration.by_class(probabilities, labels, answers, classes)
    (report / "classes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


CLASSIFIER_METRICS = (*calibration.CLASS_METRICS, "ece_uncalibrated")  # of `assess`


def training_facts(assessment: Assessed, learner: Learner, run: Run, prepared: float) -> dict[str, Any]:
    """What the export's metadata says of a training; it learned from `prepared` on, a monotonic time."""
    return {
        **learner.rate_facts(),
        "epochs": learner.settings.epochs,
        "best_epoch": learner.best_epoch,
        "validation_accuracy": learner.history[learner.best_epoch - 1]["validation_accuracy"],
        "temperature": assessment.temperature,
        "seconds": round(time.monotonic() - run.started, 1),
        "seconds_of_preparation": round(prepared - run.started, 1),
    }


def make_trained(
    kind: str,
    model: Classifier,
    config: ImageInput | ClipInput,
    data: ImageData,
    about: dict[str, Any],
    assessment: Assessed,
    **fields: Any,
) -> Trained:
    """The calibrated model with what its export needs: `about` is what the data says of itself, `fields` are
    those of Trained that only the recipe knows.
    """
    postprocess = {"top_k": min(5, len(data.classes)), **assessment.postprocess}
    training = {**fields.pop("training"), "normalization": model.normalization}
    return Trained(
        kind=kind,
        module=model.eval().requires_grad_(False),
        calibration=lambda: (inputs.stack_pictures(spread(data.train), config),),
        metrics=assessment.metrics,
        preprocess=config.as_config(),
        postprocess=postprocess,
        data=about,
        classes=list(data.classes),
        training=training,
        **fields,
    )
