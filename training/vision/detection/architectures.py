"""Detectors as one graph each, with their losses: one-stage ones, and a small one of our own. `weights`
builds them by name.

Anchors, matching and losses are torchvision's own. What is exported is `Candidates`: everything up to the
dense candidates, normalisation and box decoding included. Thresholds and non-maximum suppression follow in
`kinds.detections`.
"""

from collections import OrderedDict
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou, clip_boxes_to_image

from handlers.kinds.detections import further_inputs

STRIDES = (8, 16, 32)
Dense: TypeAlias = SSD | RetinaNet | FCOS
# per picture: "boxes" float32 [N, 4] in pixels of the input, "labels" int64 [N], where masks are learnt
# "masks" uint8 [N, height, width]
Targets = list[dict[str, torch.Tensor]]


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, section 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, H, W] -> the same shape."""
        return torch.relu(x + self.second(self.first(x)))


class SmallPyramid(nn.Module):
    """A small residual network with a feature pyramid (Lin et al. 2017) of strides 8, 16 and 32: {"0": [B,
    width, H/8, W/8], …}.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.out_channels = width
        self.stem = nn.Sequential(_convolution(3, 16, 2), _convolution(16, 32, 2), Residual(32))
        self.eight = nn.Sequential(_convolution(32, 64, 2), Residual(64))
        self.sixteen = nn.Sequential(_convolution(64, 96, 2), Residual(96))
        self.thirty_two = nn.Sequential(_convolution(96, 128, 2), Residual(128))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (64, 96, 128))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in STRIDES)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures [B, 3, H, W], H and W multiples of 32."""
        eight = self.eight(self.stem(x))
        sixteen = self.sixteen(eight)
        maps = [
            lateral(x)
            for lateral, x in zip(self.lateral, (eight, sixteen, self.thirty_two(sixteen)), strict=True)
        ]
        for finer, coarser in ((1, 2), (0, 1)):
            maps[finer] = maps[finer] + nn.functional.interpolate(maps[coarser], scale_factor=2.0)
        return OrderedDict(
            (str(k), smooth(x)) for k, (smooth, x) in enumerate(zip(self.smooth, maps, strict=True))
        )


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


class Detector(nn.Module):
    """A torchvision detector with an input of one size: what the recipe learns, and what is exported, with
    the losses.

    With `frozen_statistics` batch normalisation keeps its means and variances while training, as is usual
    where batches are small and the statistics come with the weights.
    """

    frozen_statistics = False
    has_masks = False
    anchors: torch.Tensor  # [A, 4] as x1, y1, x2, y2, worked out once
    mean: torch.Tensor  # [3, 1, 1], of 0..1, as deviation
    deviation: torch.Tensor

    def __init__(self, model: Any, height: int, width: int) -> None:
        super().__init__()
        self.model = model.eval()
        self.size = (height, width)
        self.register_buffer("mean", torch.tensor(self.model.transform.image_mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(self.model.transform.image_std).view(3, 1, 1))

    def train(self, mode: bool = True) -> "Detector":
        """As torch does it, but for frozen statistics."""
        super().train(mode)
        for module in self.modules() if self.frozen_statistics else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def features(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The backbone's maps of pictures [B, 3, height, width] of 0..255 (uint8 or float32)."""
        maps = self.model.backbone((pixels.float() / 255 - self.mean) / self.deviation)
        return {"0": maps} if isinstance(maps, torch.Tensor) else maps

    def inputs(
        self, pixels: torch.Tensor, threshold: float = 0.5, masks: bool = True
    ) -> tuple[torch.Tensor, ...]:
        """What `forward` takes for a batch of pictures, where the graph takes a threshold too, or whether
        masks are wanted.
        """
        settings = self.postprocess()
        further = [further_inputs(threshold, masks, settings)] * len(pixels)
        return (
            pixels,
            *(torch.from_numpy(np.stack(column)).to(pixels.device) for column in zip(*further, strict=True)),
        )

    def postprocess(self) -> dict[str, Any]:
        """What postprocess_config.json says of how the outputs become detections, as far as the graph
        decides it.
        """
        raise NotImplementedError

    def limit(self, nms_threshold: float, detections_per_image: int) -> dict[str, Any]:
        """Say how much boxes of one class may overlap and how many there may be; returns what
        postprocess_config.json says of it.
        """
        raise NotImplementedError

    def loss(self, pixels: torch.Tensor, targets: Targets, bfloat16: bool = False) -> dict[str, torch.Tensor]:
        """Torchvision's losses by name, convolutions computed in bfloat16 if asked for, boxes and losses
        always in float32.
        """
        raise NotImplementedError


