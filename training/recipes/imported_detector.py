"""Brings a detector of torchvision's make that learned elsewhere: SSD, RetinaNet, FCOS, Faster or Mask R-CNN,
with any backbone.

A one-stage model is cut where its graph stops to depend on the picture (docs/decisions/0002): what
torchvision computes before that is exported, what comes after it is `kinds.detections`, with the model's own
thresholds. A two-stage one is exported whole. Then the model itself is asked: where its detections are not
those of the exported one, the import is refused.

Pictures are resized as torchvision does, without antialiasing, but before the graph and to whole grey levels.
All but SSD choose a size for every picture; a graph has one, `height` x `width`, into which a picture is
fitted with its proportions kept.

Not covered: keypoints, and detectors of other makes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from rich.progress import track
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from handlers.inputs.images import ImageInput, open_image, prepare
from handlers.kinds.instance_masks import MAX_PIXELS
from marina.core.errors import CallError
from training.data import Example, ImageData, held_out_objects
from training.export.trained import HELD_OUT, Sample, Trained
from training.findings import Findings
from training.imports.class_names import names_from_weights, read_class_names
from training.imports.detections import Cut, compare
from training.imports.pictures import make_pictures
from training.imports.sources import Source, build, fingerprints
from training.runs.run import Run
from training.vision.classification.evaluation import pixels_of
from training.vision.detection.architectures import Detector
from training.vision.detection.evaluation import (
    BATCH,
    LEAST,
    PRECISION_METRICS,
    Found,
    best_threshold,
    detect,
    mask_precision,
    precision_of_answers,
    precision_recall,
)
from training.vision.detection.pixels import open_example
from training.vision.detection.samples import make_samples_as_found, make_steady_samples, request_masks
from training.vision.detection.two_stage import TwoStage
from training.vision.detection.weights import Whole

NAMELESS = ("__background__", "N/A")  # torchvision's words for what is no class
OVERRULED = ("score_threshold", "nms_threshold", "candidates", "detections_per_image")
IS_IMPORT = True
METRICS = PRECISION_METRICS


class Settings(Source):
    """What a spec may say under `training`."""

    height: int | None = Field(
        default=None,
        ge=64,
        le=2048,
        description="of the graph's input, pixels; default: the model's, see docs/guide/import-a-model.md",
    )
    width: int | None = Field(default=None, ge=64, le=2048, description="of the graph's input, pixels")
    resize: Literal["stretch", "letterbox"] | None = Field(
        default=None, description="default: stretch for SSD, letterbox for the others"
    )
    scores: Literal["softmax", "sigmoid"] | None = Field(
        default=None, description="of the class logits; default: as torchvision's class does"
    )
    score_threshold: float | None = Field(
        default=None, ge=0, lt=1, description="least score served; default: the model's own"
    )
    nms_threshold: float | None = Field(
        default=None, gt=0, le=1, description="most overlap within a class; default: the model's own"
    )
    candidates: int | None = Field(
        default=None,
        ge=1,
        description="best ones that go on to it, of R-CNN to the second stage; default: the model's own",
    )
    detections_per_image: int | None = Field(
        default=None, ge=1, le=1000, description="default: the model's own"
    )

    renamed: ClassVar[dict[str, str]] = {"fit": "resize"}


@dataclass(frozen=True)
class Measured:
    """What the model finds in test pictures, and what that is worth; nothing where there are none."""

    metrics: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    sure: float = 0.0


def train(settings: Settings, run: Run) -> Trained:
    """Bring the model, compare it with itself, and measure it where there is data: map and ap50.

    Raises CallError for what can't be had or isn't such a detector, WorkError where the graph and the model
    differ.
    """
    started = time.monotonic()
    torch.manual_seed(run.seed)
    model = _known(build(settings, run.findings), settings)
    inputs, like_learnt = _inputs(model, settings), settings.calibration_pictures(run.findings)
    graph = graph_of(model, inputs, settings)
    if graph.has_masks:
        inputs = replace(inputs, max_pixels=min(inputs.max_pixels, MAX_PIXELS))
    made = make_pictures()
    data = held_out_objects(settings.data, run.findings, settings.limits) if settings.data else None
    pictures = [example.encoded()[0] for example in data.test[:4]] if data else made[:4]
    facts = compare(model, graph, _prepared(pictures, inputs)) | {"files": fingerprints(settings)}
    labels, names = _named_labels(graph, settings, data, run.findings)
    graph.labels = torch.tensor(labels)
    postprocess = {"type": "detection", **thresholds(graph, settings)}
    data = _with_labels_of(data, names) if data else None
    truth = data.test if data else []
    measured = _measure(graph, data, inputs, postprocess, run.report) if data else Measured()
    samples = measured.samples or make_samples_as_found(graph, made, inputs, postprocess, names)
    facts["seconds"] = round(time.monotonic() - started, 1)
    return Trained(
        kind="detector",
        module=graph,
        example=graph.inputs(_prepared(made[:2], inputs), 0.05),
        validation=graph.inputs(pixels_of(inputs, data.test[:HELD_OUT]), 0.05) if data else (),
        calibration=lambda: graph.inputs(pixels_of(inputs, like_learnt), 0.05) if like_learnt else (),
        sure=measured.sure,
        quality=(lambda answers: precision_of_answers(answers, truth, inputs, names)) if truth else None,
        metrics=measured.metrics,
        preprocess=inputs.as_config(),
        postprocess=postprocess,
        samples=[request_masks(sample) for sample in samples] if graph.has_masks else samples,
        data=settings.about(data),
        classes=names,
        training=facts,
    )


def _measure(
    graph: Cut | TwoStage, data: ImageData, inputs: ImageInput, postprocess: dict[str, Any], report: Path
) -> Measured:
    """Measure on the test pictures, with masks if the model and all of the truth have them, and draw."""
    from training.vision.detection import drawing

    masks = graph.has_masks and all(
        one is not None for example in data.test for one in example.segmentations or [None]
    )
    threshold = postprocess["score_threshold"]
    found = _found(graph, data.test, inputs, {**postprocess, "score_threshold": min(LEAST, threshold)}, masks)
    metrics, curves = precision_recall(found, data.test)
    metrics |= mask_precision(found, data.test) if masks else {}
    best = best_threshold(found, data.test)
    drawing.precision_recall(curves, data.classes, report / "precision_recall.png")
    drawing.examples([one.above(best) for one in found], data.test, data.classes, report / "examples.png")
    return Measured(metrics, make_steady_samples(found, data, threshold), max(best, threshold))


def _prepared(files: Sequence[bytes], inputs: ImageInput) -> torch.Tensor:
    return torch.from_numpy(np.stack([prepare(open_image(file), inputs) for file in files]))


def _known(model: nn.Module, settings: Settings) -> Whole:
    """`model`, if it is a detector that can be exported. Raises CallError, with what can, for another."""
    if isinstance(model, KeypointRCNN) or not isinstance(model, Whole):
        kinds = "SSD, SSDlite, RetinaNet, FCOS, Faster R-CNN and Mask R-CNN"
        raise CallError(
            f"{settings.source} is {type(model).__name__}; of detectors, torchvision's {kinds} can be "
            "imported"
        )
    if isinstance(model, FasterRCNN):
        if settings.scores:
            raise CallError(
                "leave 'scores' out: the second stage of a two-stage detector has a softmax over its classes"
            )
        owner, make = model.roi_heads, RoIHeads
    else:
        owner, make = model, next(kind for kind in (SSD, RetinaNet, FCOS) if isinstance(model, kind))
    own = (
        "postprocess_detections" in vars(owner)
        or type(owner).postprocess_detections is not make.postprocess_detections
    )
    if own and settings.scores is None and not isinstance(model, FasterRCNN):
        raise CallError(
            f"{settings.source} has a postprocess_detections of its own, so how its logits become scores "
            "is not torchvision's way; "
            "say it: --set training.scores=sigmoid or softmax. The import compares its detections with the "
            "model's and refuses other ones"
        )
    return model


def _inputs(model: Whole, settings: Settings) -> ImageInput:
    """What comes before the graph; the model's own transform is set to that size, so that it lets such
    pictures pass unchanged.
    """
    transform = model.transform
    if not isinstance(transform, GeneralizedRCNNTransform):
        raise CallError(
            f"{settings.source} prepares its pictures by {type(transform).__name__}, not by torchvision's "
            "own transform"
        )
    if transform.fixed_size:
        width, height = settings.width or transform.fixed_size[0], settings.height or transform.fixed_size[1]
        transform.fixed_size = (width, height)
    else:
        least = transform.min_size[-1]
        height, width = (
            settings.height or _whole(least, 32),
            settings.width or _whole(min(transform.max_size, least * 4 / 3), 32),
        )
        if height % 32 or width % 32:
            raise CallError(
                f"height {height} and width {width} must be multiples of 32 for {type(model).__name__}"
            )
        transform.min_size, transform.max_size = (min(height, width),), max(height, width)
    fit = settings.resize or ("stretch" if transform.fixed_size else "letterbox")
    return settings.limit(ImageInput(height, width, fit=fit, antialias=False))


def _whole(pixels: float, step: int) -> int:
    return int(-(-pixels // step) * step)


def graph_of(model: Whole, inputs: ImageInput, settings: Settings) -> Cut | TwoStage:
    """What is exported of the model, first with all of its classes."""
    if not isinstance(model, FasterRCNN):
        return Cut(model, inputs, settings.scores or ("softmax" if isinstance(model, SSD) else "sigmoid"))
    if settings.candidates:
        model.rpn._pre_nms_top_n["testing"] = model.rpn._post_nms_top_n["testing"] = settings.candidates
    return TwoStage(model, inputs.height, inputs.width)


def thresholds(graph: Cut | TwoStage, settings: Settings) -> dict[str, Any]:
    """What postprocess_config.json says: the model's own attributes, or what the settings put in their
    place.
    """
    own = {
        **graph.own_thresholds(),
        **{key: value for key in OVERRULED if (value := getattr(settings, key)) is not None},
    }
    if isinstance(graph, TwoStage):
        limits = graph.limit(own["nms_threshold"], own["detections_per_image"])
        return {"score_threshold": own["score_threshold"], **limits}
    return own


def _named_labels(
    graph: Cut | TwoStage, settings: Settings, data: ImageData | None, findings: Findings
) -> tuple[list[int], list[str]]:
    """(torchvision's labels of the classes that are answered, their names), in the order of the answers'
    indices.

    Label 0 is the background, or stands unused in its place where a model counts its classes from 1; gaps in
    COCO's numbers are no classes. Raises CallError for names of another count.
    """
    columns = graph.columns
    names = read_class_names(settings.classes) or names_from_weights(settings, columns)
    if names is None and data and len(data.classes) in (columns, columns - 1):
        names = list(data.classes)
        findings.add(
            "class names", "are taken from the data, in this order: check it, or give classes", names
        )
    if names is None:
        names = list(map(str, range(columns)))
        findings.add("classes", "have no names: answers number them; give a file as classes", names, columns)
    if len(names) == columns - 1:
        names = ["__background__", *names]
    if len(names) != columns:
        raise CallError(
            f"{len(names)} class names were given; the model has {columns}, or {columns - 1} and the "
            "background"
        )
    labels = [label for label in graph.labels.tolist() if names[label] not in NAMELESS]
    return labels, [names[label] for label in labels]


def _with_labels_of(data: ImageData, names: list[str]) -> ImageData:
    """`data` with the model's classes in the place of its own. Raises CallError for a class that the model
    doesn't know.
    """
    if strange := sorted(set(data.classes) - set(names)):
        raise CallError(
            f"the model has no class {', '.join(strange[:3])}; it has {', '.join(names[:6])} …: give their "
            "names as 'classes'"
        )
    index = torch.tensor([names.index(name) for name in data.classes]).numpy()
    return replace(
        data,
        classes=tuple(names),
        test=[replace(example, labels=index[example.labels]) for example in data.test],
    )


def _found(
    graph: Detector,
    examples: Sequence[Example],
    inputs: ImageInput,
    postprocess: dict[str, Any],
    masks: bool = False,
) -> list[Found]:
    found = []
    # so that large inputs fit into memory
    many = max(1, min(BATCH, BATCH * 320 * 320 // (inputs.height * inputs.width)))
    for start in track(range(0, len(examples), many), "measuring", transient=True):
        images = [open_example(example) for example in examples[start : start + many]]
        pixels = torch.from_numpy(np.stack([prepare(image, inputs) for image in images]))
        found += detect(graph, pixels, [image.size for image in images], inputs, postprocess, masks)
    return found
