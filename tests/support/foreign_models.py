"""Picture models of a user's own file, and what tests of imports do with them."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from training.export.trained import Trained
from training.recipes import imported_classifier, imported_detector
from training.recipes.imported_classifier import Settings
from training.runs.run import Run

OWN = '''
from functools import partial

import torch
from torch import nn
from torchvision import ops
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from neighbour import WIDTH


class Brightest(nn.Module):
    """Says which of three colours a picture has most of."""

    def __init__(self, classes=3, factor=20.0):
        super().__init__()
        self.colour = nn.Conv2d(3, classes, 1)
        with torch.no_grad():
            self.colour.weight.copy_(factor * torch.eye(classes, 3).view(classes, 3, 1, 1))
            self.colour.bias.zero_()

    def forward(self, x):
        return self.colour(x).mean((2, 3))


def brightest(**arguments):
    return Brightest(**arguments)


def with_softmax():
    return nn.Sequential(Brightest(), nn.Softmax(1))


def with_batch_statistics():
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), Brightest())


def with_a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()


def with_a_bug():
    raise RuntimeError("the disk of the author")


def with_a_branch():
    class Branching(Brightest):
        def forward(self, x):
            return super().forward(x) * (2 if x.mean() > 0.5 else 1)
    return Branching()


not_a_model = dict


def layers(width=WIDTH):
    return nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, width, 3, 4, 1), nn.ReLU())


def retinanet(classes=4):
    """With a backbone that gives one map as a tensor, as torchvision's own documentation shows it."""
    backbone = layers()
    backbone.out_channels = WIDTH
    anchors = AnchorGenerator(((32, 48, 64),), ((0.5, 1.0, 2.0),))
    sizes = {"min_size": 64, "max_size": 96}
    model = RetinaNet(backbone, classes, **sizes, anchor_generator=anchors, score_thresh=0.02)
    return scattered(model, 0.12)


def scattered(model, deviation):
    """With scores that are not all the same, as those of an untrained head are."""
    torch.manual_seed(3)
    for module in model.head.classification_head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=deviation)
    return model


def fcos(classes=4):
    backbone = layers()
    backbone.out_channels = WIDTH
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    sizes = {"min_size": 64, "max_size": 96}
    return FCOS(backbone, classes, **sizes, anchor_generator=anchors, score_thresh=0.05)


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers(), nn.Conv2d(WIDTH, 24, 3, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return {"0": x, "1": self.second(x)}


def ssd(classes=4, size=96, scores="softmax"):
    boxes = DefaultBoxGenerator([[2], [2]])
    model = SSD(Maps(), boxes, (size, size), classes, score_thresh=0.02, detections_per_img=50)
    scattered(model, 0.5)
    if scores == "sigmoid":
        model.postprocess_detections = partial(by_sigmoid, model)
    return model


def by_sigmoid(model, heads, anchors, shapes):
    found = []
    pictures = zip(heads["bbox_regression"], heads["cls_logits"].sigmoid(), anchors, shapes)
    for codes, scores, boxes, shape in pictures:
        boxes = ops.clip_boxes_to_image(model.box_coder.decode_single(codes, boxes), shape)
        places, labels = (scores[:, 1:] > model.score_thresh).nonzero(as_tuple=True)
        boxes, scores, labels = boxes[places], scores[places, labels + 1], labels + 1
        kept = ops.batched_nms(boxes, scores, labels, model.nms_thresh)[: model.detections_per_img]
        found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
    return found


def stranger():
    """An SSD whose forward moves every box."""
    class Moving(SSD):
        def forward(self, images, targets=None):
            return [{**found, "boxes": found["boxes"] + 7} for found in super().forward(images, targets)]
    model = ssd()
    model.__class__ = Moving
    return model
'''


def classifier(report: Path, **settings: Any) -> Trained:
    return imported_classifier.train(Settings(**settings), Run(report))


def detector(report: Path, **settings: Any) -> Trained:
    return imported_detector.train(imported_detector.Settings(**settings), Run(report))


def logits_of(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(pixels)  # type: ignore[no-any-return]


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
