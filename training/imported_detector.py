"""Brings a dense detector of torchvision's make that learned elsewhere: SSD, SSDlite, RetinaNet or FCOS, with any backbone.

The model is cut where its graph stops to depend on the picture (docs/decisions/0002): what torchvision computes before that is
exported, what comes after it is `bundle_detections`, with the model's own thresholds. Then the model itself is asked: where its
detections are not those of the two halves, the import is refused.

Pictures are resized as torchvision does, without antialiasing, but before the graph and to whole grey levels. RetinaNet and FCOS
choose a size for every picture; a graph has one, `height` x `width`, into which a picture is fitted with its proportions kept.

Not covered: two-stage detectors (Faster R-CNN, Mask R-CNN), and detectors of other makes.
"""

import base64
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from rich.progress import track
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import clip_boxes_to_image

from marina.errors import CallError, WorkError
from training import datasets
from training.classification.evaluation import pixels_of
from training.datasets import Example, ImageData
from training.detection.architectures import Candidates, Dense
from training.detection.evaluation import BATCH, LEAST, Found, best_threshold, detect, precision_recall
from training.detection.pixels import open_example
from training.imports.files import called
from training.imports.sources import Source, build, class_names, fingerprints, made_pictures, own_names
from training.trained import HELD_OUT, Sample, Trained

from bundle_detections import select
from bundle_images import ImageInput, open_image, prepare

