"""The detector's recipe: data, augmentation, losses, evaluation, and the graph that it hands over."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from marina import spec
from marina.errors import CallError
from training import detector
from training.datasets import Example, ImageData, scenes
from training.detection.architectures import Candidates
from training.detection.evaluation import Found, average_precision, best_threshold, judge, precision_recall
from training.detection.pixels import Batches, Prepared, augment
from training.detection.weights import build

import bundle_detections
from bundle_detections import select
from bundle_images import ImageInput

INPUTS = ImageInput(scenes.HEIGHT, scenes.WIDTH)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return scenes.load(train=16, validation=6, test=6)


@pytest.fixture(scope="module")
def pictures(data) -> Prepared:
    return Prepared.of(data.train, INPUTS, "pictures")


RETINANET = """
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from training.detection.architectures import SmallPyramid

def build(classes=7):
    anchors = AnchorGenerator(((16, 20, 25), (32, 40, 51), (64, 81, 102)), ((0.5, 1.0, 2.0),) * 3)
    return RetinaNet(SmallPyramid(32), classes, 128, 160, anchor_generator=anchors)
"""


@pytest.fixture(scope="module", params=["fcos_small", "ssdlite320_mobilenet_v3_large", "retinanet of one's own"])
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
        content: dict = {"images": [], "annotations": [], "categories": [{"id": k, "name": name} for k, name in enumerate(data.classes)]}
        for k, example in enumerate(examples):
            Image.fromarray(example.image).save(root / "images" / f"{split}{k}.png")
            content["images"].append({"id": k, "file_name": f"{split}{k}.png"})
            for (left, top, right, bottom), label in zip(example.boxes.tolist(), example.labels.tolist(), strict=True):
                content["annotations"].append({"image_id": k, "category_id": label, "bbox": [left, top, right - left, bottom - top]})
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def test_training_hands_over_all_that_the_export_needs_and_leaves_no_litter(folder, tmp_path, monkeypatch, capsys):
    """A run on a folder of one's own; the same seed gives the same metrics and weights."""
    monkeypatch.chdir(tmp_path)
    settings = detector.Settings(data=str(folder), height=128, width=160, epochs=1, batch_size=8)
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        runs.append(detector.train(settings, 3, tmp_path / name))
    trained, again = runs

    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        *("curves.png", "examples.png", "precision_recall.png", "worst.png"),
    }
    assert {"map", "ap50", "precision", "recall"} <= trained.metrics.keys()
    assert trained.training["by_class"].keys() <= set("0123456789")
    assert trained.metrics == again.metrics
    assert all(torch.equal(a, b) for a, b in zip(trained.module.state_dict().values(), again.module.state_dict().values(), strict=True))
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
    least, many = {"FCOSCandidates": (0.15, 1000), "SSDCandidates": (0.02, 300)}.get(type(model).__name__, (0.0, 1000))
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
            np.testing.assert_allclose(found[0], expected["boxes"], rtol=0, atol=1e-3)
            assert np.array_equal(found[2] + offset, expected["labels"])
    assert total > 20


def test_selection_keeps_the_best_of_overlapping_boxes_of_one_class_only():
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]])
    scores = np.array([[0.9, 0.0], [0.8, 0.7], [0.0, 0.4]])
    found, kept, labels = select(boxes, scores, 0.3, candidates=100, nms_threshold=0.5, detections_per_image=10)

    assert kept.tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert labels.tolist() == [0, 1, 1]
    assert found.tolist() == boxes[[0, 1, 2]].tolist()


@pytest.mark.parametrize("per", ["image", "class"])
def test_selection_takes_so_many_candidates_and_detections_and_may_find_nothing(per):
    boxes = np.arange(50)[:, None] * 20 + np.array([0.0, 0, 10, 10])
    scores = np.random.default_rng(0).random((50, 3)) * 0.8 + 0.1

    assert len(select(boxes, scores, 0.0, 7, 0.5, 100, per)[0]) == {"image": 7, "class": 21}[per]
    assert select(boxes, scores, 0.0, 100, 0.5, 4, per)[1].tolist() == sorted(scores.ravel(), reverse=True)[:4]
    assert [len(part) for part in select(boxes, scores, 0.95, 7, 0.5, 100, per)] == [0, 0, 0]


