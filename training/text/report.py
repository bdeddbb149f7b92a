"""What a text classifier's training leaves for its report: figures, and tables of words and mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.data.texts import TextData
from training.runs.report_files import write_json, write_table
from training.text.assessment import Assessment, by_class
from training.text.baseline import Baseline
from training.text.class_report import draw_answers
from training.text.learner import Learner
from training.vision.classification import drawing

MISTAKES = 24  # that are listed
SHOWN = 300  # characters of a text


def write_report(
    learner: Learner, assessment: Assessment, data: TextData, baseline: Baseline | None, report: Path
) -> None:
    """Curves, figures by class, the worst mistakes and the most telling words; of one label per text the
    confusion matrix and the reliability, too.
    """
    drawing.draw_curves(learner.history, learner.best_epoch, report / "curves.png")
    if assessment.uncalibrated is not None:
        draw_answers(assessment, data.classes, report)
    write_json(report / "classes.json", by_class(assessment, data.classes))
    tables = report / "tables"
    write_table(tables / "mistakes.json", "Worst mistakes", MISTAKEN, mistakes(assessment, data))
    if baseline:
        rows = [
            {"class": name, "words": ", ".join(word for word, _ in words)}
            for name, words in baseline.telling.items()
        ]
        write_table(tables / "words.json", "Most telling words", TELLING, rows)


MISTAKEN = "The wrong answers of the test split with the highest confidence, by where the text stands."
TELLING = "Words and pairs with the highest weights in logistic regression on TF-IDF, on the same texts."


def mistakes(assessment: Assessment, data: TextData) -> list[dict[str, Any]]:
    """The wrong answers of the test split, most certain first: place, truth, answer, probability, text."""
    wrong = torch.nonzero(~assessment.is_right).flatten().tolist()
    certainty = assessment.certainty.tolist()
    rows = []
    for row in sorted(wrong, key=lambda one: -certainty[one])[:MISTAKES]:
        one = data.test[row]
        text = one.text if len(one.text) <= SHOWN else one.text[: SHOWN - 1] + "…"
        rows.append(
            {
                "where": one.place,
                "truth": _names(one.labels, data.classes),
                "answer": _names(_answer(assessment, row), data.classes),
                "certainty": round(certainty[row], 4),
                "beginning": text,
            }
        )
    return rows


def _answer(assessment: Assessment, row: int) -> list[int]:
    answer = assessment.answers[row]
    return torch.nonzero(answer).flatten().tolist() if answer.ndim else [int(answer)]


def _names(labels: Sequence[int], classes: Sequence[str]) -> str:
    return ", ".join(classes[label] for label in labels) or "none"
