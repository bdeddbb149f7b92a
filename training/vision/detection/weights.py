"""Builds the detectors of the recipe: by name, or by a function of one's own, with weights that other
pictures taught them.

    weights            what is kept
    none               nothing: all is learnt anew
    imagenet           the backbone, with torchvision's weights for ImageNet
    coco, COCO_V1 …    the whole detector, with torchvision's weights for COCO
    FILE               the whole detector: a state dict (.pth) or .safetensors
    file.py:function   the whole detector, as the function (of a file or a package) gives it: SSD, RetinaNet,
                       FCOS, Faster or Mask R-CNN

Of a whole detector all is kept but the class predictor, which is made anew for the classes of the data; of a
two-stage one the predictors of boxes and masks too, which have a box and a mask for every class.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import torchvision
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.ssd import SSD

from marina.core.errors import CallError
from training.imports.fetching import fetched
from training.imports.files import aligned, existing, load_weights, read_state
from training.imports.sources import Source, origin
from training.imports.sources import build as build_source
from training.vision.detection.architectures import Dense, Detector, candidates, fcos_small
from training.vision.detection.two_stage import TwoStage, maskrcnn_mobilenet

Whole: TypeAlias = Dense | FasterRCNN
# by the first letters of a name
MAKES = {"ssd": SSD, "ret": RetinaNet, "fco": FCOS, "fas": FasterRCNN, "mas": MaskRCNN}
BACKBONES = {  # and torchvision's name of its weights
    "ssdlite320_mobilenet_v3_large": ("mobilenet_v3_large", "IMAGENET1K_V1"),
    "ssd300_vgg16": ("vgg16", "IMAGENET1K_FEATURES"),
    "retinanet_resnet50_fpn_v2": ("resnet50", "IMAGENET1K_V1"),
    "fcos_resnet50_fpn": ("resnet50", "IMAGENET1K_V1"),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("mobilenet_v3_large", "IMAGENET1K_V1"),
    "fasterrcnn_resnet50_fpn_v2": ("resnet50", "IMAGENET1K_V1"),
    "maskrcnn_resnet50_fpn_v2": ("resnet50", "IMAGENET1K_V1"),
    "maskrcnn_mobilenet_v2_320_fpn": ("mobilenet_v2", "IMAGENET1K_V1"),
    "maskrcnn_mobilenet_v3_large_320_fpn": ("mobilenet_v3_large", "IMAGENET1K_V1"),
}
# which torchvision has no function for
OWN = ("maskrcnn_mobilenet_v2_320_fpn", "maskrcnn_mobilenet_v3_large_320_fpn")
PREDICTORS = (
    "head.classification_head",
    "roi_heads.box_predictor",
    "roi_heads.mask_predictor.mask_fcn_logits",
)
PRIOR = 0.01  # probability that a fresh predictor gives every class (Lin et al. 2017, section 3.3)


def is_factory(weights: str) -> bool:
    """Whether `weights` names a function that gives the whole detector."""
    return ":" in weights and weights.rpartition(":")[2].isidentifier()


def build(
    architecture: str | None,
    classes: int,
    height: int,
    width: int,
    weights: str = "none",
    arguments: dict[str, Any] | None = None,
    proposals: int | None = None,
) -> Detector:
    """A detector for pictures of `height` x `width`, all its parameters to be trained; see the module's text.

    `proposals` is how many places a two-stage detector looks at closely. Raises CallError, with what to give
    instead, for weights that can't be had or are of another architecture.
    """
    model: Whole
    if is_factory(weights):
        model = _made(architecture, weights, arguments or {})
        replace_predictor(model, classes)
    elif architecture in (None, "fcos_small"):
        model = fcos_small(classes, height, width)
        if weights != "none":
            _load(model, weights, "fcos_small")
    else:
        model = _by_name(str(architecture), classes, weights)
    model.requires_grad_(True)
    if not isinstance(model, FasterRCNN):
        return candidates(model, height, width)
    if proposals:
        for limits in (model.rpn._pre_nms_top_n, model.rpn._post_nms_top_n):
            limits.update(training=proposals, testing=proposals)
    return TwoStage(model, height, width)


def _made(architecture: str | None, weights: str, arguments: dict[str, Any]) -> Whole:
    if origin(weights).kind != "factory":
        raise CallError(
            f"weights {weights!r} is no function; give file.py:function, a file .pth or .safetensors, "
            "coco, imagenet or none"
        )
    model = build_source(Source(source=weights, arguments=arguments))
    if not isinstance(model, Whole) or isinstance(model, KeypointRCNN):
        raise CallError(
            f"{weights} gave a {type(model).__name__}; torchvision's detectors are taken: SSD, RetinaNet, "
            "FCOS, Faster R-CNN or Mask R-CNN"
        )
    if architecture and not isinstance(model, MAKES[architecture[:3]]):
        raise CallError(
            f"{weights} gave a {type(model).__name__}, which is no {architecture}; leave architecture out"
        )
    return model


def _by_name(architecture: str, classes: int, weights: str) -> Whole:
    columns = classes if architecture.startswith(("ret", "fco")) else classes + 1

    def fresh(**more: Any) -> Whole:
        if architecture in OWN:
            return maskrcnn_mobilenet(BACKBONES[architecture][0], columns, more.get("weights_backbone"))
        plain = {"weights": None, "weights_backbone": None, "num_classes": columns}
        return torchvision.models.get_model(architecture, **{**plain, **more})  # type: ignore[no-any-return]

    if weights == "none":
        return fresh()
    if weights == "imagenet":
        backbone, name = BACKBONES[architecture]
        choice = torchvision.models.get_model_weights(backbone)[name]
        network: nn.Module = fetched(lambda: fresh(weights_backbone=choice), choice, backbone)
        return network
    known = {} if architecture in OWN else torchvision.models.get_model_weights(architecture).__members__
    if weights == "coco" and not known:
        raise CallError(
            f"{architecture} has no weights for COCO; it takes none, imagenet, a file .pth or "
            ".safetensors, file.py:function"
        )
    if weights == "coco" or weights in known:
        named = "DEFAULT" if weights == "coco" else weights
        model: Any = build_source(Source(source=f"torchvision:{architecture}", weights=named))
        replace_predictor(model, classes)
        return model  # type: ignore[no-any-return]
    model = fresh()
    _load(model, weights, architecture)
    return model


def _load(model: nn.Module, weights: str, architecture: str) -> None:
    if "." not in weights:
        raise CallError(
            f"weights {weights!r}: {architecture} takes none, imagenet, coco, a file .pth or .safetensors, "
            "or file.py:function"
        )
    own = model.state_dict()
    given = aligned(read_state(existing(weights, "weights")), own, weights)
    other = {
        name: own[name]
        for name in own.keys() & given.keys()
        if own[name].shape != given[name].shape and name.startswith(PREDICTORS)
    }
    load_weights(model, {**given, **other}, f"{weights} of {architecture}")


def replace_predictor(model: Whole, classes: int) -> None:
    """Give `model` fresh predictors for so many classes, and the background where it has one; nothing else
    is changed.
    """
    if isinstance(model, FasterRCNN):
        return _replace_second_stage(model.roi_heads, classes)
    head: Any = model.head.classification_head
    try:
        if isinstance(model, SSD):
            anchors = [_last(block).out_channels // head.num_columns for block in head.module_list]
            for k, (block, many) in enumerate(zip(head.module_list, anchors, strict=True)):
                fresh = _like(_last(block), many * (classes + 1), bias=0.0)
                if isinstance(block, nn.Conv2d):
                    head.module_list[k] = fresh
                else:
                    block[-1] = fresh
            head.num_columns = classes + 1
        else:
            many = head.cls_logits.out_channels // head.num_classes
            head.cls_logits = _like(head.cls_logits, many * classes, bias=-math.log((1 - PRIOR) / PRIOR))
            head.num_classes = classes
    except (AttributeError, TypeError, IndexError) as error:
        raise CallError(
            f"the classification head ({type(head).__name__}) is not of torchvision's make, so it can't be "
            "replaced"
        ) from error


def _replace_second_stage(heads: Any, classes: int) -> None:
    if not isinstance(heads.box_predictor, FastRCNNPredictor):
        raise CallError(
            f"the box predictor ({type(heads.box_predictor).__name__}) is not of torchvision's make, so it "
            "can't be replaced"
        )
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, classes + 1)
    if heads.has_mask():
        last = heads.mask_predictor.mask_fcn_logits
        heads.mask_predictor.mask_fcn_logits = nn.Conv2d(last.in_channels, classes + 1, 1)
        nn.init.kaiming_normal_(
            heads.mask_predictor.mask_fcn_logits.weight, mode="fan_out", nonlinearity="relu"
        )


def _last(block: nn.Module) -> nn.Conv2d:
    return block if isinstance(block, nn.Conv2d) else block[-1]  # type: ignore[index,return-value]


def _like(old: nn.Conv2d, channels: int, bias: float) -> nn.Conv2d:
    geometry: Any = (old.kernel_size, old.stride, old.padding)
    fresh = nn.Conv2d(old.in_channels, channels, *geometry)
    nn.init.normal_(fresh.weight, std=0.01 if bias else 0.03)
    assert fresh.bias is not None
    nn.init.constant_(fresh.bias, bias)
    return fresh


def freeze(detector: Detector, stages: int) -> None:
    """Keep the first `stages` of the backbone as they are: what comes before its next halving of the
    picture's size.
    """
    for parameter, stage in _staged(detector.model.backbone):
        parameter.requires_grad_(stage > stages)


def _staged(backbone: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Each parameter with the number of halvings up to its own layer, in the order of the layers."""
    stage = 0
    for module in backbone.modules():
        halving = isinstance(module, nn.MaxPool2d) or (
            isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
        )
        if halving and getattr(module, "stride", 1) in (2, (2, 2)):
            stage += 1
        for parameter in module.parameters(recurse=False):
            yield parameter, stage
