"""Two-stage detectors as one graph each: Faster R-CNN (Ren et al. 2015) and Mask R-CNN (He et al. 2017) of
torchvision's make.

Between the stages is a choice whose size depends on the picture: of all anchors the proposals that are worth
a second look, of their boxes the detections, and of these the ones whose masks are wanted. All of it lies in
the graph, so one program is exported: sizes that nobody knows before are torch.export's unbacked ones, and
the outputs are filled up with zeros to a fixed size. Suppression happens for all pictures and classes at
once, each moved to a place of its own. The steps and their order are torchvision's
(`RegionProposalNetwork.filter_proposals`, `RoIHeads.postprocess_detections`), so the detections are too.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from training.vision.detection.architectures import Detector, Targets

# score that no request can go below: each box has one for every class, and most are next to nothing
LEAST = 0.01
LEAST_SIDE = 1e-2  # pixels of a detection's box, torchvision's own limit
MASK_STAGES = [2, 3, 5]  # of a MobileNet, whose maps have strides 8, 16 and 32


class TwoStage(Detector):
    """(pixels uint8 [B, 3, height, width], threshold float32 [B], with masks wanted bool [B]) -> what was
    found, best first.

    That is boxes float32 [B, D, 4], scores float32 [B, D], labels int64 [B, D] without background, and of a
    Mask R-CNN masks float32 [B, D, s, s] (probabilities inside the boxes, zeros where not wanted). Behind the
    last detection all are 0.

    Answered are the classes `labels`, torchvision's numbers, of which 0 is the background; at first all of
    them.
    """

    labels: torch.Tensor  # int64

    def __init__(self, model: FasterRCNN, height: int, width: int) -> None:
        super().__init__(model, height, width)
        roi = self.model.roi_heads
        self.has_masks = bool(roi.has_mask())
        empty, box = torch.zeros(1, 3, height, width), [torch.tensor([[0.0, 0, 32, 32]])]
        with torch.no_grad():
            maps = self.features(empty)
            objectness, _ = self.model.rpn.head(list(maps.values()))
            self.register_buffer(
                "anchors",
                self.model.rpn.anchor_generator(ImageList(empty, [self.size]), list(maps.values()))[0],
            )
            logits, _ = roi.box_predictor(roi.box_head(roi.box_roi_pool(maps, box, [self.size])))
            if self.has_masks:
                # works its scales out, as the other just did, which no graph can
                roi.mask_roi_pool(maps, box, [self.size])
        self.level_sizes = [one[0].numel() for one in objectness]
        self.columns = int(logits.shape[1])
        self.register_buffer("labels", torch.arange(1, self.columns))

    def forward(
        self, pixels: torch.Tensor, threshold: torch.Tensor, wanted: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """As the class says."""
        features = self.features(pixels)
        places = SelectedBoxes(*self._proposals(features))
        boxes, scores = self._looked_at(features, places, threshold.clamp(min=LEAST))
        most = min(scores[0].numel(), self.model.roi_heads.detections_per_img)
        best, rows = scores.flatten(1).topk(most, 1)
        there = best > 0
        found = boxes.flatten(1, 2).gather(1, rows[..., None].expand(-1, -1, 4)).where(there[..., None], 0)
        labels = (rows % scores.shape[2]).where(there, 0)
        if wanted is None:
            return found, best, labels
        return (
            found,
            best,
            labels,
            self._masks(features, SelectedBoxes(found, there & wanted[:, None]), labels),
        )

    def _proposals(self, features: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(boxes [B, P, 4], which of them are proposals [B, P]): the first stage, best first."""
        rpn, size = self.model.rpn, features[next(iter(features))].shape[0]
        objectness, codes = concat_box_prediction_layers(*rpn.head(list(features.values())))
        objectness, codes = objectness.reshape(size, -1), codes.reshape(size, -1, 4)
        starts = [sum(self.level_sizes[:k]) for k in range(len(self.level_sizes))]
        parts = [
            objectness[:, start : start + many].topk(min(many, rpn.pre_nms_top_n()), 1).indices + start
            for start, many in zip(starts, self.level_sizes, strict=True)
        ]
        rows, many = torch.cat(parts, 1), sum(part.shape[1] for part in parts)
        levels = torch.cat([torch.full_like(part, k) for k, part in enumerate(parts)], 1)
        likely = objectness.gather(1, rows).sigmoid()
        codes = codes.gather(1, rows[..., None].expand(-1, -1, 4))
        boxes = clip_boxes_to_image(
            rpn.box_coder.decode_single(codes.reshape(-1, 4), self.anchors[rows].reshape(-1, 4)), self.size
        )
        fair = ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= rpn.min_size) & (
            likely.reshape(-1) >= rpn.score_thresh
        )
        groups = levels + torch.arange(size, device=rows.device)[:, None] * len(starts)
        left = self._suppressed(boxes, likely.reshape(-1), groups.reshape(-1), fair, rpn.nms_thresh).view(
            size, many
        )
        best, chosen = left.topk(min(many, rpn.post_nms_top_n()), 1)
        return boxes.view(size, many, 4).gather(1, chosen[..., None].expand(-1, -1, 4)), best > 0

    def _looked_at(
        self, features: dict[str, torch.Tensor], places: "SelectedBoxes", threshold: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(boxes [B, P, classes, 4], scores [B, P, classes], 0 where nothing was found): the second stage."""
        roi = self.model.roi_heads
        logits, codes = roi.box_predictor(roi.box_head(_pooled(roi.box_roi_pool, features, places)))
        many = len(self.labels)
        boxes = clip_boxes_to_image(
            roi.box_coder.decode_single(codes, places.boxes).unflatten(1, (-1, 4)), self.size
        )[:, self.labels]
        scores = logits.softmax(-1)[:, self.labels]
        fair = (scores > threshold[places.pictures][:, None]) & (
            (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= LEAST_SIDE
        )
        groups = places.pictures[:, None] * many + torch.arange(many, device=scores.device)
        flat = (boxes.reshape(-1, 4), scores.reshape(-1), groups.reshape(-1), fair.reshape(-1))
        return places.spread(boxes), places.spread(self._suppressed(*flat, roi.nms_thresh).reshape(-1, many))

    def _masks(
        self, features: dict[str, torch.Tensor], places: "SelectedBoxes", labels: torch.Tensor
    ) -> torch.Tensor:
        """Masks [B, D, s, s] of the detections that are chosen."""
        roi = self.model.roi_heads
        logits = roi.mask_predictor(roi.mask_head(_pooled(roi.mask_roi_pool, features, places)))
        own = self.labels[places.of(labels.reshape(-1))]
        return places.spread(logits[torch.arange(logits.shape[0], device=own.device), own].sigmoid())

    def _suppressed(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        groups: torch.Tensor,
        fair: torch.Tensor,
        overlap: float,
    ) -> torch.Tensor:
        """`scores` [N] with 0 for boxes [N, 4] that aren't `fair` [N], or that a better one of their group
        [N] overlaps by more.
        """
        apart = float(max(self.size) + 1)  # in double precision, which keeps the boxes as they are
        many = scores.shape[0]
        # torchvision says of its operator that two boxes stay at least, and export believes it; so two
        # strangers stand by
        strangers = boxes.new_tensor([[-2.0, 0, -1, 1], [-4.0, 0, -3, 1]]).double() * apart
        every = torch.cat([scores, scores.new_zeros(2)])
        rows = torch.cat([torch.where(fair)[0], torch.arange(2, device=boxes.device) + many])
        moved = torch.cat([boxes.double() + (groups.double() * apart)[:, None], strangers])
        kept = rows[nms(moved[rows], every[rows].double(), overlap)]
        return torch.zeros_like(every).index_copy(0, kept, every[kept])[:many]

    def postprocess(self) -> dict[str, Any]:
        """That the graph selects."""
        return {"selection": "graph", "masks": self.has_masks}

    def limit(self, nms_threshold: float, detections_per_image: int) -> dict[str, Any]:
        """As `Detector` says; it happens in the graph."""
        roi = self.model.roi_heads
        roi.nms_thresh, roi.detections_per_img = nms_threshold, detections_per_image
        return {
            **self.postprocess(),
            "nms_threshold": nms_threshold,
            "detections_per_image": detections_per_image,
        }

    def own_thresholds(self) -> dict[str, Any]:
        """The model's own attributes, by the names of postprocess_config.json."""
        roi = self.model.roi_heads
        return {
            "score_threshold": roi.score_thresh,
            "nms_threshold": roi.nms_thresh,
            "detections_per_image": roi.detections_per_img,
        }

    def compared_at(self, pixels: torch.Tensor, threshold: float) -> float:
        """`threshold`, lower if that leaves less than half of the detections that there may be.

        A lower one lies in the middle of the widest gap between the scores of the other half: a detection at
        the very threshold would be found by one of two kernels that differ by rounding.
        """
        scores = self(*self.inputs(pixels, LEAST, masks=False))[1].flatten()
        if len(scores) < 2 or scores[len(scores) // 2] > threshold:
            return threshold
        rest = scores[(len(scores) - 1) // 2 :].clamp(min=LEAST)
        widest = int((rest[:-1] - rest[1:]).argmax())
        return min(threshold, float(rest[widest : widest + 2].mean()))

    def loss(self, pixels: torch.Tensor, targets: Targets, bfloat16: bool = False) -> dict[str, torch.Tensor]:
        """Torchvision's losses of both stages, and of the masks."""
        reduced = partial(torch.autocast, pixels.device.type, torch.bfloat16, enabled=bfloat16)
        rpn, roi, sizes = self.model.rpn, self.model.roi_heads, [self.size] * len(targets)
        shifted = [{**target, "labels": target["labels"] + 1} for target in targets]  # behind the background
        with reduced():
            maps = self.features(pixels)
            heads = rpn.head(list(maps.values()))
        maps = {name: one.float() for name, one in maps.items()}
        objectness, codes = concat_box_prediction_layers(*([one.float() for one in part] for part in heads))
        anchors = [self.anchors] * len(targets)
        proposals = rpn.box_coder.decode(codes.detach(), anchors).view(len(targets), -1, 4)
        chosen, _ = rpn.filter_proposals(proposals, objectness, sizes, self.level_sizes)
        labels, matched = rpn.assign_targets_to_anchors(anchors, shifted)
        losses = rpn.compute_loss(objectness, codes, labels, rpn.box_coder.encode(matched, anchors))
        chosen, rows, labels, offsets = roi.select_training_samples(chosen, shifted)
        pooled = roi.box_roi_pool(maps, chosen, sizes)
        with reduced():
            logits, codes = roi.box_predictor(roi.box_head(pooled))
        losses += fastrcnn_loss(logits.float(), codes.float(), labels, offsets)
        named = dict(zip(("objectness", "proposals", "classes", "boxes"), losses, strict=True))
        if self.has_masks:
            objects = [torch.where(one > 0)[0] for one in labels]
            chosen, rows = ([one[k] for one, k in zip(part, objects, strict=True)] for part in (chosen, rows))
            pooled = roi.mask_roi_pool(maps, chosen, sizes)
            with reduced():
                logits = roi.mask_predictor(roi.mask_head(pooled))
            truth = ([target[name] for target in shifted] for name in ("masks", "labels"))
            named["masks"] = maskrcnn_loss(logits.float(), chosen, *truth, rows)
        return named


class SelectedBoxes:
    """Those of the boxes [B, P, 4] that are chosen, one after the other, and a stranger at the end: no
    layer's batch is ever empty.

    `boxes` are [N, 4] in pixels, `pictures` int64 [N] says which of the batch each is from.
    """

    def __init__(self, boxes: torch.Tensor, which: torch.Tensor) -> None:
        self.shape = which.shape
        self.many = which.shape[0] * which.shape[1]
        (rows,) = torch.where(which.reshape(-1))
        self.rows = torch.cat([rows, rows.new_full((1,), self.many)])
        self.boxes = torch.cat([boxes.reshape(-1, 4), boxes.new_tensor([[0.0, 0, 32, 32]])])[self.rows]
        self.pictures = torch.div(self.rows, which.shape[1], rounding_mode="floor").clamp(
            max=which.shape[0] - 1
        )

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """`values` [B * P] of the chosen ones, and 0 for the stranger."""
        return torch.cat([values, values.new_zeros(1)])[self.rows]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """`values` [N, …] of the chosen ones as [B, P, …], zeros where there are none."""
        places = values.new_zeros(self.many + 1, *values.shape[1:]).index_copy(0, self.rows, values)
        return places[: self.many].view(*self.shape, *values.shape[1:])


def _pooled(pool: Any, features: dict[str, torch.Tensor], places: SelectedBoxes) -> torch.Tensor:
    """What torchvision's `MultiScaleRoIAlign` gives for places that lie in one list, [N, channels, s, s]."""
    maps = [one for name, one in features.items() if name in pool.featmap_names]
    rois = torch.cat([places.pictures[:, None].to(places.boxes), places.boxes], 1)
    levels = pool.map_levels([places.boxes])
    pooled = maps[0].new_zeros(rois.shape[0], maps[0].shape[1], *pool.output_size)
    for level, (one, scale) in enumerate(zip(maps, pool.scales, strict=True)):
        (rows,) = torch.where(levels == level)
        pooled = pooled.index_copy(
            0, rows, roi_align(one, rois[rows], pool.output_size, scale, pool.sampling_ratio)
        )
    return pooled


def maskrcnn_mobilenet(backbone: str, classes: int, weights: Any = None) -> MaskRCNN:
    """Mask R-CNN on a feature pyramid of a MobileNet ("mobilenet_v2" | "mobilenet_v3_large"), as lean as
    torchvision's 320 pixels model.

    `classes` counts the background; `weights` are torchvision's of the backbone, or None.
    """
    pyramid = mobilenet_backbone(
        backbone_name=backbone,
        weights=weights,
        fpn=True,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=6,
        returned_layers=MASK_STAGES,
    )
    return MaskRCNN(
        pyramid,
        classes,
        min_size=320,
        max_size=640,
        rpn_anchor_generator=AnchorGenerator(((24,), (48,), (96,), (192,)), ((0.5, 1.0, 2.0),) * 4),
        rpn_pre_nms_top_n_test=150,
        rpn_post_nms_top_n_test=150,
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=500,
        rpn_score_thresh=0.05,
        box_batch_size_per_image=128,
    )
