"""Each kind of predictor with a small untrained graph, as an archive would have it, and what it answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from handlers.kinds.classifier import ClassifierPredictor
from handlers.kinds.detector import DetectorPredictor
from handlers.kinds.policy import PolicyPredictor
from handlers.kinds.segmenter import SegmenterPredictor
from handlers.kinds.video_classifier import VideoClassifierPredictor
from handlers.protocol.requests import lower_case
from handlers.runtime.export import Export
from handlers.runtime.golden import difference
from handlers.runtime.predictor import Predictor
from handlers.runtime.runtimes import TorchRuntime
from tests.support.sent_requests import Sent, row_of

KINDS = ("classifier", "detector", "segmenter", "policy", "video_classifier")
CLIENT_ERRORS = {400, 413, 415}


class Glance(torch.nn.Module):
    """Ten classes by one layer of strokes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.strokes, self.last = torch.nn.Conv2d(1, 8, 3, stride=2), torch.nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1, 16, 16] -> logits [B, 10]."""
        strokes: torch.Tensor = self.strokes(images.float() / 64).relu()
        return self.last(strokes.mean((2, 3)))  # type: ignore[no-any-return]


class Grid(torch.nn.Module):
    """A box for each of 4 x 5 cells, of two classes: dark and light."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, 3, 32, 40] -> boxes [B, 20, 4], scores [B, 20, 2]."""
        light = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True) / 255, 8).flatten(1)
        top, left = torch.arange(0, 32, 8.0).repeat_interleave(5), torch.arange(0, 40, 8.0).repeat(4)
        boxes = torch.stack([left, top, left + 8, top + 8], 1)
        return boxes.repeat(images.shape[0], 1, 1), torch.stack([1 - light, light], 2)


class Shades(torch.nn.Module):
    """Three classes by brightness, for cells of 4 x 4."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, 32, 40] -> logits [B, 3, 8, 10]."""
        light = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True) / 255, 4)
        return torch.cat([0.4 - light, 0.2 - (light - 0.5).abs(), light - 0.6], 1)


class Drift(torch.nn.Module):
    """Three classes by how the lower half brightens."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 4, 3, 16, 16] -> logits [B, 3]."""
        light = clips[:, :, :, 8:].float().mean((2, 3, 4)) / 64
        change = light[:, 2:].sum(1) - light[:, :2].sum(1)
        return torch.stack([change, 0 * change, -change], 1)


class Steer(torch.nn.Module):
    """Two actions, of which some are allowed; finite for all that float32 can say."""

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """float32 [B, 4], bool [B, 2] -> action [B], q_values [B, 2]."""
        lean = (observations.clamp(-10, 10) * torch.tensor([0.1, 0.2, 2.0, 1.0])).sum(1)
        values = torch.stack([-lean, lean], 1)
        return {"action": values.masked_fill(~action_mask, -torch.inf).argmax(1), "q_values": values}


CONFIGS: dict[str, dict[str, Any]] = {
    "classifier": {
        "preprocess_config": ImageInput(16, 16, "L", "ink").as_config(),
        "postprocess_config": {"type": "classification", "top_k": 5},
        "class_mapping": {str(digit): str(digit) for digit in range(10)},
    },
    "detector": {
        "preprocess_config": ImageInput(32, 40, "RGB", "letterbox").as_config(),
        "postprocess_config": {
            "type": "detection",
            **{"score_threshold": 0.6, "nms_threshold": 0.5, "candidates": 100, "detections_per_image": 20},
        },
        "class_mapping": {"0": "dark", "1": "light"},
    },
    "segmenter": {
        "preprocess_config": ImageInput(32, 40, "RGB", "letterbox").as_config(),
        "postprocess_config": {"type": "segmentation"},
        "class_mapping": {"0": "dark", "1": "middling", "2": "light"},
    },
    "video_classifier": {
        "preprocess_config": ClipInput(4, ImageInput(16, 16)).as_config(),
        "postprocess_config": {"type": "classification", "top_k": 2},
        "class_mapping": {"0": "brightens", "1": "stays", "2": "darkens"},
    },
    "policy": {
        "preprocess_config": {
            **{
                "input": "observation",
                "inputs": ["observation", "action_mask"],
                "shape": [4],
                "dtype": "float32",
            },
            "environment": "none",
        },
        "postprocess_config": {
            "type": "policy",
            "action_space": {"type": "discrete", "n": 2},
            "outputs": ["q_values"],
        },
    },
}
GRAPHS: dict[str, tuple[type[Predictor], torch.nn.Module, tuple[torch.Tensor, ...]]] = {
    "classifier": (ClassifierPredictor, Glance(), (torch.zeros(2, 1, 16, 16, dtype=torch.uint8),)),
    "detector": (DetectorPredictor, Grid(), (torch.zeros(2, 3, 32, 40, dtype=torch.uint8),)),
    "segmenter": (SegmenterPredictor, Shades(), (torch.zeros(2, 3, 32, 40, dtype=torch.uint8),)),
    "video_classifier": (
        VideoClassifierPredictor,
        Drift(),
        (torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8),),
    ),
    "policy": (PolicyPredictor, Steer(), (torch.zeros(2, 4), torch.ones(2, 2, dtype=torch.bool))),
}


@dataclass
class Served:
    """A handler, and what each request gets when it is sent alone."""

    handler: Predictor
    folder: Path
    known: dict[str, tuple[int, Any]] = field(default_factory=dict)  # by the request's name

    def alone(self, request: Sent) -> tuple[int, Any]:
        """What a request of the corpus gets alone."""
        if request.name not in self.known:
            (self.known[request.name],) = self.answers([request])
        return self.known[request.name]

    def answers(self, requests: list[Sent]) -> list[tuple[int, Any]]:
        """(status, parsed body) of each request of one batch. Raises for JSON that is not finite."""
        rows_, headers_ = zip(*map(row_of, requests), strict=True)
        rows = [(row, lower_case(headers)) for row, headers in zip(rows_, headers_, strict=True)]
        replies = self.handler.reply(rows, [f"id-{index}" for index in range(len(requests))])
        return [(reply.status.value, json.loads(reply.content, parse_constant=_refuse)) for reply in replies]

    def mixed_up(self, requests: list[Sent], alone: Mapping[str, tuple[int, Any]]) -> list[str]:
        """Where the answers to one batch are not those that each request gets alone."""
        found = []
        for index, (one, (status, answer)) in enumerate(zip(requests, self.answers(requests), strict=True)):
            if status != alone[one.name][0]:
                found.append(f"{one.name}: {status} instead of {alone[one.name][0]}")
            elif status == 200:
                found.append(difference(alone[one.name][1], answer, one.name))
            elif answer != {**alone[one.name][1], "request_id": f"id-{index}"}:
                found.append(f"{one.name}: {answer} instead of {alone[one.name][1]}")
        return [one for one in found if one]


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def served_kind(kind: str, folder: Path) -> Served:
    """The predictor of this kind; its files go to the empty `folder`."""
    make, module, example = GRAPHS[kind]
    files = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": kind, "max_batch": 8},
        **CONFIGS[kind],
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    handler = make()
    handler.configure(Export.open(folder))
    batch = tuple({0: torch.export.Dim("batch", min=1, max=8)} for _ in example)
    handler.model = TorchRuntime(torch.export.export(module.eval(), example, dynamic_shapes=batch).module())
    return Served(handler, folder)
