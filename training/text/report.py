"""What a text classifier's training leaves for its report: figures, and tables of words and mistakes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handlers.kinds.decision import Decision
from training.data.texts import TextData
from training.text.assessment import Assessment, by_class
from training.text.baseline import Baseline
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
        _draw_one(assessment, assessment.uncalibrated, data.classes, report)
    _write(report / "classes.json", by_class(assessment, data.classes))
    tables = report / "tables"
    tables.mkdir(exist_ok=True)
    _write(tables / "mistakes.json", _table("Worst mistakes", MISTAKEN, mistakes(assessment, data)))
    if baseline:
        rows = [
            {"class": name, "words": ", ".join(word for word, _ in words)}
            for name, words in baseline.telling.items()
        ]
        _write(tables / "words.json", _table("Most telling words", TELLING, rows))


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


def _draw_one(
    assessment: Assessment, uncalibrated: torch.Tensor, classes: Sequence[str], report: Path
) -> None:
    probabilities, labels = assessment.probabilities, assessment.labels
    drawing.draw_confusion(labels, assessment.answers, classes, report / "confusion.png")
    drawing.draw_reliability(
        uncalibrated, probabilities, labels, assessment.temperature, report / "reliability.png"
    )
    if len(classes) == 2:
        shown = assessment.decision or Decision(1, 0.5)
        drawing.draw_trade_off(probabilities, labels, shown, classes, report / "trade_off.png")


def _answer(assessment: Assessment, row: int) -> list[int]:
    answer = assessment.answers[row]
    return torch.nonzero(answer).flatten().tolist() if answer.ndim else [int(answer)]


def _names(labels: Sequence[int], classes: Sequence[str]) -> str:
    return ", ".join(classes[label] for label in labels) or "none"


def _table(title: str, text: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"title": title, "text": text, "rows": rows}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
