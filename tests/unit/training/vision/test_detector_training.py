"""The detector's recipe: losses, weights, settings, and the graph that it hands over."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.inputs.images import ImageInput
from handlers.kinds.detections import select
from marina.core import spec
from marina.core.errors import CallError
from training.data import ImageData, scenes
from training.recipes import detector
from training.runs.run import Run
from training.vision.detection.architectures import Candidates
from training.vision.detection.pixels import Prepared
from training.vision.detection.weights import build

INPUTS = ImageInput(scenes.HEIGHT, scenes.WIDTH)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return scenes.load(train=16, validation=6, test=6)


RETINANET = """
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from training.vision.detection.architectures import SmallPyramid

def build(classes=7):
    anchors = AnchorGenerator(((16, 20, 25), (32, 40, 51), (64, 81, 102)), ((0.5, 1.0, 2.0),) * 3)
    return RetinaNet(SmallPyramid(32), classes, 128, 160, anchor_generator=anchors)
"""


@pytest.fixture(
    scope="module",
    params=[
        "fcos_small",
        pytest.param("ssdlite320_mobilenet_v3_large", marks=pytest.mark.slow),
        pytest.param("retinanet of one's own", marks=pytest.mark.slow),
    ],
)
def fitted(request, data, tmp_path_factory) -> tuple[Candidates, torch.Tensor]:
    """A detector after a few steps on a few scenes, with pictures of its size."""
    torch.manual_seed(0)
    small = not request.param.startswith("ssdlite")
    inputs = INPUTS if small else ImageInput(320, 320)
    if request.param.startswith("retinanet"):
        file = tmp_path_factory.mktemp("own") / "retinanet.py"
        file.write_text(RETINANET)
        model = build(None, 10, inputs.height, inputs.width, f"{file}:build").train()
    else:
        model = build(request.param, 10, inputs.height, inputs.width).train()
    few = Prepared.of(data.train[:4], inputs, "pictures")
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(16 if small else 2):
        loss = torch.stack(list(model.loss(few.pixels, few.targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # so few steps leave the running statistics behind
    with torch.no_grad():
        model.heads(few.pixels)

    assert losses[-1] < (0.8 if request.param == "fcos_small" else 1.0) * losses[0]
    return model.eval(), Prepared.of([*data.test, *data.train[:4]], inputs, "pictures").pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scenes as somebody's own COCO folder."""
    root = tmp_path_factory.mktemp("own") / "My Things"
    (root / "images").mkdir(parents=True)
    data = scenes.load(train=16, validation=6, test=6)
    for split, examples in {"train": data.train, "val": data.validation, "test": data.test}.items():
        content: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": k, "name": name} for k, name in enumerate(data.classes)],
        }
        for k, example in enumerate(examples):
            Image.fromarray(example.image).save(root / "images" / f"{split}{k}.png")
            content["images"].append({"id": k, "file_name": f"{split}{k}.png"})
            for (left, top, right, bottom), label in zip(
                example.boxes.tolist(), example.labels.tolist(), strict=True
            ):
                content["annotations"].append(
                    {"image_id": k, "category_id": label, "bbox": [left, top, right - left, bottom - top]}
                )
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.usefixtures("home")
def test_detector_training_returns_all_that_the_export_needs(folder, tmp_path, monkeypatch, capsys):
    """A run on a user's folder returns all that the export needs and leaves no other files.

    The same seed gives the same metrics and weights.
    """
    monkeypatch.chdir(tmp_path)
    settings = detector.Settings(data=str(folder), height=128, width=160, epochs=1, batch_size=8)
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        runs.append(detector.train(settings, Run(tmp_path / name, seed=3)))
    trained, again = runs

    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "models", "cache"}
    assert {path.name for path in (tmp_path / "one").iterdir()} - {"tensorboard"} == {
        *("curves.png", "examples.png", "history.json", "precision_recall.png", "worst.png"),
    }
    assert {"map", "ap50", "precision", "recall"} <= trained.metrics.keys()
    assert trained.training["by_class"].keys() <= set("0123456789")
    assert trained.metrics == again.metrics
    assert all(
        torch.equal(a, b)
        for a, b in zip(trained.module.state_dict().values(), again.module.state_dict().values(), strict=True)
    )
    assert trained.classes == list("0123456789")
    assert trained.preprocess == ImageInput(128, 160, fit="letterbox").as_config()
    assert trained.postprocess["type"] == "detection"
    assert trained.example[0].shape == (2, 3, 128, 160)
    assert trained.example[0].dtype == torch.uint8
    assert not trained.module.training
    assert "GPU" not in capsys.readouterr().out


