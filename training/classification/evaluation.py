"""Measures a classifier's graph on pictures with their truth: logits, samples that are answered rightly, the worst mistakes."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import nn

from marina.errors import CallError
from training.datasets import Example, ImageData
from training.trained import Sample

from bundle_images import ImageInput, open_input, prepare

BATCH = 32
SAMPLES = 64
TIE = 1e-3  # logits that are nearer than this may change places between one kernel and another


def truth_of(data: ImageData, names: list[str]) -> torch.Tensor:
    """The index of each test picture's class in the model, int64 [N]: by its name, or the number that it is called."""

    def index(name: str) -> int:
        if name in names:
            return names.index(name)
        if name.isdigit() and int(name) < len(names):
            return int(name)
        raise CallError(f"the data's class {name!r} is none of the model's ({', '.join(names[:6])} …); give their names as 'classes'")

    of_data = [index(name) for name in data.classes]
    return torch.tensor([of_data[example.label] for example in data.test])


def pixels_of(inputs: ImageInput, examples: Sequence[Example]) -> torch.Tensor:
    """Pictures as the graph takes them, uint8 [N, C, H, W]."""
    files = (example.encoded()[0] for example in examples)
    return torch.from_numpy(np.stack([prepare(open_input(file, inputs).image, inputs) for file in files]))


def logits_of(graph: nn.Module, inputs: ImageInput, examples: Sequence[Example]) -> torch.Tensor:
    """Of every picture, float32 [N, classes]."""
    parts = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    with torch.inference_mode():
        return torch.cat([graph(pixels_of(inputs, part)) for part in track(parts, "measuring", transient=True)])


def steadiness(logits: torch.Tensor, top: int = 5) -> torch.Tensor:
    """The least distance between two neighbours of those that an answer names, per row [N]."""
    best = logits.sort(dim=1, descending=True).values[:, : top + 1]
    return (best[:, :-1] - best[:, 1:]).min(dim=1).values


def right_answers(examples: Sequence[Example], logits: torch.Tensor, truth: torch.Tensor, names: list[str]) -> list[Sample]:
    """Pictures that are answered rightly, and not by a hair; taken from each class in turn."""
    seen: Counter[int] = Counter()
    turns = []
    for row in ((logits.argmax(1) == truth) & (steadiness(logits) > TIE)).nonzero().flatten().tolist():
        turns.append((seen[int(truth[row])], row))
        seen[int(truth[row])] += 1
    samples = []
    for _, row in sorted(turns)[:SAMPLES]:
        name, (body, content_type) = names[int(truth[row])], examples[row].encoded()
        samples.append(Sample(_slug(f"{name}-{row}"), body, content_type, {"class": name}))
    return samples


def draw_mistakes(
    inputs: ImageInput, examples: Sequence[Example], logits: torch.Tensor, truth: torch.Tensor, names: list[str], report: Path
) -> None:
    """mistakes.png in `report`."""
    from training.classification import drawing

    wrong = (logits.argmax(1) != truth).nonzero().flatten()[:200]
    rows = wrong if len(wrong) else torch.arange(min(24, len(examples)))
    pixels = pixels_of(inputs, [examples[row] for row in rows.tolist()])
    found = logits[rows]
    drawing.draw_mistakes(pixels.__getitem__, truth[rows], found.softmax(1), found.argmax(1), names, report / "mistakes.png")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[-60:].strip("-")
