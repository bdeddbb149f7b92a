"""Small two-stage detectors of a user's own file, and pictures with discs and boards for them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from handlers.inputs.images import ImageInput, prepare
from handlers.inputs.masks import run_lengths
from handlers.kinds.instance_masks import Instance
from training.data import coco
from training.imports.sources import Source
from training.imports.sources import build as build_source

HEIGHT, WIDTH = 64, 96
OWN = """
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from training.vision.detection.architectures import SmallPyramid

def parts(classes):
    anchors = AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0, 2.0),) * 3)
    heads = {"box_head": TwoMLPHead(16 * 49, 32), "box_predictor": FastRCNNPredictor(32, classes)}
    masks = {"mask_head": MaskRCNNHeads(16, (16,), 1), "mask_predictor": MaskRCNNPredictor(16, 8, classes)}
    sizes = {"min_size": 64, "max_size": 96, "box_detections_per_img": 20}
    sizes |= {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 30}
    return {"rpn_anchor_generator": anchors, **heads, **sizes}, masks

def lively(model):
    # scores that are not all the same, as those of an untrained head are
    torch.manual_seed(1)
    model.train().backbone(torch.randn(4, 3, 64, 96))
    heads = [model.rpn.head, model.roi_heads.box_head, model.roi_heads.box_predictor]
    for layer in (one for head in heads for one in head.modules() if isinstance(one, nn.Conv2d | nn.Linear)):
        nn.init.normal_(layer.weight, std=1.5 * layer.weight[0].numel() ** -0.5)
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.05)
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.2)
    return model.eval()

def backbone():
    pyramid = SmallPyramid(16)
    for one in pyramid.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.momentum = 1.0
    return pyramid

def faster(classes=4):
    plain, _ = parts(classes)
    return lively(FasterRCNN(backbone(), **plain))

def mask(classes=4):
    plain, masks = parts(classes)
    return lively(MaskRCNN(backbone(), **plain, **masks))

def keypoints():
    return KeypointRCNN(backbone(), num_classes=2, num_keypoints=3)
"""


def model_of(rcnn_file: str, function: str = "mask") -> Any:
    return build_source(Source(source=f"{rcnn_file}:{function}"))


def blotches(seed: int, size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(seeds: range) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([prepare(blotches(seed, (WIDTH, HEIGHT)), ImageInput(HEIGHT, WIDTH)) for seed in seeds])
    )


def whole_mask(instance: Instance) -> np.ndarray:
    mask = np.zeros(instance.size[::-1], bool)
    rows, columns = instance.pixels.shape
    mask[instance.top : instance.top + rows, instance.left : instance.left + columns] = instance.pixels
    return mask


def filled(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    return coco.filled(polygons, *size) if polygons else np.zeros(size[::-1], bool)


def people(folder: Path, many: int = 16, with_outlines: bool = True) -> Path:
    """Bright discs and boards on dark ground, as COCO json with polygons and run lengths."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "disc"}, {"id": 5, "name": "board"}],
    }
    for number in range(many):
        rng = np.random.default_rng(number)
        image = Image.new("RGB", (120, 80), (20, 30, 40))
        content["images"].append({"id": number, "file_name": f"{number}.png"})
        for category, left in ((3, 5), (5, 65)):
            mask = Image.new("1", image.size)
            box = (left + int(rng.integers(0, 10)), 10 + int(rng.integers(0, 20)))
            corners = (*box, box[0] + 34, box[1] + 30)
            pen = ImageDraw.Draw(mask)
            pen.ellipse(corners, fill=1) if category == 3 else pen.rectangle(corners, fill=1)
            image.paste((230, 60, 60) if category == 3 else (90, 220, 250), mask=mask)
            square = [
                corners[0],
                corners[1],
                corners[2] + 1,
                corners[1],
                corners[2] + 1,
                corners[3] + 1,
                corners[0],
                corners[3] + 1,
            ]
            outline: Any = (
                {"size": [80, 120], "counts": run_lengths(np.array(mask))} if category == 3 else [square]
            )
            row = {
                "id": len(content["annotations"]),
                "image_id": number,
                "category_id": category,
                "bbox": [*box, 35, 31],
            }
            content["annotations"].append({**row, **({"segmentation": outline} if with_outlines else {})})
        image.save(folder / "images" / f"{number}.png")
    (folder / "instances.json").write_text(json.dumps(content))
    return folder
