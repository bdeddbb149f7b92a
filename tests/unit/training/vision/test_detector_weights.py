"""Fine-tuning a detector: where its weights come from, which layers are new or frozen, and its training
views.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from training.data import Example, load_objects, scenes
from training.recipes import detector
from training.vision.detection.views import Views
from training.vision.detection.weights import BACKBONES, build, freeze, replace_predictor

OWN = """
import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from training.vision.detection.architectures import SmallPyramid

def ssd(classes=91):
    boxes = DefaultBoxGenerator([[2], [2], [2, 3]], scales=[0.1, 0.3, 0.6, 0.9], clip=False)
    head = SSDHead([32] * 3, boxes.num_anchors_per_location(), classes)
    model = SSD(SmallPyramid(32), boxes, (160, 128), classes, head=head)
    model.postprocess_detections = None  # another way to scores, which training doesn't ask for
    return model

def ssdlite(classes=91):
    boxes = DefaultBoxGenerator([[2], [2], [2, 3]], scales=[0.1, 0.3, 0.6, 0.9])
    head = SSDLiteHead([32] * 3, boxes.num_anchors_per_location(), classes, nn.BatchNorm2d)
    return SSD(SmallPyramid(32), boxes, (160, 128), classes, head=head)

def retinanet(classes=91):
    anchors = AnchorGenerator(((16, 24),) * 3, ((1.0, 2.0),) * 3)
    return RetinaNet(SmallPyramid(32), classes, anchor_generator=anchors)

def fcos(classes=91):
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    return FCOS(SmallPyramid(32), classes, anchor_generator=anchors)

def stranger():
    return nn.Linear(2, 2)

def odd():
    model = fcos()
    model.head.classification_head = nn.Identity()
    return model
"""
TARGETS = [{"boxes": torch.tensor([[20.0, 30, 60, 80]]), "labels": torch.tensor([2])}] * 2


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("own") / "detectors.py"
    file.write_text(OWN)
    return str(file)


@pytest.mark.parametrize("function", ["ssd", "ssdlite", "retinanet", "fcos"])
def test_of_a_detector_of_ones_own_all_is_kept_but_the_class_predictor(own: str, function: str) -> None:
    from training.imports.sources import Source
    from training.imports.sources import build as build_source

    torch.manual_seed(3)
    given: Any = build_source(Source(source=f"{own}:{function}"))
    torch.manual_seed(3)
    taken = build(None, 5, 128, 160, f"{own}:{function}")
    before, after = given.state_dict(), taken.model.state_dict()
    other = {name for name in before if before[name].shape != after[name].shape}

    assert before.keys() == after.keys()
    assert other
    assert all(name.startswith("head.classification_head") for name in other)
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - other)
    pixels = torch.randint(0, 256, (2, 3, 128, 160), dtype=torch.uint8)
    torch.stack(list(taken.train().loss(pixels, TARGETS).values())).sum().backward()
    assert all(one.grad is not None for one in taken.parameters())
    boxes, scores = taken.eval()(pixels)
    assert scores.shape == (*boxes.shape[:2], 5)
    assert torch.isfinite(scores).all()


def test_function_that_returns_no_detector_is_refused(own: str) -> None:
    """A function that returns no such detector is refused with what is accepted."""
    with pytest.raises(CallError, match="gave a Linear; torchvision's detectors are taken"):
        build(None, 3, 128, 160, f"{own}:stranger")
    with pytest.raises(
        CallError, match="gave a FCOS, which is no ssdlite320_mobilenet_v3_large; leave architecture out"
    ):
        build("ssdlite320_mobilenet_v3_large", 3, 128, 160, f"{own}:fcos")
    with pytest.raises(CallError, match=r"head \(Identity\) is not of torchvision's make"):
        build(None, 3, 128, 160, f"{own}:odd")
    with pytest.raises(CallError, match="has no function 'none'"):
        build(None, 3, 128, 160, f"{own}:none")


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [("ssdlite320_mobilenet_v3_large", "coco"), ("fcos_resnet50_fpn", "imagenet")],
)
@pytest.mark.usefixtures("no_weights")
def test_torchvision_weights_that_cannot_be_fetched_name_their_file(architecture: str, weights: str) -> None:
    """Torchvision's weights that cannot be fetched are asked for by their file."""
    with pytest.raises(CallError, match=r"no network\. Offline, put the file [\w-]+\.pth into .*checkpoints"):
        build(architecture, 3, 320, 320, weights)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BACKBONES)
def test_torchvision_detectors_learn_and_reload_their_state_dicts(architecture: str, tmp_path: Path) -> None:
    """Torchvision's detectors learn by their names, and their state dicts load again."""
    size = detector.Settings(data="scenes", architecture=architecture).size
    given = build(architecture, 7, *size)
    torch.save(given.model.state_dict(), tmp_path / "seven.pth")
    taken = build(architecture, 2, *size, str(tmp_path / "seven.pth"), proposals=50).train()
    target = {**TARGETS[0], "labels": torch.tensor([1]), "masks": torch.ones(1, *size, dtype=torch.uint8)}
    losses = taken.loss(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8), [target] * 2)

    assert all(torch.isfinite(value) for value in losses.values())
    own, new = given.model.state_dict(), taken.model.state_dict()
    kept = ("head.regression_head", "rpn.head", "roi_heads.box_head", "roi_heads.mask_head")
    parameters = [name for name, _ in given.model.named_parameters() if name.startswith(kept)]
    assert all(torch.equal(own[name], new[name]) for name in parameters)
    outputs = taken.eval()(*taken.inputs(torch.zeros(1, 3, *size, dtype=torch.uint8), 0.0))
    assert outputs[1].shape[-1] == 2 if len(outputs) == 2 else outputs[2].max() <= 1


