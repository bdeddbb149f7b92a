"""Several exports of classifiers as one model: their probabilities, averaged with weights, in one graph and
one archive.

Its members must take the same input and know the same classes in the same order. They are not trained again.
"""

import time
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from handlers.inputs.images import ImageInput
from handlers.protocol.errors import BrokenArchive
from handlers.runtime.checksums import file_digest, verify_checksums
from handlers.runtime.export import Export
from marina.core import paths
from marina.core.errors import CallError
from marina.core.spec import Section
from training.data import load_images
from training.data.limits import Limits
from training.export.trained import HELD_OUT, Trained, spread
from training.runs.run import Run
from training.vision.classification.evaluation import (
    draw_mistakes,
    logits_of,
    pixels_of,
    right_answers,
    truth_of,
)

SAME = ("preprocess_config.json", "class_mapping.json")
METRICS = ("accuracy", "accuracy_*")


class Member(Section):
    """One of the models."""

    model: str = Field(description="the name of its spec")
    version: str = Field(default="1.0", description="of its export")
    weight: float = Field(
        default=1.0, gt=0, le=1e6, description="of its probabilities, beside those of the others"
    )


class Settings(Section):
    """What a spec may say under `training`."""

    members: list[Member] = Field(
        min_length=2, max_length=32, description="exports of classifiers: [{model, version, weight}, …]"
    )
    data: str = Field(
        description="a built-in set or pictures with their truth to measure on; nothing is learnt from it"
    )


class Ensemble(nn.Module):
    """uint8 [B, C, H, W] -> logits float32 [B, classes]: the logarithm of the members' averaged
    probabilities.
    """

    weights: torch.Tensor

    def __init__(self, members: list[nn.Module], weights: list[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.tensor(weights) / sum(weights))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch; softmax gives the averaged probabilities back."""
        probabilities = torch.stack([member(images).softmax(1) for member in self.members])
        averaged = (self.weights.view(-1, 1, 1) * probabilities).sum(0)
        return averaged.clamp(min=1e-12).log()


def train(settings: Settings, run: Run) -> Trained:
    """Put the members together and measure them together and alone: accuracy, and accuracy_NAME_VERSION of
    each.

    `run.seed` parts the data, where it has no test split of its own. Raises CallError for a member without a
    whole export, one that is no classifier, one that doesn't fit the first, and one that was trained on other
    pictures: it may have learnt the test.
    """
    started = time.monotonic()
    folders = [_folder(member) for member in settings.members]
    _check_interfaces(settings.members, folders)
    graphs = [_load_graph(folder) for folder in folders]
    inputs = ImageInput.from_config(Export.open(folders[0]).preprocess)
    classes = Export.open(folders[0]).labels
    graph = Ensemble(graphs, [member.weight for member in settings.members])

    limits = Limits(inputs.max_bytes, inputs.max_pixels, value_range=inputs.value_range)
    data = load_images(settings.data, run.seed, run.findings, limits)
    about = data.about()
    _check_training_data(settings, folders, about["fingerprint"], run.seed)
    truth = truth_of(data, classes)
    logits = logits_of(graph, inputs, data.test)
    names = [f"accuracy_{member.model}_{member.version}" for member in settings.members]
    alone = [_accuracy(logits_of(member, inputs, data.test), truth) for member in graphs]
    draw_mistakes(inputs, data.test, logits, truth, classes, run.report)
    return Trained(
        kind="classifier",
        module=graph,
        example=(pixels_of(inputs, data.test[:4]),),
        validation=(pixels_of(inputs, data.validation[:HELD_OUT]),),
        calibration=lambda: (pixels_of(inputs, spread(data.train)),),
        metrics={"accuracy": _accuracy(logits, truth), **dict(zip(names, alone, strict=True))},
        preprocess=inputs.as_config(),
        postprocess={"type": "classification", "top_k": min(5, len(classes))},
        samples=right_answers(data.test, logits, truth, classes),
        data=about,
        classes=classes,
        training={
            "digests": _digests(settings.members, folders),
            "seconds": round(time.monotonic() - started, 1),
        },
    )


def _folder(member: Member) -> Path:
    """The export of a member. Raises CallError unless it is a whole one, of a classifier without a
    decision of its own.
    """
    folder = paths.exports() / member.model / member.version
    what = f"{member.model} {member.version}"
    try:
        verify_checksums(folder)
    except BrokenArchive as error:
        raise CallError(f"{what} has no whole export ({error}); run: marina train {member.model}") from error
    said = Export.open(folder).postprocess
    if said["type"] != "classification":
        raise CallError(f"{what} is for {said['type']}; an ensemble is made of classifiers")
    if "decision" in said:
        raise CallError(
            f"{what} decides by a threshold of its own, which an average doesn't keep; train it without "
            "'operating_point'"
        )
    return folder


def _check_interfaces(members: list[Member], folders: list[Path]) -> None:
    """Raise CallError for a member with other inputs or other classes than the first."""
    first = members[0]
    for member, folder in zip(members[1:], folders[1:], strict=True):
        for name in SAME:
            if (folder / name).read_bytes() != (folders[0] / name).read_bytes():
                raise CallError(
                    f"{member.model} {member.version} has another {name} than {first.model} "
                    f"{first.version}; train them alike"
                )


def _check_training_data(settings: Settings, folders: list[Path], fingerprint: str, seed: int) -> None:
    """Raise CallError for a member that was trained on other data: it may have seen the test split."""
    for member, folder in zip(settings.members, folders, strict=True):
        if Export.open(folder).metadata["data"].get("fingerprint", fingerprint) != fingerprint:
            raise CallError(
                f"{member.model} {member.version} was trained on other data than {settings.data} with the "
                f"seed {seed}, or on another "
                "split of it, so that nobody knows what it hasn't seen; train all on one folder that has "
                "train/ and test/"
            )


def _load_graph(folder: Path) -> nn.Module:
    # its guards are those of its own export; the whole is exported again
    return torch.export.load(folder / "model.pt2").module(check_guards=False)


def _digests(members: list[Member], folders: list[Path]) -> dict[str, str]:
    return {
        f"{member.model} {member.version}": file_digest(folder / "model.pt2")
        for member, folder in zip(members, folders, strict=True)
    }


def _accuracy(logits: torch.Tensor, truth: torch.Tensor) -> float:
    return float((logits.argmax(1) == truth).double().mean())