def test_boxes_follow_their_pixels_through_augmentation():
    """A white block on grey, as the padding is, lies where its moved box says, mirrored or not."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.full((40, 3, 96, 128), 114.0)
    pixels[:, :, 20:50, 60:80] = 255
    targets = [{"boxes": torch.tensor([[60.0, 20, 80, 50]]), "labels": torch.tensor([4])} for _ in pixels]
    moved, boxes = augment(pixels, targets, light=True, flip=True, generator=generator)

    centres = []
    for image, target in zip(moved, boxes, strict=True):
        bright = image.mean(0) > (image.mean(0).amax() + image.mean(0).median()) / 2
        rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
        seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        torch.testing.assert_close(target["boxes"][0], seen, rtol=0, atol=1.6)
        centres.append(float(seen[[0, 2]].mean()))
    assert min(centres) < 55
    assert max(centres) > 72


def test_objects_that_leave_the_picture_are_no_objects_any_more(pictures):
    pixels, targets = pictures.pixels.float(), pictures.targets
    generator = torch.Generator().manual_seed(1)
    moved = [target for _ in range(5) for target in augment(pixels, targets, light=True, flip=False, generator=generator)[1]]
    boxes = torch.cat([target["boxes"] for target in moved])

    assert len(boxes) < 5 * sum(len(target["labels"]) for target in targets)
    assert all(len(target["boxes"]) == len(target["labels"]) for target in moved)
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= torch.tensor([scenes.WIDTH, scenes.HEIGHT])).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 2).all()


def test_an_object_of_which_less_than_half_stays_is_left_out():
    """Of an object at the edge, 20 x 30 pixels, no slice is left that is much narrower than half of it."""
    targets = [{"boxes": torch.tensor([[0.0, 30, 20, 60]]), "labels": torch.tensor([1])} for _ in range(200)]
    generator = torch.Generator().manual_seed(0)
    moved = augment(torch.zeros(200, 3, 96, 128), targets, light=True, flip=False, generator=generator)[1]
    boxes = torch.cat([target["boxes"] for target in moved])
    slimness = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])

    assert 100 < len(boxes) < 190
    assert slimness.min() > 20 / 30 / 2 * np.exp(-0.24)


def test_batches_show_every_picture_once_in_an_order_that_the_seed_decides(pictures):
    sums = [[float(image.sum()) for pixels, _ in Batches(pictures, 4, False, False, seed) for image in pixels] for seed in (0, 0, 1)]

    assert sorted(sums[0]) == sorted(pictures.pixels.float().sum((1, 2, 3)).tolist())
    assert sums[0] == sums[1] != sums[2]


def test_pictures_without_objects_train_too(fitted):
    model, pixels = fitted
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model.loss(pixels[:2], [nothing, nothing])

    assert all(torch.isfinite(value) for value in losses.values())


def test_a_detection_is_right_once_per_object_with_its_class_and_enough_overlap():
    example = Example(
        np.zeros((50, 50, 3), np.uint8), boxes=np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), labels=np.array([1, 2])
    )
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [20, 24, 30, 34]])
    right, taken = judge(Found(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 3, 2])), example)

    assert right.tolist() == [True, False, False, False]
    assert taken.tolist() == [True, False]


def parts(found: Found) -> tuple[torch.Tensor, ...]:
    return found.boxes, found.scores, found.labels


def exact(example: Example, score: float = 0.9) -> Found:
    return Found(torch.from_numpy(example.boxes), torch.full((len(example.labels),), score), torch.from_numpy(example.labels))


def test_average_precision_is_one_for_the_truth_and_nought_for_nothing(data):
    nothing = Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    perfect = precision_recall([exact(example) for example in data.test], data.test)[0]
    assert {"map", "ap50"} < perfect.keys() <= {"map", "ap50", "map_small", "map_medium", "map_large"}
    assert set(perfect.values()) == {1.0}
    assert set(precision_recall([nothing] * len(data.test), data.test)[0].values()) == {0.0}


def test_average_precision_by_class_is_one_for_the_classes_that_are_found_and_nought_for_the_others(data):
    labels = sorted({int(label) for example in data.test for label in example.labels})
    found = []
    for example in data.test:
        truth = exact(example)
        keep = truth.labels != labels[0]
        found.append(Found(truth.boxes[keep], truth.scores[keep], truth.labels[keep]))
    measured = average_precision(found, data.test)
    each = measured.by_class

    assert list(each) == labels
    assert measured.curves.shape == (101, labels[-1] + 1)
    assert [label for label in range(labels[-1] + 1) if measured.curves[0, label] >= 0] == labels
    assert [value["ap50"] for value in each.values()] == pytest.approx([0.0] + [1.0] * (len(labels) - 1))
    assert sum(value["objects"] for value in each.values()) == sum(len(example.labels) for example in data.test)


def test_the_best_threshold_lies_between_right_and_wrong_scores(data):
    found = []
    for example in data.test:
        truth = exact(example, 0.7)
        wrong = Found(truth.boxes + 60, truth.scores - 0.4, truth.labels)
        found.append(Found(*(torch.cat(pair) for pair in zip(parts(truth), parts(wrong), strict=True))))

    assert 0.4 < best_threshold(found, data.test) < 0.6


def test_samples_are_wholly_right_test_pictures_spread_over_the_classes(data):
    found = [exact(example) for example in data.test]
    found[0].labels = (found[0].labels + 1) % 10
    found[1].scores[0] = 0.51  # too near to the threshold
    found[2] = Found(*(torch.cat([value, value[:1] + extra]) for value, extra in zip(parts(found[2]), (60, 0, 0), strict=True)))
    chosen = detector.samples(found, data, threshold=0.5)

    assert {sample.name for sample in chosen} == {"scenes-3", "scenes-4", "scenes-5"}
    for sample in chosen:
        example = data.test[int(sample.name.rsplit("-", 1)[1])]
        assert sample.content_type == "image/png"
        assert [item["class"] for item in sample.expect["detections"]] == [str(label) for label in example.labels]
        assert [item["bbox"] for item in sample.expect["detections"]] == example.boxes.tolist()


def test_where_no_picture_is_wholly_right_the_nearest_ones_stand_with_what_was_found(data):
    found = []
    for example in data.test:
        truth = exact(example)
        found.append(Found(*(torch.cat([value, value[:1] + extra]) for value, extra in zip(parts(truth), (70, 0, 0), strict=True))))
    found[0].scores[0] = 0.501  # a picture whose answer hangs on the threshold proves nothing
    chosen = detector.samples(found, data, threshold=0.5)

    assert {sample.name for sample in chosen} == {f"scenes-{k}-as-found" for k in range(1, 6)}
    objects = [len(sample.expect["detections"]) for sample in chosen]
    assert objects == sorted(objects, reverse=True)
    assert objects[0] == max(len(example.labels) for example in data.test[1:]) + 1


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
        spec.validated(detector.Settings, {"data": "scenes", **wrong}, "models/x.yaml")


def test_the_built_in_spec_fits_the_recipe():
    read = spec.load("scenes")
    settings = spec.validated(detector.Settings, read.training.settings, "models/scenes.yaml")

    assert (read.kind, read.training.recipe) == ("detector", "detector")
    assert (settings.height, settings.width) == (scenes.HEIGHT, scenes.WIDTH)
    assert read.floor["ap50"] >= 0.9


def test_boxes_are_suppressed_as_torchvision_does() -> None:
    random = np.random.default_rng(1)
    for number in range(200):
        count = int(random.integers(1, 600))
        corners = random.uniform(0, 100, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(0, 60, (count, 2))], 1).astype(np.float32)
        boxes = boxes.round() if number % 2 else boxes  # so that some overlap by exactly the threshold, and some have no area
        scores = np.sort(random.random(count).astype(np.float32))[::-1].copy()
        labels, threshold = random.integers(0, 3, count), float(random.choice([0.3, 0.5, 0.7]))

        stays = bundle_detections._non_maximum_suppression(boxes, labels, threshold, count)

        apart = torch.from_numpy(boxes + labels.astype(np.float32)[:, None] * (boxes.max() + 1))
        assert stays.tolist() == torchvision.ops.nms(apart, torch.from_numpy(scores), threshold).tolist()