def test_the_exported_graph_equals_the_model_for_any_batch(fitted, tmp_path):
    model, pixels = fitted
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (pixels[:2],), dynamic_shapes=({0: batch},), strict=False)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()

    for count in (1, 2, 5):
        with torch.inference_mode():
            (boxes, scores), (expected_boxes, expected_scores) = loaded(pixels[:count]), model(pixels[:count])
        assert boxes.shape == (count, len(model.anchors), 4)
        assert scores.shape == (count, len(model.anchors), 10)
        torch.testing.assert_close(boxes, expected_boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-5)


def test_candidates_and_selection_find_exactly_what_torchvision_finds(fitted):
    model, pixels = fitted
    least, many = {"FCOSCandidates": (0.15, 1000), "SSDCandidates": (0.02, 300)}.get(
        type(model).__name__, (0.0, 1000)
    )
    if not least:  # a RetinaNet that has learnt so little gives nothing a high score
        least = float(model(pixels[:1])[1].detach().flatten().topk(101).values[-2:].mean())
    model.model.score_thresh, model.model.nms_thresh = least, 0.5
    model.model.topk_candidates, model.model.detections_per_img = many, 100
    total = 0
    with torch.no_grad():
        for image in pixels:
            boxes, scores = model(image[None])
            found = select(boxes[0].numpy(), scores[0].numpy(), least, many, 0.5, 100, model.candidates_per)
            (expected,) = model.model([image.float() / 255])
            offset = 0 if model.candidates_per == "image" else 1  # SSD counts the background
            total += len(found[0])

            np.testing.assert_allclose(found[1], expected["scores"], rtol=0, atol=1e-6)
            # two of one score may stand in either order: pairs by label, box and score
            ours = np.column_stack([found[2] + offset, found[0], 1000 * found[1]])
            theirs = np.column_stack([expected["labels"], expected["boxes"], 1000 * expected["scores"]])
            assert len(ours) == len(theirs)
            nearest = [int(np.abs(theirs - row).max(1).argmin()) for row in ours]
            np.testing.assert_allclose(ours, theirs[nearest], rtol=0, atol=1e-3)
            assert len(set(nearest)) == len(theirs)
    assert total > 20


def test_pictures_without_objects_train_too(fitted):
    model, pixels = fitted
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model.loss(pixels[:2], [nothing, nothing])

    assert all(torch.isfinite(value) for value in losses.values())


def test_weights_of_other_classes_give_all_but_the_class_predictor(tmp_path):
    given = build("fcos_small", 3, 64, 64)
    torch.save(given.model.state_dict(), tmp_path / "three.pth")
    taken = build("fcos_small", 5, 64, 64, str(tmp_path / "three.pth"))

    assert torch.equal(taken.model.backbone.stem[0][0].weight, given.model.backbone.stem[0][0].weight)
    assert taken.model.head.classification_head.cls_logits.weight.shape[0] == 5


def test_weights_that_do_not_fit_are_refused_with_what_to_do(tmp_path):
    torch.save(build("fcos_small", 3, 64, 64).model.state_dict(), tmp_path / "small.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")

    with pytest.raises(CallError, match="no such file"):
        build("fcos_small", 3, 64, 64, str(tmp_path / "none.pth"))
    with pytest.raises(CallError, match="save it again"):
        build("fcos_small", 3, 64, 64, str(tmp_path / "junk.pth"))
    with pytest.raises(CallError, match=r"of ssdlite320_mobilenet_v3_large don't fit: .* is missing"):
        build("ssdlite320_mobilenet_v3_large", 3, 320, 320, str(tmp_path / "small.pth"))
    with pytest.raises(CallError, match="takes none, imagenet, coco, a file"):
        build("ssdlite320_mobilenet_v3_large", 3, 320, 320, "COCO_V9")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"architecture": "ssdlite320_mobilenet_v3_large", "height": 250}, "multiples of 32, not 250"),
        ({"height": 100}, "multiples of 32"),
        ({"architecture": "fasterrcnn_resnet50_fpn"}, "fcos_small.*ssd300_vgg16"),
        ({"arguments": {"classes": 3}}, "leave them out"),
        ({"epoch": 3}, "known here: .*epochs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(CallError, match=said):
        spec.validate(detector.Settings, {"data": "scenes", **wrong}, "models/x.yaml")


def test_the_built_in_spec_fits_the_recipe():
    read = spec.load("scenes")
    settings = spec.validate(detector.Settings, read.training.settings, "models/scenes.yaml")

    assert (read.kind, read.training.recipe) == ("detector", "detector")
    assert (settings.height, settings.width) == (scenes.HEIGHT, scenes.WIDTH)
    assert read.floor["ap50"] >= 0.9
