"""Brings a detector of torchvision's make that learned elsewhere: SSD, RetinaNet, FCOS, Faster or Mask R-CNN, with any backbone.

A one-stage model is cut where its graph stops to depend on the picture (docs/decisions/0002): what torchvision computes before that
is exported, what comes after it is `bundle_detections`, with the model's own thresholds. A two-stage one is exported whole. Then the
model itself is asked: where its detections are not those of the exported one, the import is refused.

Pictures are resized as torchvision does, without antialiasing, but before the graph and to whole grey levels. All but SSD choose a
size for every picture; a graph has one, `height` x `width`, into which a picture is fitted with its proportions kept.

Not covered: keypoints, and detectors of other makes.
"""

import base64
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from rich.progress import track
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from marina.errors import CallError
from training import datasets
from training.classification.evaluation import pixels_of
from training.datasets import Example, ImageData
from training.detection.architectures import Detector
from training.detection.evaluation import (
    BATCH,
    LEAST,
    Found,
    best_threshold,
    detect,
    mask_precision,
    precision_of_answers,
    precision_recall,
)
from training.detection.pixels import open_example
from training.detection.two_stage import TwoStage
from training.detection.weights import Whole
from training.imports.detections import Cut, compare
from training.imports.sources import Source, build, class_names, fingerprints, made_pictures, own_names
from training.trained import HELD_OUT, Sample, Trained

from bundle_images import ImageInput, open_image, prepare
from bundle_instances import MAX_PIXELS

LOG = logging.getLogger("marina")
NAMELESS = ("__background__", "N/A")  # torchvision's words for what is no class
TIE = 1e-4  # of scores
CROWD = 12  # most detections in a made picture that serve as a sample
OVERRULED = ("score_threshold", "nms_threshold", "candidates", "detections_per_image")
LEAST_SIDE = 4  # of their boxes, in pixels: of slivers the overlap hangs on a hair


