"""Figures of a classifier that gives one answer, for its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from handlers.kinds.decision import Decision
from training.runs.class_learning import ClassModule
from training.runs.report_files import write_json
from training.tables.drawing import draw_comparison
from training.text.assessment import Assessment, by_class
from training.vision.classification import drawing


def write_class_report(
    learner: ClassModule,
    assessment: Assessment,
    classes: Sequence[str],
    things: str,
    beside: Mapping[str, float],
    report: Path,
) -> None:
    """Curves, confusion matrix, reliability, trade-off of two classes, figures by class of the test `things`;
    with accuracies of other models `beside`, by their names, the bars of all.
    """
    drawing.draw_curves(learner.history, learner.best_epoch, report / "curves.png")
    draw_answers(assessment, classes, report)
    if beside:
        scores = {"this network": assessment.metrics["accuracy"], **beside}
        draw_comparison(scores, f"accuracy on the test {things}", report / "comparison.png")
    write_json(report / "classes.json", by_class(assessment, classes, things))


def draw_answers(assessment: Assessment, classes: Sequence[str], report: Path) -> None:
    """Confusion matrix, reliability, and of two classes the trade-off."""
    assert assessment.uncalibrated is not None
    probabilities, labels = assessment.probabilities, assessment.labels
    drawing.draw_confusion(labels, assessment.answers, classes, report / "confusion.png")
    drawing.draw_reliability(
        assessment.uncalibrated, probabilities, labels, assessment.temperature, report / "reliability.png"
    )
    if len(classes) == 2:
        shown = assessment.decision or Decision(1, 0.5)
        drawing.draw_trade_off(probabilities, labels, shown, classes, report / "trade_off.png")