class Candidates(Detector):
    """A one-stage detector as one graph: uint8 [B, 3, height, width] -> (boxes [B, A, 4], scores [B, A,
    classes]), as in `Trained`.
    """

    candidates_per: str  # as in kinds.detections.select

    def __init__(self, model: Dense, height: int, width: int) -> None:
        super().__init__(model, height, width)
        empty = torch.zeros(1, 3, height, width)
        with torch.no_grad():
            maps = list(self.model.backbone(empty).values())
            self.register_buffer(
                "anchors", self.model.anchor_generator(ImageList(empty, [self.size]), maps)[0]
            )
        self.level_sizes = [x.shape[2] * x.shape[3] for x in maps]

    def heads(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """What backbone and heads say about pictures [B, 3, height, width] of 0..255 (uint8 or float32)."""
        return self.model.head(list(self.features(pixels).values()))  # type: ignore[no-any-return]

    def postprocess(self) -> dict[str, Any]:
        """How many candidates go on to non-maximum suppression."""
        return {
            "candidates": 1000 if self.candidates_per == "image" else 300,
            "candidates_per": self.candidates_per,
        }

    def limit(self, nms_threshold: float, detections_per_image: int) -> dict[str, Any]:
        """As `Detector` says; it happens behind the graph."""
        return {
            "nms_threshold": nms_threshold,
            **self.postprocess(),
            "detections_per_image": detections_per_image,
        }

    def loss(self, pixels: torch.Tensor, targets: Targets, bfloat16: bool = False) -> dict[str, torch.Tensor]:
        """Torchvision's losses by name, convolutions computed in bfloat16 if asked for, boxes and losses
        always in float32.
        """
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bfloat16):
            heads = self.heads(pixels)
        return self.losses({name: value.float() for name, value in heads.items()}, targets)

    def losses(self, heads: dict[str, torch.Tensor], targets: Targets) -> dict[str, torch.Tensor]:
        """Torchvision's losses by name."""
        raise NotImplementedError

    def _decoded(self, codes: torch.Tensor) -> torch.Tensor:
        """Boxes [B, A, 4] from their offsets to the anchors, as SSD and RetinaNet have them."""
        # len(codes) would fix the batch in the export
        anchors = self.anchors.expand(codes.shape[0], -1, -1).reshape(-1, 4)
        boxes: torch.Tensor = self.model.box_coder.decode_single(codes.reshape(-1, 4), anchors)
        return boxes.reshape(codes.shape)


class FCOSCandidates(Candidates):
    """FCOS (Tian et al. 2019): one candidate per place, its score the geometric mean of class and
    centre-ness.
    """

    # torchvision: per level, which is the same while fewer than `candidates` pass the threshold
    candidates_per = "image"

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the class says."""
        heads = self.heads(pixels)
        boxes = self.model.box_coder.decode(heads["bbox_regression"], self.anchors)
        scores = torch.sqrt(torch.sigmoid(heads["cls_logits"]) * torch.sigmoid(heads["bbox_ctrness"]))
        return clip_boxes_to_image(boxes, self.size), scores

    def losses(self, heads: dict[str, torch.Tensor], targets: Targets) -> dict[str, torch.Tensor]:
        """Focal, box (GIoU) and centre-ness losses."""
        losses: dict[str, torch.Tensor] = self.model.compute_loss(
            targets, heads, [self.anchors] * len(targets), self.level_sizes
        )
        return losses


class RetinaNetCandidates(Candidates):
    """RetinaNet (Lin et al. 2017): nine anchors per place, each class by itself."""

    candidates_per = "image"

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the class says."""
        heads = self.heads(pixels)
        return clip_boxes_to_image(self._decoded(heads["bbox_regression"]), self.size), heads[
            "cls_logits"
        ].sigmoid()

    def losses(self, heads: dict[str, torch.Tensor], targets: Targets) -> dict[str, torch.Tensor]:
        """Focal loss, and the one of the boxes (L1 or GIoU, as the model says)."""
        losses: dict[str, torch.Tensor] = self.model.compute_loss(
            targets, heads, [self.anchors] * len(targets)
        )
        return losses


class SSDCandidates(Candidates):
    """SSD (Liu et al. 2016): default boxes, softmax over the classes and the background, which comes first
    and is cut off.
    """

    candidates_per = "class"

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the class says."""
        heads = self.heads(pixels)
        return clip_boxes_to_image(self._decoded(heads["bbox_regression"]), self.size), heads[
            "cls_logits"
        ].softmax(-1)[..., 1:]

    def losses(self, heads: dict[str, torch.Tensor], targets: Targets) -> dict[str, torch.Tensor]:
        """Softmax loss with hard negatives, and smooth L1 for the boxes."""
        shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        matches = [self._match(target["boxes"]) for target in targets]
        losses: dict[str, torch.Tensor] = self.model.compute_loss(
            shifted, heads, [self.anchors] * len(targets), matches
        )
        return losses

    def _match(self, boxes: torch.Tensor) -> torch.Tensor:
        if len(boxes) == 0:
            return torch.full((len(self.anchors),), -1, dtype=torch.int64, device=boxes.device)
        return self.model.proposal_matcher(box_iou(boxes, self.anchors))  # type: ignore[no-any-return]


def fcos_small(classes: int, height: int, width: int) -> FCOS:
    """FCOS on a `SmallPyramid`, for pictures of that size."""
    anchors = AnchorGenerator(tuple((stride,) for stride in STRIDES), ((1.0,),) * len(STRIDES))
    backbone = SmallPyramid()
    head = FCOSHead(backbone.out_channels, 1, classes, num_convs=2)
    return FCOS(
        backbone,
        classes,
        min(height, width),
        max(height, width),
        anchor_generator=anchors,
        head=head,
        nms_thresh=0.5,
    )


def candidates(model: Dense, height: int, width: int) -> Candidates:
    """The graph of a model, for pictures of that size."""
    made = {SSD: SSDCandidates, RetinaNet: RetinaNetCandidates, FCOS: FCOSCandidates}
    return next(graph for make, graph in made.items() if isinstance(model, make))(model, height, width)
