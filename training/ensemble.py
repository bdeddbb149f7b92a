"""Several exports of classifiers as one model: their probabilities, averaged with weights, in one graph and one archive.

Its members must take the same input and know the same classes in the same order. They are not trained again.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from marina import paths
from marina.errors import CallError
from marina.spec import Section
from training import datasets
from training.classification.evaluation import draw_mistakes, logits_of, pixels_of, right_answers, truth_of
from training.trained import HELD_OUT, Trained, spread

from bundle_checksums import file_digest, verify_checksums
from bundle_errors import BrokenArchive
from bundle_images import ImageInput

SAME = ("preprocess_config.json", "class_mapping.json")


class Member(Section):
    """One of the models."""

    model: str = Field(description="the name of its spec")
    version: str = Field(default="1.0", description="of its export")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="of its probabilities, beside those of the others")


class Settings(Section):
    """What a spec may say under `training`."""

    members: list[Member] = Field(min_length=2, max_length=32, description="exports of classifiers: [{model, version, weight}, …]")
    data: str = Field(description="a built-in set or pictures with their truth to measure on; nothing is learnt from it")


class Ensemble(nn.Module):
    """uint8 [B, C, H, W] -> logits float32 [B, classes]: the logarithm of the members' averaged probabilities."""

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


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Put the members together and measure them together and alone: accuracy, and accuracy_NAME_VERSION of each.

    `seed` parts the data, where it has no test split of its own. Raises CallError for a member without a whole export, one that is
    no classifier, one that doesn't fit the first, and one that was trained on other pictures: it may have learnt the test.
    """
    started = time.monotonic()
    folders = [_folder(member) for member in settings.members]
    for folder, member in zip(folders[1:], settings.members[1:], strict=True):
        for name in SAME:
            if (folder / name).read_bytes() != (folders[0] / name).read_bytes():
                first = settings.members[0]
                raise CallError(f"{member.model} {member.version} has another {name} than {first.model} {first.version}; train them alike")
    # the guards of a member are those of its own export; the whole is exported anew
    graphs: list[nn.Module] = [torch.export.load(folder / "model.pt2").module(check_guards=False) for folder in folders]
    inputs = ImageInput.from_config(json.loads((folders[0] / SAME[0]).read_text(encoding="utf-8")))
    mapping = json.loads((folders[0] / SAME[1]).read_text(encoding="utf-8"))
    classes = [mapping[str(index)] for index in range(len(mapping))]
    graph = Ensemble(graphs, [member.weight for member in settings.members])

    data = datasets.load(settings.data, "classifier", seed)
    for folder, member in zip(folders, settings.members, strict=True):
        if _learnt_from(folder).get("fingerprint", data.about()["fingerprint"]) != data.about()["fingerprint"]:
            raise CallError(
                f"{member.model} {member.version} was trained on other data than {settings.data} with the seed {seed}, or on another "
                "split of it, so that nobody knows what it hasn't seen; train all on one folder that has train/ and test/"
            )
    truth = truth_of(data, classes)
    logits = logits_of(graph, inputs, data.test)
    metrics = {"accuracy": _accuracy(logits, truth)}
    for member, alone in zip(settings.members, graphs, strict=True):
        metrics[f"accuracy_{member.model}_{member.version}"] = _accuracy(logits_of(alone, inputs, data.test), truth)
    draw_mistakes(inputs, data.test, logits, truth, classes, report)
    return Trained(
        kind="classifier",
        module=graph,
        example=(pixels_of(inputs, data.test[:4]),),
        validation=(pixels_of(inputs, data.validation[:HELD_OUT]),),
        calibration=lambda: (pixels_of(inputs, spread(data.train)),),
        metrics=metrics,
        preprocess=inputs.as_config(),
        postprocess={"type": "classification", "top_k": min(5, len(classes))},
        samples=right_answers(data.test, logits, truth, classes),
        data=data.about(),
        classes=classes,
        training={
            "digests": {
                f"{one.model} {one.version}": file_digest(folder / "model.pt2")
                for one, folder in zip(settings.members, folders, strict=True)
            },
            "seconds": round(time.monotonic() - started, 1),
        },
    )


def _folder(member: Member) -> Path:
    """The export of a member. Raises CallError unless it is a whole one, of a classifier without a decision of its own."""
    folder = paths.exports() / member.model / member.version
    what = f"{member.model} {member.version}"
    try:
        verify_checksums(folder)
    except BrokenArchive as error:
        raise CallError(f"{what} has no whole export ({error}); run: marina train {member.model}") from error
    said: dict[str, Any] = json.loads((folder / "postprocess_config.json").read_text(encoding="utf-8"))
    if said["type"] != "classification":
        raise CallError(f"{what} is for {said['type']}; an ensemble is made of classifiers")
    if "decision" in said:
        raise CallError(f"{what} decides by a threshold of its own, which an average doesn't keep; train it without 'decision'")
    return folder


def _accuracy(logits: torch.Tensor, truth: torch.Tensor) -> float:
    return float((logits.argmax(1) == truth).double().mean())


def _learnt_from(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "model_metadata.json").read_text(encoding="utf-8"))["data"]
    return about
