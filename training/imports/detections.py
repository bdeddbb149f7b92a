"""What is exported of a detector that learned elsewhere, and whether it finds what the whole model finds
by itself.
"""

from typing import Any, Literal

import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image

from handlers.inputs.images import ImageInput
from handlers.kinds.detections import detections_of
from handlers.runtime.runtimes import arrays
from marina.core.errors import CallError, WorkError
from training.imports.logits import AT_RANDOM
from training.imports.user_code import called
from training.vision.detection.architectures import Candidates, Dense
from training.vision.detection.two_stage import TwoStage

# boxes [N, 4] in pixels of the input, scores [N], torchvision's labels [N]
Inside = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
COMPARED = 100  # candidates of each picture that count for the comparison at least
SCORE_DIFFERENCE, PIXEL_DIFFERENCE = 1e-3, 0.5  # most that two kernels for the same thing may differ by
# share of detections that may be without counterpart: overlaps at the very threshold may fall to either side
TIED = 0.02
DIFFERENT = "the exported half of the model doesn't find what the whole model finds"
LOOK = (
    "try another 'scores'; else the model makes its detections in a way of its own, which can't be imported"
)


class Cut(Candidates):
    """The part of a one-stage detector that is exported: candidates with the scores of the classes
    `labels`, first of all of them.
    """

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
        boxes = (
            self.model.box_coder.decode(codes, self.anchors)
            if isinstance(self.model, FCOS)
            else self._decoded(codes)
        )
        if self.scores == "softmax":
            scores = logits.softmax(-1).index_select(-1, self.labels)
        else:
            scores = logits.index_select(-1, self.labels).sigmoid()
        if isinstance(self.model, FCOS):
            scores = torch.sqrt(scores * heads["bbox_ctrness"].sigmoid())
        return clip_boxes_to_image(boxes, self.size), scores

    def own_thresholds(self) -> dict[str, Any]:
        """What `kinds.detections.select` needs, by the model's own attributes.

        Torchvision takes RetinaNet's and FCOS's candidates per map of features; here the image has as many as
        all maps together.
        """
        model = self.model
        return {
            "score_threshold": model.score_thresh,
            "nms_threshold": model.nms_thresh,
            "candidates": model.topk_candidates
            * (1 if self.candidates_per == "class" else len(self.level_sizes)),
            "candidates_per": self.candidates_per,
            "detections_per_image": model.detections_per_img,
        }

    def compared_at(self, pixels: torch.Tensor, threshold: float) -> float:
        """`threshold`, moved so far that COMPARED candidates take part, and so few that the model drops
        none by their number.
        """
        _, scores = self(pixels)
        best = scores.flatten().topk(min(self.model.topk_candidates, scores.numel() - 1) + 1).values
        many = max(min(COMPARED, len(best) - 1), int((best[:-1] > threshold).sum()))
        return float(min(max(threshold, float(best[-1])), float(best[many - 1 : many + 1].mean())))


class OneMap(nn.Module):
    """A backbone that gives a tensor, as one that gives maps by name."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"0": the map}."""
        return {"0": self.backbone(x)}


@torch.no_grad()
def compare(model: Any, graph: Cut | TwoStage, pixels: torch.Tensor) -> dict[str, float]:
    """The model's own detections in pictures, uint8 [N, 3, height, width], beside those of the graph: the
    largest differences.

    Raises WorkError that names the largest difference where more than TIED are not the same.
    """
    owner = model.roi_heads if isinstance(graph, TwoStage) else model
    own, score, pixel = graph.own_thresholds(), 0.0, 0.0
    for image in pixels:
        outputs = graph(*graph.inputs(image[None], 0.0, masks=False))
        if not all(torch.isfinite(output).all() for output in outputs):
            raise CallError("the model gives values that are no finite numbers; look at its weights")
        owner.score_thresh = least = graph.compared_at(image[None], own["score_threshold"])
        outputs = graph(*graph.inputs(image[None], least, masks=False))
        (found,) = detections_of(
            arrays(outputs),
            [least],
            {**own, **({"selection": "graph"} if isinstance(graph, TwoStage) else {})},
        )
        theirs = _detected(model, image)
        boxes, scores, labels = (torch.from_numpy(part) for part in found[:3])
        ours = (boxes, scores, graph.labels[labels])
        whole = (theirs["boxes"], theirs["scores"], theirs["labels"])
        apart = torch.cat([_to_nearest(ours, whole), _to_nearest(whole, ours)])
        alike = (apart <= torch.tensor([SCORE_DIFFERENCE, PIXEL_DIFFERENCE])).all(1)
        if (~alike).sum() > TIED * len(apart):
            far = (
                f"scores differ by up to {apart[:, 0].max():.3g}, boxes by up to {apart[:, 1].max():.3g} "
                "pixels"
            )
            raise WorkError(
                f"{DIFFERENT}: {len(ours[0])} detections in a picture, {len(whole[0])} by the whole; "
                f"{far}; {LOOK}"
            )
        score, pixel = (
            max(pair)
            for pair in zip(
                (score, pixel), apart[alike].amax(0).tolist() if alike.any() else (0, 0), strict=True
            )
        )
    owner.score_thresh = own["score_threshold"]
    return {"largest_score_difference": score, "largest_box_difference": pixel}


def _detected(model: Any, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """The model's own detections in a picture. Raises CallError where it gives others the second time."""
    (first,), (second,) = (
        called(lambda: model([image.float() / 255]), "the model's own forward") for _ in range(2)
    )
    is_same = torch.equal(first["labels"], second["labels"])
    if not is_same or not torch.allclose(first["scores"], second["scores"], atol=1e-5):
        raise CallError(AT_RANDOM.format("the model"))
    return first  # type: ignore[no-any-return]


def _to_nearest(these: Inside, those: Inside) -> torch.Tensor:
    """How far each of these detections is from the nearest of those with its label, float32 [N, 2]: score,
    edges in pixels.

    Infinite where there is none.
    """
    if not len(these[0]) or not len(those[0]):
        return torch.full((len(these[0]), 2), torch.inf)
    scores = (these[1][:, None] - those[1][None]).abs()
    edges = (these[0][:, None] - those[0][None]).abs().amax(2)
    apart = torch.stack([scores, edges], 2).masked_fill(
        (these[2][:, None] != those[2][None])[..., None], torch.inf
    )
    return apart[torch.arange(len(apart)), apart.sum(2).argmin(1)]