class Settings(Source):
    """What a spec may say under `training`."""

    height: int | None = Field(
        default=None, ge=64, le=2048, description="of the graph's input, pixels; default: the model's, see docs/import.md"
    )
    width: int | None = Field(default=None, ge=64, le=2048, description="of the graph's input, pixels")
    fit: Literal["stretch", "letterbox"] | None = Field(default=None, description="default: stretch for SSD, letterbox for the others")
    scores: Literal["softmax", "sigmoid"] | None = Field(
        default=None, description="of the class logits; default: as torchvision's class does"
    )
    score_threshold: float | None = Field(default=None, ge=0, lt=1, description="least score served; default: the model's own")
    nms_threshold: float | None = Field(default=None, gt=0, le=1, description="most overlap within a class; default: the model's own")
    candidates: int | None = Field(
        default=None, ge=1, description="best ones that go on to it, of R-CNN to the second stage; default: the model's own"
    )
    detections_per_image: int | None = Field(default=None, ge=1, le=1000, description="default: the model's own")


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Bring the model, compare it with itself, and measure it where there is data: map and ap50.

    Raises CallError for what can't be had or isn't such a detector, WorkError where the graph and the model differ.
    """
    from training.detector import asking_for_masks

    started = time.monotonic()
    torch.manual_seed(seed)
    model = _known(build(settings), settings)
    inputs, like_learnt = _inputs(model, settings), settings.calibration_pictures()
    graph = graph_of(model, inputs, settings)
    if graph.has_masks:
        inputs = replace(inputs, max_pixels=MAX_PIXELS)
    data = datasets.held_out(settings.data, "detector") if settings.data else None
    pictures = [example.encoded()[0] for example in data.test[:4]] if data else made_pictures()[:4]
    difference = compare(model, graph, _prepared(pictures, inputs))
    labels, names = _named_labels(graph, settings, data)
    graph.labels = torch.tensor(labels)
    masks = graph.has_masks
    postprocess = {"type": "detection", **thresholds(graph, settings)}
    sure, truth = 0.0, tuple[Example, ...]()
    if data:
        data = _with_labels_of(data, names)
        truth = tuple(data.test)
        masks = masks and all(one is not None for example in data.test for one in example.segmentations or [None])
        found = _found(graph, data.test, inputs, {**postprocess, "score_threshold": min(LEAST, postprocess["score_threshold"])}, masks)
        metrics, curves = precision_recall(found, data.test)
        metrics |= mask_precision(found, data.test) if masks else {}
        sure = max(best_threshold(found, data.test), postprocess["score_threshold"])
        samples = _samples(found, data, postprocess["score_threshold"]) or _as_found(graph, inputs, postprocess, names)
        _draw(found, data, curves, report)
    else:
        metrics, samples = {}, _as_found(graph, inputs, postprocess, names)
    if graph.has_masks:
        samples = [asking_for_masks(sample) for sample in samples]
    return Trained(
        kind="detector",
        module=graph,
        example=graph.inputs(_prepared(made_pictures()[:2], inputs), 0.05),
        validation=graph.inputs(pixels_of(inputs, data.test[:HELD_OUT]), 0.05) if data else (),
        calibration=lambda: graph.inputs(pixels_of(inputs, like_learnt), 0.05) if like_learnt else (),
        sure=sure,
        quality=(lambda answers: precision_of_answers(answers, truth, inputs, names)) if truth else None,
        metrics=metrics,
        preprocess=inputs.as_config(),
        postprocess=postprocess,
        samples=samples,
        data={
            "name": "not known",
            "source": f"imported: {settings.source}",
            "licence": settings.licence,
            "measured_on": data.about() if data else None,
        },
        classes=names,
        training={**difference, "files": fingerprints(settings), "seconds": round(time.monotonic() - started, 1)},
    )


def _prepared(files: Sequence[bytes], inputs: ImageInput) -> torch.Tensor:
    return torch.from_numpy(np.stack([prepare(open_image(file), inputs) for file in files]))


def _known(model: nn.Module, settings: Settings) -> Whole:
    """`model`, if it is a detector that can be exported. Raises CallError, with what can, for another."""
    if isinstance(model, KeypointRCNN) or not isinstance(model, Whole):
        kinds = "SSD, SSDlite, RetinaNet, FCOS, Faster R-CNN and Mask R-CNN"
        raise CallError(f"{settings.source} is {type(model).__name__}; of detectors, torchvision's {kinds} can be imported")
    if isinstance(model, FasterRCNN):
        if settings.scores:
            raise CallError("leave 'scores' out: the second stage of a two-stage detector has a softmax over its classes")
        owner, make = model.roi_heads, RoIHeads
    else:
        owner, make = model, next(kind for kind in (SSD, RetinaNet, FCOS) if isinstance(model, kind))
    own = "postprocess_detections" in vars(owner) or type(owner).postprocess_detections is not make.postprocess_detections
    if own and settings.scores is None and not isinstance(model, FasterRCNN):
        raise CallError(
            f"{settings.source} has a postprocess_detections of its own, so how its logits become scores is not torchvision's way; "
            "say it: --set training.scores=sigmoid or softmax. The import compares its detections with the model's and refuses other ones"
        )
    return model


def _inputs(model: Whole, settings: Settings) -> ImageInput:
    """What comes before the graph; the model's own transform is set to that size, so that it lets such pictures pass unchanged."""
    transform = model.transform
    if not isinstance(transform, GeneralizedRCNNTransform):
        raise CallError(f"{settings.source} prepares its pictures by {type(transform).__name__}, not by torchvision's own transform")
    if transform.fixed_size:
        width, height = settings.width or transform.fixed_size[0], settings.height or transform.fixed_size[1]
        transform.fixed_size = (width, height)
    else:
        least = transform.min_size[-1]
        height, width = settings.height or _whole(least, 32), settings.width or _whole(min(transform.max_size, least * 4 / 3), 32)
        if height % 32 or width % 32:
            raise CallError(f"height {height} and width {width} must be multiples of 32 for {type(model).__name__}")
        transform.min_size, transform.max_size = (min(height, width),), max(height, width)
    fit = settings.fit or ("stretch" if transform.fixed_size else "letterbox")
    return ImageInput(height, width, fit=fit, antialias=False)


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
    """What postprocess_config.json says: the model's own attributes, or what the settings put in their place."""
    own = {**graph.own_thresholds(), **{key: value for key in OVERRULED if (value := getattr(settings, key)) is not None}}
    if isinstance(graph, TwoStage):
        limits = graph.limit(own["nms_threshold"], own["detections_per_image"])
        return {"score_threshold": own["score_threshold"], **limits}
    return own


def _named_labels(graph: Cut | TwoStage, settings: Settings, data: ImageData | None) -> tuple[list[int], list[str]]:
    """(torchvision's labels of the classes that are answered, their names), in the order of the answers' indices.

    Label 0 is the background, or stands unused in its place where a model counts its classes from 1; gaps in COCO's numbers are
    no classes. Raises CallError for names of another count.
    """
    columns = graph.columns
    names = class_names(settings.classes) or own_names(settings, columns)
    if names is None and data and len(data.classes) in (columns, columns - 1):
        LOG.warning("the classes of %s are called as those of the data, in their order there; check it", settings.source)
        names = list(data.classes)
    if names is None:
        LOG.warning("the classes of %s have no names: answers number them as torchvision does; give a file as 'classes'", settings.source)
        names = list(map(str, range(columns)))
    if len(names) == columns - 1:
        names = ["__background__", *names]
    if len(names) != columns:
        raise CallError(f"{len(names)} class names were given; the model has {columns}, or {columns - 1} and the background")
    labels = [label for label in graph.labels.tolist() if names[label] not in NAMELESS]
    return labels, [names[label] for label in labels]


