"""What a signal classifier's training leaves for its report: figures, the baseline beside, and the signals
that it gets wrong.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from handlers.inputs.signals import Channel
from training.data.signals import Signal, SignalData
from training.runs.class_learning import ClassModule
from training.runs.report_files import write_table
from training.signals.baseline import PREFIX
from training.tables.drawing import COLORS
from training.text.assessment import Assessment
from training.text.class_report import write_class_report

MISTAKES = 24  # that are listed
SHOWN, COLUMNS = 6, 3  # that are drawn, and how many side by side
LINES = 8  # channels that are drawn; of more, these change most

MISTAKEN = "The wrong answers of the test split with the highest confidence, by where the signal stands."


def write_report(
    learner: ClassModule,
    assessment: Assessment,
    data: SignalData,
    channels: Sequence[Channel],
    baseline: Mapping[str, float] | None,
    report: Path,
) -> None:
    """Curves, confusion matrix, reliability, figures by class, the worst mistakes as table and picture, and
    the bars of both models.
    """
    beside = {"logistic regression on summaries": baseline[f"{PREFIX}accuracy"]} if baseline else {}
    write_class_report(learner, assessment, data.classes, "signals", beside, report)
    draw_signals(assessment, data, channels, report / "signals.png")
    rows = _listed(assessment, data)
    write_table(report / "tables" / "mistakes.json", "Worst mistakes", MISTAKEN, rows)


def draw_signals(assessment: Assessment, data: SignalData, channels: Sequence[Channel], path: Path) -> None:
    """The wrong answers with the highest confidence; where none is wrong, the least certain ones."""
    certainty, wrong = assessment.certainty, ~assessment.is_right
    if bool(wrong.any()):
        order = [int(row) for row in (-certainty).argsort() if wrong[row]]
        title = f"{int(wrong.sum())} of {len(wrong)} wrong: the most certain ones"
    else:
        order, title = certainty.argsort().tolist(), "All right: the least certain ones"
    rows = order[:SHOWN]
    lines = _lines(data.train, len(channels))
    height = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.5 * height + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(height, COLUMNS, squeeze=False).ravel()
    for axes in grid[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid, rows, strict=False):
        one, answer = data.test[row], int(assessment.answers[row])
        for color, channel in zip(COLORS, lines, strict=False):
            axes.plot(one.values[:, channel], color=color, linewidth=1, label=channels[channel].name)
        axes.set_title(
            f"{data.classes[one.label]}, answered {data.classes[answer]} ({certainty[row]:.2f})", fontsize=8
        )
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(8, len(names)), fontsize=7, frameon=False
    )
    figure.savefig(path, dpi=110)


def _lines(signals: Sequence[Signal], count: int) -> list[int]:
    """The channels that are drawn."""
    spreads = np.stack([one.values.std(0) for one in signals]).mean(0)
    return sorted(np.argsort(-spreads, kind="stable")[: min(LINES, count)].tolist())


def _listed(assessment: Assessment, data: SignalData) -> list[dict[str, Any]]:
    """The wrong answers, most certain first."""
    certainty = assessment.certainty
    wrong = [int(row) for row in (-certainty).argsort() if not assessment.is_right[row]]
    return [
        {
            "where": data.test[row].place,
            "truth": data.classes[data.test[row].label],
            "answer": data.classes[int(assessment.answers[row])],
            "certainty": round(float(certainty[row]), 4),
            "steps": len(data.test[row].values),
        }
        for row in wrong[:MISTAKES]
    ]
