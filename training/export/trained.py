"""What a recipe hands to the export: the contract between `training/recipes/` and `export/writer.py`.

A recipe module offers

    Settings   a `marina.core.spec.Section`: every setting with its default and a description
    train(settings: Settings, run: Run) -> Trained

and draws its figures (curves, confusions, worst misses) as PNG into the folder `run.report`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

HELD_OUT = 256
CALIBRATION = 128


@dataclass(frozen=True)
class Sample:
    """A request with what must come back.

    `expect` is {"class": name}, {"labels": [name, …]}, {"detections": [{"class": name, "bbox": [x1, y1, x2,
    y2]}]} in pixels of the image that is sent, {"areas": {class: share of the image}}, or {"action": number
    or list}.
    """

    name: str
    body: bytes
    content_type: str
    expect: dict[str, Any]


@dataclass(frozen=True)
class Dimension:
    """A dimension of the graph's inputs whose size differs from request to request, both bounds included."""

    name: str
    least: int
    most: int


@dataclass
class Trained:
    """A trained model with all that its handler needs.

    `module` is on the CPU, in eval mode, and takes one batch exactly as the handler stacks it: uint8 [B, C,
    H, W] for images, uint8 [B, T, C, H, W] for clips of T frames, float32 [B, *observation shape] for
    policies (discrete observations: int64 [B]). A policy may take more, named in order under "inputs" in its
    `preprocess`: "action_mask" bool [B, actions], and "noise" float32 [B, actions or components], zeros for
    its deterministic action, otherwise draws of the distribution that `postprocess` names under "noise"
    (gumbel or normal), and "state" float32 [B, *the shape in "state" of its `preprocess`], zeros at the first
    step of an episode, later what it returned as "state" before. Normalisation, masking, un-squashing and box
    decoding happen inside it. It returns

        classifier, video_classifier  logits float32 [B, classes]
        detector    (boxes float32 [B, A, 4] as x1, y1, x2, y2 in pixels of the graph's input, scores float32
                    [B, A, classes] in 0..1 without background): all candidates, before thresholds and
                    non-maximum suppression. A two-stage one ("selection": "graph" in `postprocess`) takes
                    threshold float32 [B] too, and wanted bool [B] with masks, and returns what is found,
                    filled up with zeros: boxes [B, D, 4], scores [B, D], labels int64 [B, D], (masks float32
                    [B, D, s, s], probabilities inside the boxes)
        segmenter   logits float32 [B, classes, h, w] of the graph's whole input, in its own or a coarser
                    resolution
        text_classifier   logits float32 [B, classes] of tokens int64 [B, length], where 0 is padding
        tagger      logits float32 [B, length, tags] of features int64 [B, length, F], where 0 is padding
        embedder    unit vectors float32 [B, dimension] of the same tokens
        regressor   values float32 [B] in the target's unit, for features float32 [B, F] as the table in
                    `preprocess` encodes rows
        tabular_classifier  logits float32 [B, classes], for the same
        forecaster  changes float32 [B, horizon] from the last value, in deviations, for features float32
                    [B, F] as the series input in `preprocess` encodes windows
        sequence_classifier  logits float32 [B, classes] of signals float32 [B, T, C], filled up with zeros,
                    and their steps int64 [B]
        audio_classifier  logits float32 [B, classes] of waveforms float32 [B, T] of one channel, filled up
                    with zeros, and their samples int64 [B]
        generator   the step and, as the part "prompt", what reads a prompt: see `handlers.decoding.loop`
        policy      dict with "action" (int64 [B], or float32 [B, n] in the action space's own units), and
                    "q_values", "probabilities" or "value" where the policy has them
    """

    kind: str
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]  # the inputs of a batch of at least 2, as the handler stacks them
    metrics: dict[str, float]  # on held-out data; the spec's floor is checked against these names
    preprocess: dict[str, Any]  # preprocess_config.json
    postprocess: dict[str, Any]  # postprocess_config.json
    samples: list[Sample]  # held-out examples that the model answers rightly, spread over the classes
    data: dict[str, Any]  # name, source, licence, fingerprint and counts of the training data
    classes: list[str] | None = None  # index -> class name
    # per input its dimensions of no fixed size beside the batch: index -> dimension; () for none at all
    dimensions: tuple[Mapping[int, Dimension], ...] = ()
    # further files of the export by name, which the kind's predictor reads
    files: Mapping[str, bytes] = field(default_factory=dict)
    # further programs by name, as the kind's predictor names them: of each its module, example and dimensions
    parts: Mapping[str, "Trained"] = field(default_factory=dict)
    # the program where the model came as an ONNX graph: `module` computes it, and torch can't export it
    onnx: bytes | None = None
    parameters: int | None = None  # of such a graph; of others they are the module's
    # held-out inputs like `example`, HELD_OUT at most, to check a runtime with
    validation: tuple[torch.Tensor, ...] = ()
    # detectors: score from which on a find is no mere guess, so that a runtime must find it too
    sure: float = 0.0
    # detectors: the metric, 0..1, of answers to `validation` in the input's pixels
    quality: Callable[[list[Any]], float] | None = None
    # training inputs, to measure the ranges of eight bits on; () without
    calibration: Callable[[], tuple[torch.Tensor, ...]] = tuple
    # epochs or steps done, seconds, what else is worth keeping
    training: dict[str, Any] = field(default_factory=dict)
    # what was left out, cut or guessed; `training.train` takes it from the run
    findings: list[dict[str, Any]] = field(default_factory=list)

    def part(
        self,
        module: torch.nn.Module,
        example: tuple[torch.Tensor, ...],
        dimensions: tuple[Mapping[int, Dimension], ...],
    ) -> "Trained":
        """A further program of this model, for `parts`."""
        empty: Any = {"validation": (), "calibration": tuple, "parts": {}, "samples": []}
        return replace(self, module=module, example=example, dimensions=dimensions, **empty)

    def rows(self, size: int, sizes: Mapping[str, int] | None = None) -> tuple[torch.Tensor, ...]:
        """A batch of `size` made of the example's rows; dimensions by name as long as `sizes` says, repeated
        or cut.
        """
        batch = []
        for index, part in enumerate(self.example):
            taken = part[torch.arange(size) % len(part)]
            for place, dimension in (self.dimensions[index] if self.dimensions else {}).items():
                if dimension.name in (sizes or {}):
                    indices = torch.arange(sizes[dimension.name]) % part.shape[place]  # type: ignore[index]
                    taken = taken.index_select(place, indices)
            batch.append(taken)
        return tuple(batch)

    def sizes_to_check(self) -> list[dict[str, int]]:
        """Sizes of the dimensions that have no fixed one, at which a form must equal the model: the least,
        and two that are not the example's.
        """
        checks = []
        for part, dimensions in zip(self.example, self.dimensions, strict=False):
            for place, dimension in dimensions.items():
                usual = part.shape[place]
                others = (dimension.least, dimension.least + 1, min(dimension.most, 2 * usual + 1))
                checks += [{dimension.name: size} for size in others if size <= dimension.most]
        return [check for index, check in enumerate(checks) if check not in checks[:index]]


def spread(examples: Any, most: int = CALIBRATION) -> Any:
    """Up to `most` of a sequence or of a tensor's rows, evenly from its whole length: data often lies in
    the order of its classes.
    """
    return examples[:: max(1, -(-len(examples) // most))]
