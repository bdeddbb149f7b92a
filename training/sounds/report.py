"""What a sound classifier's training leaves for its report: figures, the baseline beside, and the sounds that
it gets wrong, to be seen and heard.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.kinds.sound_pictures import spectrogram
from training.data.sounds import Sound, SoundData
from training.runs.class_learning import ClassModule
from training.runs.report_files import write_json, write_table
from training.sounds.baseline import PREFIX
from training.text.assessment import Assessment
from training.text.class_report import write_class_report

MISTAKES = 24  # that are listed
HEARD = 12  # that can be played
SECONDS = 5.0  # of each, at most
FOLDER = "sounds"  # of the report, for what can be played

MISTAKEN = "The wrong answers of the test split with the highest confidence, by where the sound stands."


def write_report(
    learner: ClassModule,
    assessment: Assessment,
    data: SoundData,
    baseline: Mapping[str, float] | None,
    report: Path,
) -> None:
    """Curves, confusion matrix, reliability, figures by class and group, the worst mistakes as a table and to
    be played, and the bars of both models.
    """
    beside = {"support vector machine on mfcc": baseline[f"{PREFIX}accuracy"]} if baseline else {}
    write_class_report(learner, assessment, data.classes, "sounds", beside, report)
    tables = report / "tables"
    write_table(tables / "mistakes.json", "Worst mistakes", MISTAKEN, _listed(assessment, data))
    if rows := by_group(assessment, data):
        text = "Accuracy on the test sounds of each group, such as a speaker."
        write_table(tables / "groups.json", "By group", text, rows)
    write_sounds(assessment, data, report / FOLDER)


def by_group(assessment: Assessment, data: SoundData) -> list[dict[str, Any]]:
    """Accuracy on each group of the test split, such as a speaker; none where there are no groups."""
    right = assessment.is_right.numpy()
    names = np.array([one.group for one in data.test])
    return [
        {"group": name, "sounds": int((names == name).sum()), "accuracy": float(right[names == name].mean())}
        for name in sorted(set(names.tolist()) - {""})
    ]


def write_sounds(assessment: Assessment, data: SoundData, folder: Path) -> None:
    """The wrong answers with the highest confidence as WAV and spectrogram, with index.json; where fewer than
    HEARD are wrong, the least certain right ones behind them.
    """
    import soundfile

    folder.mkdir(exist_ok=True)
    certainty, right = assessment.certainty, assessment.is_right
    order = [*_ranked(-certainty, ~right), *_ranked(certainty, right)][:HEARD]
    listed = []
    for number, row in enumerate(order):
        one = data.test[row]
        rate = one.config.sample_rate
        waveform = one.part(0, min(one.samples, round(SECONDS * rate)))
        soundfile.write(folder / f"{number:02}.wav", np.clip(waveform, -1, 1), rate, "PCM_16")
        spectrogram(waveform, rate).save(folder / f"{number:02}.png")
        listed.append(
            {
                "file": f"{number:02}.wav",
                "picture": f"{number:02}.png",
                "title": _title(one, row, assessment, data),
                "text": one.place,
            }
        )
    write_json(folder / "index.json", listed)


def _ranked(scores: torch.Tensor, mask: torch.Tensor) -> list[int]:
    """The rows of `mask`, least scores first."""
    return [row for row in scores.argsort().tolist() if bool(mask[row])]


def _title(one: Sound, row: int, assessment: Assessment, data: SoundData) -> str:
    truth, answer = data.classes[one.label], data.classes[int(assessment.answers[row])]
    certainty = float(assessment.certainty[row])
    return (
        f"{truth}, answered {answer} ({certainty:.2f})" if truth != answer else f"{truth} ({certainty:.2f})"
    )


def _listed(assessment: Assessment, data: SoundData) -> list[dict[str, Any]]:
    """The wrong answers, most certain first."""
    rows = _ranked(-assessment.certainty, ~assessment.is_right)[:MISTAKES]
    return [
        {
            "where": data.test[row].place,
            "truth": data.classes[data.test[row].label],
            "answer": data.classes[int(assessment.answers[row])],
            "certainty": round(float(assessment.certainty[row]), 4),
            "seconds": round(data.test[row].samples / data.test[row].config.sample_rate, 3),
        }
        for row in rows
    ]
