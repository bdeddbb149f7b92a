"""What a recipe hands to the export: the contract between `training/<recipe>.py` and `training/export.py`.

A recipe module offers

    Settings   pydantic model (extra keys forbidden): every setting with its default and a description
    train(settings: Settings, seed: int, report: Path) -> Trained

and draws its pictures (curves, confusions, worst misses) as PNG into the folder `report`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

HELD_OUT = 256
CALIBRATION = 128


@dataclass(frozen=True)
class Sample:
    """A request with what must come back.

    `expect` is {"class": name}, {"detections": [{"class": name, "bbox": [x1, y1, x2, y2]}]} in pixels of the image that is
    sent, {"areas": {class: share of the image}}, or {"action": number or list}.
    """

    name: str
    body: bytes
    content_type: str
    expect: dict[str, Any]


@dataclass
class Trained:
    """A trained model with all that its handler needs.

    `module` is on the CPU, in eval mode, and takes one batch exactly as the handler stacks it: uint8 [B, C, H, W] for
    images, uint8 [B, T, C, H, W] for clips of T frames, float32 [B, *observation shape] for policies (discrete observations:
    int64 [B]). A policy may take more, named in order under "inputs" in its `preprocess`: "action_mask" bool [B, actions], and
    "noise" float32 [B, actions or components], zeros for its deterministic action, otherwise draws of the distribution that
    `postprocess` names under "noise" (gumbel or normal), and "state" float32 [B, *the shape in "state" of its `preprocess`],
    zeros at the first step of an episode, later what it returned as "state" before. Normalisation, masking, un-squashing and box
    decoding happen inside it.
    It returns

        classifier, video_classifier  logits float32 [B, classes]
        detector    (boxes float32 [B, A, 4] as x1, y1, x2, y2 in pixels of the graph's input, scores float32 [B, A, classes]
                    in 0..1 without background): all candidates, before thresholds and non-maximum suppression. A two-stage one
                    ("selection": "graph" in `postprocess`) takes threshold float32 [B] too, and wanted bool [B] with masks, and
                    returns what is found, filled up with zeros: boxes [B, D, 4], scores [B, D], labels int64 [B, D], (masks
                    float32 [B, D, s, s], probabilities inside the boxes)
        segmenter   logits float32 [B, classes, h, w] of the graph's whole input, in its own or a coarser resolution
        policy      dict with "action" (int64 [B], or float32 [B, n] in the action space's own units), and "q_values",
                    "probabilities" or "value" where the policy has them
    """

    kind: Literal["classifier", "detector", "segmenter", "policy", "video_classifier"]
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]  # the inputs of a batch of at least 2, as the handler stacks them
    metrics: dict[str, float]  # on held-out data; the spec's floor is checked against these names
    preprocess: dict[str, Any]  # preprocess_config.json
    postprocess: dict[str, Any]  # postprocess_config.json
    samples: list[Sample]  # held-out examples that the model answers rightly, spread over the classes
    data: dict[str, Any]  # name, source, licence, fingerprint and counts of the training data
    classes: list[str] | None = None  # index -> class name
    validation: tuple[torch.Tensor, ...] = ()  # held-out inputs like `example`, HELD_OUT at most, to check a runtime with
    sure: float = 0.0  # detectors: score from which on a find is no mere guess, so that a runtime must find it too
    quality: Callable[[list[Any]], float] | None = None  # detectors: the metric, 0..1, of answers to `validation` in the input's pixels
    calibration: Callable[[], tuple[torch.Tensor, ...]] = tuple  # training inputs, to measure the ranges of eight bits on; () without
    training: dict[str, Any] = field(default_factory=dict)  # epochs or steps done, seconds, what else is worth keeping


def spread(examples: Any, most: int = CALIBRATION) -> Any:
    """Up to `most` of a sequence or of a tensor's rows, evenly from its whole length: data often lies in the order of its classes."""
    return examples[:: max(1, -(-len(examples) // most))]