LOG = logging.getLogger("marina")
Inside = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # boxes [N, 4] in pixels of the input, scores [N], torchvision's labels [N]
NAMELESS = ("__background__", "N/A")  # torchvision's words for what is no class
COMPARED = 100  # candidates of each picture that count for the comparison at least
SCORE_DIFFERENCE, PIXEL_DIFFERENCE = 1e-3, 0.5  # most that two kernels for the same thing may differ by
TIED = 0.02  # share of detections that may be without counterpart: overlaps at the very threshold may fall to either side
DIFFERENT = "the exported half of the model doesn't find what the whole model finds"
LOOK = "try another 'scores'; else the model makes its detections in a way of its own, which can't be imported"
TIE = 1e-4  # of scores
CROWD = 12  # most detections in a made picture that serve as a sample
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
    candidates: int | None = Field(default=None, ge=1, description="best ones that go on to it; default: the model's own")
    detections_per_image: int | None = Field(default=None, ge=1, le=1000, description="default: the model's own")


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Bring the model, compare it with itself, and measure it where there is data: map and ap50.

    Raises CallError for what can't be had or isn't such a detector, WorkError where the graph and the model differ.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    model = _dense(build(settings), settings)
    inputs = _inputs(model, settings)
    graph = ImportedDetector(model, inputs, settings.scores or ("softmax" if isinstance(model, SSD) else "sigmoid"))
    data = datasets.held_out(settings.data, "detector") if settings.data else None
    pictures = [example.encoded()[0] for example in data.test[:4]] if data else made_pictures()[:4]
    difference = compare(model, graph, torch.stack([prepare(open_image(file), inputs) for file in pictures]))
    labels, names = _named_labels(graph, settings, data)
    graph.labels = torch.tensor(labels)
    postprocess = {"type": "detection", **own_thresholds(graph), **_overruled(settings)}
    if data:
        data = _with_labels_of(data, names)
        found = _found(graph, data.test, inputs, {**postprocess, "score_threshold": min(LEAST, postprocess["score_threshold"])})
        metrics, curves = precision_recall(found, data.test)
        samples = _samples(found, data, postprocess["score_threshold"]) or _as_found(graph, inputs, postprocess, names)
        _draw(found, data, curves, report)
    else:
        metrics, samples = {}, _as_found(graph, inputs, postprocess, names)
    return Trained(
        kind="detector",
        module=graph,
        example=(torch.stack([prepare(open_image(file), inputs) for file in made_pictures()[:2]]),),
        validation=(pixels_of(inputs, data.test[:HELD_OUT]),) if data else (),
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


def _dense(model: nn.Module, settings: Settings) -> Dense:
    """`model`, if it is a detector that can be cut. Raises CallError, with what can, for another."""
    if isinstance(model, GeneralizedRCNN):
        raise CallError(f"{settings.source} is a two-stage detector, which can't be imported yet; SSD, SSDlite, RetinaNet and FCOS can")
    if not isinstance(model, SSD | RetinaNet | FCOS):
        raise CallError(
            f"{settings.source} is {type(model).__name__}; of detectors, torchvision's SSD, SSDlite, RetinaNet and FCOS can be imported"
        )
    make = next(kind for kind in (SSD, RetinaNet, FCOS) if isinstance(model, kind))
    own = "postprocess_detections" in vars(model) or type(model).postprocess_detections is not make.postprocess_detections
    if own and settings.scores is None:
        raise CallError(
            f"{settings.source} has a postprocess_detections of its own, so how its logits become scores is not torchvision's way; "
            "say it: --set training.scores=sigmoid or softmax. The import compares its detections with the model's and refuses other ones"
        )
    return model


def _inputs(model: Dense, settings: Settings) -> ImageInput:
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


class ImportedDetector(Candidates):
    """The part of a torchvision detector that is exported: candidates with the scores of the classes `labels`, first of all of them."""

    labels: torch.Tensor  # torchvision's numbers, int64; 0 is the background of an SSD

    def __init__(self, model: Dense, inputs: ImageInput, scores: Literal["softmax", "sigmoid"]) -> None:
        with torch.no_grad():
            empty = torch.zeros(1, 3, inputs.height, inputs.width)
            if isinstance(called(lambda: model.backbone(empty), "the detector's backbone"), torch.Tensor):
                model.backbone = OneMap(model.backbone)
            super().__init__(model, inputs.height, inputs.width)
            self.columns = int(self.heads(empty)["cls_logits"].shape[-1])
        self.scores = scores
        self.candidates_per = "class" if isinstance(model, SSD) else "image"
        self.register_buffer("labels", torch.arange(1 if isinstance(model, SSD) else 0, self.columns))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Candidates` says."""
        heads = self.heads(pixels)
        codes, logits = heads["bbox_regression"], heads["cls_logits"]
        boxes = self.model.box_coder.decode(codes, self.anchors) if isinstance(self.model, FCOS) else self._decoded(codes)
        scores = logits.softmax(-1) if self.scores == "softmax" else logits.sigmoid()
        if isinstance(self.model, FCOS):
            scores = torch.sqrt(scores * heads["bbox_ctrness"].sigmoid())
        return clip_boxes_to_image(boxes, self.size), scores[..., self.labels]


class OneMap(nn.Module):
    """A backbone that gives a tensor, as one that gives maps by name."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"0": the map}."""
        return {"0": self.backbone(x)}


def own_thresholds(graph: ImportedDetector) -> dict[str, Any]:
    """What `bundle_detections.select` needs, by the model's own attributes.

    Torchvision takes RetinaNet's and FCOS's candidates per map of features; here the image has as many as all maps together.
    """
    model = graph.model
    return {
        "score_threshold": model.score_thresh,
        "nms_threshold": model.nms_thresh,
        "candidates": model.topk_candidates * (1 if graph.candidates_per == "class" else len(graph.level_sizes)),
        "candidates_per": graph.candidates_per,
        "detections_per_image": model.detections_per_img,
    }


def _overruled(settings: Settings) -> dict[str, Any]:
    keys = ("score_threshold", "nms_threshold", "candidates", "detections_per_image")
    return {key: value for key in keys if (value := getattr(settings, key)) is not None}


@torch.no_grad()
def compare(model: Dense, graph: ImportedDetector, pixels: torch.Tensor) -> dict[str, float]:
    """The model's own detections in pictures, uint8 [N, 3, height, width], beside those of the graph: the largest differences.

    The threshold of scores is the model's, moved so far that a hundred candidates take part at least, and so few that the model
    drops none by their mere number. Raises WorkError that names the largest difference where more than TIED are not the same.
    """
    own, score, pixel = own_thresholds(graph), 0.0, 0.0
    for image in pixels:
        boxes, scores = (output[0] for output in graph(image[None]))
        if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
            raise CallError("the model gives values that are no finite numbers; look at its weights")
        best = scores.flatten().topk(min(model.topk_candidates, scores.numel() - 1) + 1).values
        many = max(min(COMPARED, len(best) - 1), int((best[:-1] > own["score_threshold"]).sum()))
        model.score_thresh = min(max(own["score_threshold"], float(best[-1])), float(best[many - 1 : many + 1].mean()))
        boxes, scores, labels = select(boxes, scores, **{**own, "score_threshold": model.score_thresh})
        (theirs,) = called(lambda: model([image.float() / 255]), "the model's own forward")  # noqa: B023  # called at once
        ours, whole = (boxes, scores, graph.labels[labels]), (theirs["boxes"], theirs["scores"], theirs["labels"])
        apart = torch.cat([_to_nearest(ours, whole), _to_nearest(whole, ours)])
        alike = (apart <= torch.tensor([SCORE_DIFFERENCE, PIXEL_DIFFERENCE])).all(1)
        if (~alike).sum() > TIED * len(apart):
            far = f"scores differ by up to {apart[:, 0].max():.3g}, boxes by up to {apart[:, 1].max():.3g} pixels"
            raise WorkError(f"{DIFFERENT}: {len(boxes)} detections in a picture, {len(theirs['boxes'])} by the whole; {far}; {LOOK}")
        score, pixel = (max(pair) for pair in zip((score, pixel), apart[alike].amax(0).tolist() if alike.any() else (0, 0), strict=True))
    model.score_thresh = own["score_threshold"]
    return {"largest_score_difference": score, "largest_box_difference": pixel}


def _named_labels(graph: ImportedDetector, settings: Settings, data: ImageData | None) -> tuple[list[int], list[str]]:
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


def _to_nearest(these: Inside, those: Inside) -> torch.Tensor:
    """How far each of these detections is from the nearest of those with its label, float32 [N, 2]: score, edges in pixels.

    Infinite where there is none.
    """
    if not len(these[0]) or not len(those[0]):
        return torch.full((len(these[0]), 2), torch.inf)
    scores = (these[1][:, None] - those[1][None]).abs()
    edges = (these[0][:, None] - those[0][None]).abs().amax(2)
    apart = torch.stack([scores, edges], 2).masked_fill((these[2][:, None] != those[2][None])[..., None], torch.inf)
    return apart[torch.arange(len(apart)), apart.sum(2).argmin(1)]


def _with_labels_of(data: ImageData, names: list[str]) -> ImageData:
    """`data` with the model's classes in the place of its own. Raises CallError for a class that the model doesn't know."""
    if strange := sorted(set(data.classes) - set(names)):
        raise CallError(f"the model has no class {', '.join(strange[:3])}; it has {', '.join(names[:6])} …: give their names as 'classes'")
    index = torch.tensor([names.index(name) for name in data.classes]).numpy()
    return replace(data, classes=tuple(names), test=[replace(example, labels=index[example.labels]) for example in data.test])


def _found(graph: ImportedDetector, examples: Sequence[Example], inputs: ImageInput, postprocess: dict[str, Any]) -> list[Found]:
    found = []
    many = max(1, min(BATCH, BATCH * 320 * 320 // (inputs.height * inputs.width)))  # so that large inputs fit into memory
    for start in track(range(0, len(examples), many), "measuring", transient=True):
        images = [open_example(example) for example in examples[start : start + many]]
        pixels = torch.stack([prepare(image, inputs) for image in images])
        found += detect(graph, pixels, [image.size for image in images], inputs, postprocess)
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


def _as_found(graph: ImportedDetector, inputs: ImageInput, postprocess: dict[str, Any], names: list[str]) -> list[Sample]:
    """Made pictures with what the model sees in them: they prove that a server answers as it does, no more.

    Each has a threshold of its own, in the widest gap between the best scores, and above any box that is next to nothing.
    """
    samples = []
    for number, file in enumerate(made_pictures()):
        image = open_image(file)
        (found,) = detect(graph, prepare(image, inputs)[None], [image.size], inputs, {**postprocess, "score_threshold": 0.0})
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
