"""Runs a classifier's graph on labeled pictures: logits, samples that are classified correctly, the worst
mistakes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import nn

from handlers.inputs.images import ImageInput, open_input, prepare
from marina.core.errors import CallError
from training.data import Example, ImageData
from training.export.trained import Sample

BATCH = 32
SAMPLES = 64
TIE = 1e-3  # logits closer than this may be ordered differently by another kernel


def truth_of(data: ImageData, names: list[str]) -> torch.Tensor:
    """The index of each test picture's class in the model, int64 [N].

    A class of the data is found by its name, or by its index if its name is a number. Raises CallError for a
    class that the model lacks.
    """

    def index(name: str) -> int:
        if name in names:
            return names.index(name)
        if name.isdigit() and int(name) < len(names):
            return int(name)
        raise CallError(
            f"the data's class {name!r} is none of the model's ({', '.join(names[:6])} …); give their "
            "names as 'classes'"
        )

    of_data = [index(name) for name in data.classes]
    return torch.tensor([of_data[example.label] for example in data.test])


def pixels_of(inputs: ImageInput, examples: Sequence[Example]) -> torch.Tensor:
    """Pictures as the graph takes them, uint8 [N, C, H, W]."""
    files = (example.encoded()[0] for example in examples)
    return torch.from_numpy(np.stack([prepare(open_input(file, inputs).image, inputs) for file in files]))


def logits_of(graph: nn.Module, inputs: ImageInput, examples: Sequence[Example]) -> torch.Tensor:
    """The logits of every picture, float32 [N, classes]."""
    parts = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    with torch.inference_mode():
        return torch.cat(
            [graph(pixels_of(inputs, part)) for part in track(parts, "measuring", transient=True)]
        )


def margins(logits: torch.Tensor) -> torch.Tensor:
    """How far the best class is ahead of the next, per row [N]; places behind it may be equal."""
    best = logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def right_answers(
    examples: Sequence[Example], logits: torch.Tensor, truth: torch.Tensor, names: list[str]
) -> list[Sample]:
    """Samples of pictures that are classified correctly and by a clear margin; from each class in turn."""
    seen: Counter[int] = Counter()
    turns = []
    for row in ((logits.argmax(1) == truth) & (margins(logits) > TIE)).nonzero().flatten().tolist():
        turns.append((seen[int(truth[row])], row))
        seen[int(truth[row])] += 1
    samples = []
    for _, row in sorted(turns)[:SAMPLES]:
        name, (body, content_type) = names[int(truth[row])], examples[row].encoded()
        samples.append(Sample(_slug(f"{name}-{row}"), body, content_type, {"class": name}))
    return samples


def draw_mistakes(
    inputs: ImageInput,
    examples: Sequence[Example],
    logits: torch.Tensor,
    truth: torch.Tensor,
    names: list[str],
    report: Path,
) -> None:
    """Write mistakes.png to `report`."""
    from training.vision.classification import drawing

    wrong = (logits.argmax(1) != truth).nonzero().flatten()[:200]
    rows = wrong if len(wrong) else torch.arange(min(24, len(examples)))
    pixels = pixels_of(inputs, [examples[row] for row in rows.tolist()])
    found = logits[rows]
    drawing.draw_mistakes(
        pixels.__getitem__, truth[rows], found.softmax(1), found.argmax(1), names, report / "mistakes.png"
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[-60:].strip("-")