def _with_labels_of(data: ImageData, names: list[str]) -> ImageData:
    """`data` with the model's classes in the place of its own. Raises CallError for a class that the model doesn't know."""
    if strange := sorted(set(data.classes) - set(names)):
        raise CallError(f"the model has no class {', '.join(strange[:3])}; it has {', '.join(names[:6])} …: give their names as 'classes'")
    index = torch.tensor([names.index(name) for name in data.classes]).numpy()
    return replace(data, classes=tuple(names), test=[replace(example, labels=index[example.labels]) for example in data.test])


def _found(
    graph: Detector, examples: Sequence[Example], inputs: ImageInput, postprocess: dict[str, Any], masks: bool = False
) -> list[Found]:
    found = []
    many = max(1, min(BATCH, BATCH * 320 * 320 // (inputs.height * inputs.width)))  # so that large inputs fit into memory
    for start in track(range(0, len(examples), many), "measuring", transient=True):
        images = [open_example(example) for example in examples[start : start + many]]
        pixels = torch.from_numpy(np.stack([prepare(image, inputs) for image in images]))
        found += detect(graph, pixels, [image.size for image in images], inputs, postprocess, masks)
    return found


def _samples(found: Sequence[Found], data: ImageData, threshold: float) -> list[Sample]:
    """Pictures answered rightly, or nearly; at a threshold of their own where the served one lets pass what is no sure find."""
    from training.detector import samples

    at = threshold if threshold >= 0.05 else best_threshold(found, data.test)
    steady = [row for row, one in enumerate(found) if _is_steady(one.above(at - 0.03))]
    chosen = samples([found[row] for row in steady], replace(data, test=[data.test[row] for row in steady]), at)
    return [sample if at == threshold else _at_threshold(sample, at) for sample in chosen]


def _is_steady(found: Found) -> bool:
    """Whether no two scores are so near that they might change places between one kernel and another."""
    return bool((found.scores[:-1] - found.scores[1:] > TIE).all())


def _at_threshold(sample: Sample, threshold: float) -> Sample:
    body = json.dumps({"image": base64.b64encode(sample.body).decode(), "confidence_threshold": threshold}).encode()
    return replace(sample, body=body, content_type="application/json")


def _as_found(graph: Detector, inputs: ImageInput, postprocess: dict[str, Any], names: list[str]) -> list[Sample]:
    """Made pictures with what the model sees in them: they prove that a server answers as it does, no more.

    Each has a threshold of its own, in the widest gap between the best scores, and above any box that is next to nothing.
    """
    samples = []
    for number, file in enumerate(made_pictures()):
        image = open_image(file)
        (found,) = detect(
            graph, torch.from_numpy(prepare(image, inputs)[None]), [image.size], inputs, {**postprocess, "score_threshold": 0.0}
        )
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).amin(1)
        sound = int((sides >= LEAST_SIDE).long().cumprod(0).sum())  # so many before the first that isn't
        edges = torch.cat([torch.ones(1), found.scores, torch.zeros(1)])[: min(CROWD, sound) + 2]
        gaps = (edges[:-1] - edges[1:]).tolist()  # behind so many detections
        steady = [k for k in range(1, len(gaps)) if gaps[k] > 10 * TIE and min(gaps[1:k], default=1) > TIE]
        many = max(steady, key=gaps.__getitem__, default=0)
        threshold = float(edges[many : many + 2].mean())
        shown = found.above(threshold)
        expect = [{"class": names[label], "bbox": box} for box, label in zip(shown.boxes.tolist(), shown.labels.tolist(), strict=True)]
        samples.append(_at_threshold(Sample(f"made-{number}-as-found", file, "image/png", {"detections": expect}), threshold))
    return sorted(samples, key=lambda sample: not sample.expect["detections"])


def _draw(found: Sequence[Found], data: ImageData, curves: Any, report: Path) -> None:
    from training.detection import drawing

    at = best_threshold(found, data.test)
    drawing.precision_recall(curves, data.classes, report / "precision_recall.png")
    drawing.examples([one.above(at) for one in found], data.test, data.classes, report / "examples.png")