def test_a_fresh_predictor_begins_with_every_class_unlikely(own: str) -> None:
    model = build(None, 4, 128, 160, f"{own}:retinanet").eval()

    scores = model(torch.randint(0, 256, (1, 3, 128, 160), dtype=torch.uint8))[1]

    assert float(scores.detach().mean()) == pytest.approx(0.01, abs=0.005)


def test_frozen_stages_are_those_before_the_next_halving_of_the_picture() -> None:
    model = build("fcos_small", 3, 64, 64)
    freeze(model, 2)
    frozen = {name for name, one in model.model.named_parameters() if not one.requires_grad}

    assert all(name.startswith("backbone.stem") for name in frozen)
    assert len(frozen) == sum(
        1 for name, _ in model.model.named_parameters() if name.startswith("backbone.stem")
    )


def test_frozen_statistics_stay_as_they_are_while_their_layers_learn() -> None:
    model = build("fcos_small", 3, 64, 64)
    model.frozen_statistics = True
    layer = next(module for module in model.train().modules() if isinstance(module, nn.BatchNorm2d))
    before = layer.running_mean.clone()  # type: ignore[union-attr]
    model.heads(torch.randint(0, 256, (2, 3, 64, 64)))

    assert model.training
    assert torch.equal(layer.running_mean, before)  # type: ignore[arg-type]
    assert layer.weight.requires_grad
    model.frozen_statistics = False
    model.train().heads(torch.randint(0, 256, (2, 3, 64, 64)))
    assert not torch.equal(layer.running_mean, before)  # type: ignore[arg-type]


def test_what_is_frozen_by_default_depends_on_what_comes_with_the_weights() -> None:
    def frozen(**more: Any) -> tuple[int, bool]:
        return detector.Settings(data="scenes", **more).frozen

    assert frozen() == (0, False)
    assert frozen(weights="imagenet", batch_size=8) == (2, False)
    assert frozen(weights="own.py:build", batch_size=8) == (2, True)
    assert frozen(weights="own.py:build", batch_size=16) == (2, False)
    assert frozen(weights="coco", batch_size=8, frozen_stages=0, frozen_statistics=False) == (0, False)


def block(size: tuple[int, int] = (300, 200)) -> Example:
    """A white block on grey."""
    pixels = np.full((size[1], size[0], 3), 114, np.uint8)
    pixels[60:110, 120:190] = 255
    return Example(pixels, boxes=np.array([[120, 60, 190, 110]], np.float32), labels=np.array([3]))


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_boxes_follow_their_pixels_through_crops_zooms_and_mirrors(fit: Any) -> None:
    torch.manual_seed(0)
    views = Views([block()] * 24, ImageInput(128, 128, fit=fit), 4, ("horizontal", "vertical"), seed=0)
    seen, sizes = 0, []
    for pixels, targets in views:
        for image, target in zip(pixels, targets, strict=True):
            assert len(target["boxes"]) == len(target["labels"]) <= 1
            if not len(target["boxes"]):
                continue
            bright = image.mean(0) > (image.mean(0).amax() + image.mean(0).median()) / 2
            rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
            found = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
            if bright.float().mean() < 0.45:  # else the block is the ground
                torch.testing.assert_close(target["boxes"][0], found, rtol=0, atol=2.5)
                seen += 1
            sizes.append(float(target["boxes"][0, 2] - target["boxes"][0, 0]))
    assert seen > 10
    assert max(sizes) > 1.5 * min(sizes)


def test_views_show_every_picture_once_in_the_seeds_order() -> None:
    """Views lie in the input and show every picture once, in an order of the seed."""
    data = scenes.load(train=8, validation=1, test=1)
    torch.manual_seed(0)
    pixels, targets = zip(*Views(data.train, ImageInput(96, 128), 4, (), seed=0), strict=True)

    assert [part.shape for part in pixels] == [(4, 3, 96, 128)] * 2
    assert 0 <= torch.cat(pixels).min() < torch.cat(pixels).max() <= 255
    boxes = torch.cat([target["boxes"] for part in targets for target in part])
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([128, 96])).all()


def test_pictures_without_objects_have_views_too() -> None:
    empty = Example(np.zeros((40, 50, 3), np.uint8))
    ((pixels, targets),) = list(Views([empty, empty], ImageInput(64, 64), 2, (), seed=0))

    assert pixels.shape == (2, 3, 64, 64)
    assert [target["boxes"].shape for target in targets] == [(0, 4), (0, 4)]


def test_the_coco_ssdlite_is_taken_with_its_own_anchors_and_scores(shared_data: Path) -> None:
    weights = f"{shared_data / 'weights' / 'ssdlite_coco.py'}:build"
    model = build(None, 3, 320, 320, weights)
    data = load_objects(str(shared_data / "bccd"))

    assert model(torch.zeros(1, 3, 320, 320, dtype=torch.uint8))[1].shape == (1, len(model.anchors), 3)
    assert float(model.anchors.min()) < 0  # not clipped, unlike torchvision's own
    assert data.classes == ("Platelets", "RBC", "WBC")
    with pytest.raises(CallError, match="no function 'make'"):
        build(None, 3, 320, 320, weights.replace(":build", ":make"))
    replace_predictor(model.model, 8)
    assert model.model.head.classification_head.num_columns == 9
