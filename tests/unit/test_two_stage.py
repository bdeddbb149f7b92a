"""Two-stage detectors: one graph for both stages and the masks, that finds what torchvision finds, is learnt, imported and served."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image

from marina import draw, evaluate, importing, openapi
from marina.console import Output
from marina.errors import CallError
from training import datasets, detector, imported_detector
from training.datasets import Example
from training.detection.evaluation import Found, mask_precision
from training.detection.pixels import Prepared, augment, object_masks
from training.detection.two_stage import TwoStage
from training.detection.weights import build, replace_predictor
from training.imports.sources import Source
from training.imports.sources import build as build_source

from bundle_detections import detections_of
from bundle_images import ImageInput, boxes_to_image, open_image, prepare
from bundle_instances import Instance, laid
from bundle_masks import mask_of_run_lengths, read_mask, run_lengths
from bundle_runtimes import arrays
from detector_handler import DetectorHandler

HEIGHT, WIDTH = 64, 96
OWN = """
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from training.detection.architectures import SmallPyramid

def parts(classes):
    anchors = AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0, 2.0),) * 3)
    heads = {"box_head": TwoMLPHead(16 * 49, 32), "box_predictor": FastRCNNPredictor(32, classes)}
    masks = {"mask_head": MaskRCNNHeads(16, (16,), 1), "mask_predictor": MaskRCNNPredictor(16, 8, classes)}
    sizes = {"min_size": 64, "max_size": 96, "rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 30, "box_detections_per_img": 20}
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


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("own") / "rcnn.py"
    file.write_text(OWN)
    return str(file)


def model_of(own: str, function: str = "mask") -> Any:
    return build_source(Source(source=f"{own}:{function}"))


def blotches(seed: int, size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(seeds: range) -> torch.Tensor:
    return torch.from_numpy(np.stack([prepare(blotches(seed, (WIDTH, HEIGHT)), ImageInput(HEIGHT, WIDTH)) for seed in seeds]))


# --- the graph


@pytest.mark.parametrize(("proposals_above", "threshold"), [(0.0, 0.05), (0.0, 0.4), (0.0, 0.9999), (0.6, 0.05), (1.1, 0.05)])
def test_a_batch_finds_exactly_what_torchvision_finds_one_by_one_also_where_it_proposes_nothing(
    own: str, proposals_above: float, threshold: float
) -> None:
    model = model_of(own)
    graph = TwoStage(model, HEIGHT, WIDTH)
    model.rpn.score_thresh, model.roi_heads.score_thresh = proposals_above, threshold
    pixels = pixels_of(range(3))
    with torch.inference_mode():
        outputs = graph(*graph.inputs(pixels, threshold))
        whole = [model([one.float() / 255])[0] for one in pixels]
    found = detections_of(arrays(outputs), [threshold] * 3, graph.postprocess())

    for ours, theirs in zip(found, whole, strict=True):
        np.testing.assert_allclose(ours.boxes, theirs["boxes"], rtol=0, atol=1e-3)
        np.testing.assert_allclose(ours.scores, theirs["scores"], rtol=0, atol=1e-5)
        assert np.array_equal(ours.labels + 1, theirs["labels"])
        for mask, box, pasted in zip(ours.masks, ours.boxes, theirs["masks"], strict=True):  # type: ignore[arg-type]
            assert (whole_mask(laid(mask, box, (WIDTH, HEIGHT))) != (pasted[0] > 0.5).numpy()).mean() < 1e-3
    many = [len(one.scores) for one in found]
    assert min(many) > 10 if threshold == 0.05 and proposals_above < 1 else max(many) < 20


def test_each_picture_has_a_threshold_and_a_wish_for_masks_of_its_own(own: str) -> None:
    graph = TwoStage(model_of(own), HEIGHT, WIDTH)
    pixels = pixels_of(range(1)).expand(3, -1, -1, -1)
    with torch.inference_mode():
        boxes, scores, _, masks = graph(pixels, torch.tensor([0.05, 0.4, 0.05]), torch.tensor([True, True, False]))

    assert int((scores[0] > 0).sum()) > int((scores[1] > 0).sum()) > 0
    assert torch.equal(scores[0], scores[2])
    assert torch.equal(boxes[0], boxes[2])
    assert masks[0].any()
    assert not masks[2].any()
    assert scores[1][scores[1] > 0].min() > 0.4
    behind = scores == 0
    assert not boxes[behind].any()
    assert not masks[behind].any()


# --- instances


def whole_mask(instance: Instance) -> np.ndarray:
    mask = np.zeros(instance.size[::-1], bool)
    rows, columns = instance.pixels.shape
    mask[instance.top : instance.top + rows, instance.left : instance.left + columns] = instance.pixels
    return mask


def test_masks_are_laid_on_their_boxes_as_torchvision_does_and_their_run_lengths_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    for number in range(400):
        size = tuple(rng.integers(1, 60, 2).tolist())
        grain = 28 if number % 2 else 5
        mask = torch.nn.functional.interpolate(torch.rand(1, 1, grain, grain), (28, 28), mode="bilinear")[0, 0]
        corners = rng.uniform(0, size, (2, 2))
        box = torch.tensor(np.concatenate([corners.min(0), corners.max(0)]), dtype=torch.float32)
        expected = (paste_masks_in_image(mask[None, None], box[None], size[::-1])[0, 0] > 0.5).numpy()
        instance = laid(mask.numpy(), box.numpy(), size)  # type: ignore[arg-type]

        assert np.array_equal(whole_mask(instance), expected)
        assert instance.run_lengths() == run_lengths(expected)


def filled(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    return datasets.coco.filled(polygons, *size) if polygons else np.zeros(size[::-1], bool)


def test_polygons_hold_a_mask_of_straight_edges_exactly_and_a_round_one_nearly_with_few_corners() -> None:
    size = (120, 90)
    sheet = Image.new("1", size)
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((10, 10, 29, 39), fill=1)
    pen.rectangle((20, 30, 59, 39), fill=1)
    angular = Instance(np.array(sheet), 0, 0, size)
    pen.ellipse((60, 40, 110, 85), fill=1)
    both = Instance(np.array(sheet)[5:], 0, 5, size)

    assert angular.polygons() == [[30, 10, 30, 30, 60, 30, 60, 40, 10, 40, 10, 10]]
    polygons = both.polygons()
    assert len(polygons) == 2
    found, truth = filled(polygons, size), whole_mask(both)
    assert (found & truth).sum() / (found | truth).sum() > 0.98
    assert len(polygons[1]) / 2 < 70  # of about 190 corners of pixels


def test_polygons_leave_holes_out_and_part_what_touches_at_a_corner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle_instances.TOLERANCE", 0.0)
    ring = np.ones((6, 7), bool)
    ring[2:4, 2:5] = False
    steps = np.array([[1, 0], [0, 1]], bool)

    assert Instance(ring, 3, 1, (20, 20)).polygons() == [[10, 1, 10, 7, 3, 7, 3, 1]]
    assert len(Instance(steps, 0, 0, (2, 2)).polygons()) == 2
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = rng.random(rng.integers(1, 9, 2)) < 0.5
        one = Instance(mask, 0, 0, mask.shape[::-1])
        found = filled(one.polygons(), one.size)
        assert found[mask].all()
        assert mask.any() or not one.polygons()


# --- learning


def people(folder: Path, many: int = 16, with_outlines: bool = True) -> Path:
    """Bright discs and boards on dark ground, as COCO json with polygons and run lengths."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "disc"}, {"id": 5, "name": "board"}]}
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
            square = [corners[0], corners[1], corners[2] + 1, corners[1], corners[2] + 1, corners[3] + 1, corners[0], corners[3] + 1]
            outline: Any = {"size": [80, 120], "counts": run_lengths(np.array(mask))} if category == 3 else [square]
            row = {"id": len(content["annotations"]), "image_id": number, "category_id": category, "bbox": [*box, 35, 31]}
            content["annotations"].append({**row, **({"segmentation": outline} if with_outlines else {})})
        image.save(folder / "images" / f"{number}.png")
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return people(tmp_path_factory.mktemp("data") / "discs")


def test_masks_of_objects_are_read_and_move_with_their_pixels(discs: Path) -> None:
    data = datasets.load(str(discs), "detector")
    prepared = Prepared.of(data.train, ImageInput(HEIGHT, WIDTH, fit="letterbox"), "pictures", masks=True)
    many = prepared.targets * 4
    moved, targets = augment(prepared.pixels.repeat(4, 1, 1, 1).float(), many, True, "both", torch.Generator().manual_seed(0))

    for pixels, batch in ((prepared.pixels.float(), prepared.targets), (moved, targets)):
        for image, target in zip(pixels, batch, strict=True):
            assert len(target["masks"]) == len(target["boxes"]) == len(target["labels"])
            bright = image.amax(0) > (image.amax(0).amax() + image.amax(0).median()) / 2
            inside = target["masks"].any(0)
            assert len(target["masks"]) < 2 or (bright & inside).sum() / (bright | inside).sum() > 0.85
            for mask, box in zip(target["masks"], target["boxes"], strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
                torch.testing.assert_close(box, seen, rtol=0, atol=1.6)
    assert len({int(mask.sum()) for target in targets for mask in target["masks"]}) > 20


def test_both_stages_and_the_masks_learn_and_pictures_without_objects_train_too(own: str, discs: Path) -> None:
    torch.manual_seed(0)
    data = datasets.load(str(discs), "detector")
    prepared = Prepared.of(data.train[:4], ImageInput(HEIGHT, WIDTH, fit="letterbox"), "pictures", masks=True)
    model = build(None, 2, HEIGHT, WIDTH, f"{own}:mask").train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    history = []
    for _ in range(12):
        losses = model.loss(prepared.pixels, prepared.targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({name: float(value.detach()) for name, value in losses.items()})

    assert set(history[0]) == {"objectness", "proposals", "classes", "boxes", "masks"}
    for name in ("objectness", "classes", "masks"):
        assert history[-1][name] < 0.8 * history[0][name]
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, HEIGHT, WIDTH).byte()}
    assert all(torch.isfinite(value) for value in model.loss(prepared.pixels[:2], [nothing, nothing]).values())


def test_training_hands_over_masks_their_precision_and_samples_that_ask_for_them(own: str, discs: Path, tmp_path: Path) -> None:
    settings = detector.Settings(
        data=str(discs), weights=f"{own}:mask", height=HEIGHT, width=WIDTH, epochs=1, batch_size=4, proposals=20, precision="float32"
    )
    trained = detector.train(settings, 0, tmp_path)

    assert {"map", "ap50", "mask_map", "mask_ap50", "precision", "recall"} <= trained.metrics.keys()
    assert trained.postprocess["selection"] == "graph"
    assert trained.postprocess["masks"] is True
    assert trained.preprocess["max_pixels"] == 12_000_000
    assert [part.shape[0] for part in trained.example] == [2, 2, 2]
    assert trained.module.model.rpn._post_nms_top_n == {"training": 20, "testing": 20}
    for sample in trained.samples:
        assert json.loads(sample.body)["masks"] == "compressed_rle"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"augmentation": "ssd"}, "doesn't move masks; use light or none"),
        ({"architecture": "ssd300_vgg16"}, "gave a MaskRCNN, which is no ssd300_vgg16"),
        ({"architecture": "maskrcnn_mobilenet_v2_320_fpn", "weights": "coco"}, "has no weights for COCO"),
    ],
)
def test_what_can_not_be_taught_is_refused(own: str, discs: Path, more: dict[str, Any], words: str, tmp_path: Path) -> None:
    settings = {"data": str(discs), "weights": f"{own}:mask", "height": HEIGHT, "width": WIDTH, "epochs": 1, "batch_size": 4, **more}
    with pytest.raises(CallError, match=words):
        detector.train(detector.Settings(**settings), 0, tmp_path)


def test_masks_can_not_be_taught_without_outlines_and_keypoints_not_at_all(own: str, tmp_path: Path) -> None:
    data = people(tmp_path / "boxes", with_outlines=False)
    settings = detector.Settings(data=str(data), weights=f"{own}:mask", height=HEIGHT, width=WIDTH, batch_size=4)

    with pytest.raises(CallError, match=r"object 1 has no outline: .* give COCO json with a \"segmentation\""):
        detector.train(settings, 0, tmp_path)
    with pytest.raises(CallError, match="gave a KeypointRCNN; torchvision's detectors are taken"):
        build(None, 2, HEIGHT, WIDTH, f"{own}:keypoints")
    with pytest.raises(CallError, match="is KeypointRCNN; of detectors"):
        imported_detector.train(imported_detector.Settings(source=f"{own}:keypoints"), 0, tmp_path)


def test_of_a_mask_rcnn_all_is_kept_but_the_predictors(own: str) -> None:
    model = model_of(own)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    replace_predictor(model, 7)
    after = model.state_dict()

    other = {name for name in before if before[name].shape != after[name].shape}
    assert {name.rsplit(".", 2)[1] for name in other} == {"cls_score", "bbox_pred", "mask_fcn_logits"}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - other)
    assert TwoStage(model, HEIGHT, WIDTH).columns == 8


def test_mask_precision_is_one_for_the_truth_and_nought_for_its_neighbour(discs: Path) -> None:
    test = datasets.load(str(discs), "detector").test

    def found(example: Example, shift: int) -> Found:
        masks = np.roll(object_masks(example, 120, 80), shift, 2)
        sent = [Instance(mask.astype(bool), 0, 0, (120, 80)).sent("compressed_rle") for mask in masks]
        return Found(torch.from_numpy(example.boxes), torch.full((len(masks),), 0.9), torch.from_numpy(example.labels), sent)

    assert mask_precision([found(one, 0) for one in test], test) == {"mask_map": 1.0, "mask_ap50": 1.0}
    assert mask_precision([found(one, 40) for one in test], test) == {"mask_map": 0.0, "mask_ap50": 0.0}
    assert found(test[0], 0).above(0.95).masks == []


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["maskrcnn_mobilenet_v2_320_fpn", "maskrcnn_mobilenet_v3_large_320_fpn"])
def test_the_mask_rcnns_of_our_own_are_torchvisions_on_finer_maps(architecture: str) -> None:
    made = build(architecture, 3, 320, 320)

    assert isinstance(made.model, MaskRCNN)
    assert [value.shape[2] for value in made.features(torch.zeros(1, 3, 320, 320)).values()] == [40, 20, 10, 5]


# --- import and answers


@pytest.fixture(scope="module")
def handler(own: str, discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The handler of an imported Mask R-CNN, as a worker loads it from its export."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        one, _ = importing.chosen("people", {"source": f"{own}:mask"}, None, SMALL, trust_pickle=False)
        importing.bring(one, trust_pickle=False, output=Output(as_json=True))
        made = DetectorHandler()
        made.load(one.export_dir)
        assert made.check_golden(one.export_dir) > 0
        yield made, one


SMALL = {"training.height": HEIGHT, "training.width": WIDTH}


def test_pictures_of_different_sizes_are_answered_together_as_the_model_by_itself_does_one_by_one(own: str, handler: Any) -> None:
    model = model_of(own)
    pictures = [blotches(seed, size) for seed, size in enumerate(((96, 64), (200, 90), (61, 120)))]
    answers = handler[0].answer_rows([({"body": png(picture)}, {"masks": "rle"}) for picture in pictures])

    for picture, answer in zip(pictures, answers, strict=True):
        inputs = handler[0].input
        with torch.inference_mode():
            (whole,) = model([torch.from_numpy(prepare(open_image(png(picture)), inputs)).float() / 255])
        found = answer["detections"]
        assert len(found) == len(whole["labels"]) > 5
        assert [one["class_index"] + 1 for one in found] == whole["labels"].tolist()
        torch.testing.assert_close(torch.tensor([one["score"] for one in found]), whole["scores"], rtol=0, atol=1e-4)
        boxes = boxes_to_image(whole["boxes"].numpy(), picture.size, inputs)
        np.testing.assert_allclose([one["bbox"] for one in found], boxes, rtol=0, atol=0.01)
        if picture.size == (WIDTH, HEIGHT):
            for one, mask in zip(found, whole["masks"], strict=True):
                ours = mask_of_run_lengths(one["mask"]["counts"], HEIGHT, WIDTH)
                assert (ours != (mask[0] > 0.5).numpy()).mean() < 1e-3


def test_masks_come_in_each_form_that_is_asked_for_and_no_other(handler: Any) -> None:
    body = png(blotches(0, (150, 80)))
    forms = ("none", "rle", "compressed_rle", "polygons")
    plain, lists, texts, polygons = (handler[0].answer_rows([({"body": body}, {"masks": form})])[0]["detections"] for form in forms)
    (refused,) = handler[0].answer_rows([({"body": body}, {"masks": "png"})])

    assert handler[0].answer_rows([({"body": body}, {})])[0]["detections"] == plain
    assert "masks must be none or rle or compressed_rle or polygons" in str(refused)
    assert all("mask" not in one for one in plain)
    assert [one["bbox"] for one in plain] == [one["bbox"] for one in lists]
    for one, other, third in zip(lists, texts, polygons, strict=True):
        mask = read_mask(one["mask"])
        assert mask is not None
        assert mask.shape == (80, 150)
        assert np.array_equal(read_mask(other["mask"]), mask)
        around = filled(third["mask"]["polygons"], (150, 80))
        assert (around & mask).sum() >= 0.9 * mask.sum() - 4


@pytest.mark.parametrize("form", ["rle", "compressed_rle", "polygons"])
def test_an_answers_masks_are_drawn_on_the_picture_where_they_are(form: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (600, 400), "white")
    pixels = np.zeros((400, 600), bool)
    pixels[250:350, 300:500] = True
    mask = Instance(pixels, 0, 0, picture.size).sent(form)
    found = {"bbox": [300, 250, 500, 350], "score": 0.9, "class": "board", "class_index": 0, "mask": mask}
    draw.draw(png(picture), {"detections": [found]}, tmp_path / "drawn.png")
    drawn = np.array(Image.open(tmp_path / "drawn.png")).astype(int)

    assert (drawn[260:340, 310:490] != 255).any(2).all()
    assert (drawn[:180] == 255).all()
    assert (drawn[260:340, :290] == 255).all()


def test_what_is_described_is_what_is_answered(handler: Any) -> None:
    import jsonschema

    described = handler[0].describe_handle()
    body = base64.b64encode(png(blotches(1, (70, 70)))).decode()
    for form in ("none", "rle", "compressed_rle", "polygons"):
        (answer,) = handler[0].answer_rows([({"body": json.dumps({"image": body, "masks": form}).encode()}, {})])
        jsonschema.validate(answer, described["answer"])
    (tensors,) = handler[0].answer_rows(
        [({"body": json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [body]}]}).encode()}, {"masks": "rle"})]
    )

    document = openapi.of_description(described)
    assert [one["name"] for one in document["paths"]["/predictions/people"]["post"]["parameters"]] == ["confidence_threshold", "masks"]
    assert {one["name"] for one in tensors["outputs"]} == {"detections", "bbox", "score", "class", "class_index", "mask"}


def test_an_import_says_how_near_it_is_and_measures_masks_where_there_are_some(own: str, discs: Path, tmp_path: Path) -> None:
    settings = {"source": f"{own}:mask", "height": HEIGHT, "width": WIDTH, "arguments": {"classes": 3}, "data": str(discs)}
    trained = imported_detector.train(imported_detector.Settings(**settings, candidates=15, nms_threshold=0.4), 0, tmp_path)

    assert trained.training["largest_score_difference"] < 1e-4
    assert trained.training["largest_box_difference"] < 0.01
    assert {"map", "ap50", "mask_map", "mask_ap50"} <= trained.metrics.keys()
    assert trained.classes == ["disc", "board"]
    assert trained.postprocess["nms_threshold"] == trained.module.model.roi_heads.nms_thresh == 0.4
    assert trained.module.model.rpn._post_nms_top_n["testing"] == 15


def test_a_faster_rcnn_has_no_masks_to_ask_for(own: str, tmp_path: Path) -> None:
    settings = imported_detector.Settings(source=f"{own}:faster", height=HEIGHT, width=WIDTH)
    trained = imported_detector.train(settings, 0, tmp_path)

    assert trained.postprocess["masks"] is False
    assert [part.shape for part in trained.example] == [(2, 3, HEIGHT, WIDTH), (2,)]
    assert len(trained.module(*trained.example)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_torchvisions_are_brought_by_name_with_a_file_of_weights(architecture: str, tmp_path: Path) -> None:
    model: Any = torchvision.models.get_model(architecture, weights=None, weights_backbone=None, num_classes=4)
    for norm in (one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    model.train().backbone(torch.randn(2, 3, 128, 160))  # else all features vanish, and all scores are the same
    for layer in (*model.rpn.head.modules(), *model.roi_heads.box_head.modules(), *model.roi_heads.box_predictor.modules()):
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=1.5 * layer.weight[0].numel() ** -0.5)
    torch.save(model.state_dict(), tmp_path / "four.pth")
    size = {"height": 128, "width": 160, "candidates": 30, "detections_per_image": 10}
    settings = imported_detector.Settings(source=architecture, weights=str(tmp_path / "four.pth"), **size)
    trained = imported_detector.train(settings, 0, tmp_path)

    assert trained.postprocess["masks"] is architecture.startswith("mask")
    assert trained.classes == ["1", "2", "3"]
    assert trained.training["largest_score_difference"] < 1e-4
    assert trained.module(*trained.example)[1].shape == (2, 10)


def test_the_evaluation_asks_for_masks_and_measures_them(handler: Any, discs: Path) -> None:
    data = datasets.load(str(discs), "detector")
    names = ("1", "2", "3")
    data = datasets.ImageData(data.name, names, data.train, data.validation, data.test, data.source, data.licence)
    asked: list[dict[str, str]] = []

    def answer(rows: Any, headers: dict[str, str]) -> list[Any]:
        asked.append(headers)
        return list(handler[0].answer_rows([({"body": body}, headers) for body, _ in rows]))

    measured = evaluate.measure(handler[1], answer, data, 0, list)

    assert asked[0]["masks"] == "compressed_rle"
    assert {"map", "ap50", "mask_map", "mask_ap50", "images"} == {key for key in measured if not key.startswith("map_")}
