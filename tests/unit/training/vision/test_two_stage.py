"""Two-stage detectors: one graph for both stages and the masks, equal to torchvision's, and trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection import MaskRCNN

from handlers.inputs.images import ImageInput
from handlers.kinds.detections import detections_of
from handlers.kinds.instance_masks import Instance, place_mask
from handlers.runtime.runtimes import arrays
from marina.core.errors import CallError
from tests.support.two_stage_models import HEIGHT, WIDTH, model_of, people, pixels_of, whole_mask
from training.data import Example, load_objects
from training.recipes import detector, imported_detector
from training.runs.run import Run
from training.vision.detection.evaluation import Found, mask_precision
from training.vision.detection.pixels import Prepared, augment, object_masks
from training.vision.detection.two_stage import TwoStage
from training.vision.detection.weights import build, replace_predictor


@pytest.mark.parametrize(
    ("proposals_above", "threshold"), [(0.0, 0.05), (0.0, 0.4), (0.0, 0.9999), (0.6, 0.05), (1.1, 0.05)]
)
def test_batch_equals_torchvision_one_by_one(
    rcnn_file: str, proposals_above: float, threshold: float
) -> None:
    """A batch finds exactly what torchvision finds one by one, also where nothing is proposed."""
    model = model_of(rcnn_file)
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
        for mask, box, pasted in zip(ours.masks, ours.boxes, theirs["masks"], strict=True):
            assert (
                whole_mask(place_mask(mask, box, (WIDTH, HEIGHT))) != (pasted[0] > 0.5).numpy()
            ).mean() < 1e-3
    many = [len(one.scores) for one in found]
    assert min(many) > 10 if threshold == 0.05 and proposals_above < 1 else max(many) < 20


def test_each_picture_has_a_threshold_and_a_wish_for_masks_of_its_own(rcnn_file: str) -> None:
    graph = TwoStage(model_of(rcnn_file), HEIGHT, WIDTH)
    pixels = pixels_of(range(1)).expand(3, -1, -1, -1)
    with torch.inference_mode():
        boxes, scores, _, masks = graph(
            pixels, torch.tensor([0.05, 0.4, 0.05]), torch.tensor([True, True, False])
        )

    assert int((scores[0] > 0).sum()) > int((scores[1] > 0).sum()) > 0
    assert torch.equal(scores[0], scores[2])
    assert torch.equal(boxes[0], boxes[2])
    assert masks[0].any()
    assert not masks[2].any()
    assert scores[1][scores[1] > 0].min() > 0.4
    behind = scores == 0
    assert not boxes[behind].any()
    assert not masks[behind].any()


def test_the_compared_threshold_lies_between_scores(rcnn_file: str) -> None:
    """No detection is at the threshold of the comparison, where rounding would decide whether it is found."""
    graph = TwoStage(model_of(rcnn_file), HEIGHT, WIDTH)
    for image in pixels_of(range(4)):
        with torch.inference_mode():
            threshold = graph.compared_at(image[None], 0.9999)
            scores = graph(*graph.inputs(image[None], 0.01, masks=False))[1].flatten()

        assert 2 * int((scores > threshold).sum()) >= len(scores)
        assert (scores - threshold).abs().min() > 1e-4


def test_masks_of_objects_are_read_and_move_with_their_pixels(discs: Path) -> None:
    data = load_objects(str(discs))
    prepared = Prepared.of(data.train, ImageInput(HEIGHT, WIDTH, fit="letterbox"), "pictures", masks=True)
    many = prepared.targets * 4
    moved, targets = augment(
        prepared.pixels.repeat(4, 1, 1, 1).float(),
        many,
        True,
        ("horizontal", "vertical"),
        torch.Generator().manual_seed(0),
    )

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


def test_both_stages_and_masks_learn(rcnn_file: str, discs: Path) -> None:
    """Both stages and the masks learn, and pictures without objects train too."""
    torch.manual_seed(0)
    data = load_objects(str(discs))
    prepared = Prepared.of(data.train[:4], ImageInput(HEIGHT, WIDTH, fit="letterbox"), "pictures", masks=True)
    model = build(None, 2, HEIGHT, WIDTH, f"{rcnn_file}:mask").train()
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
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, HEIGHT, WIDTH).byte(),
    }
    assert all(
        torch.isfinite(value) for value in model.loss(prepared.pixels[:2], [nothing, nothing]).values()
    )


def test_two_stage_training_returns_masks_precision_and_samples(
    rcnn_file: str, discs: Path, tmp_path: Path
) -> None:
    """Training returns masks, their precision, and samples that ask for them."""
    settings = detector.Settings(
        data=str(discs),
        weights=f"{rcnn_file}:mask",
        height=HEIGHT,
        width=WIDTH,
        epochs=1,
        batch_size=4,
        proposals=20,
        precision="float32",
    )
    trained = detector.train(settings, Run(tmp_path))

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
def test_what_can_not_be_taught_is_refused(
    rcnn_file: str, discs: Path, more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    settings = {
        "data": str(discs),
        "weights": f"{rcnn_file}:mask",
        "height": HEIGHT,
        "width": WIDTH,
        "epochs": 1,
        "batch_size": 4,
        **more,
    }
    with pytest.raises(CallError, match=words):
        detector.train(detector.Settings(**settings), Run(tmp_path))


def test_masks_can_not_be_taught_without_outlines_and_keypoints_not_at_all(
    rcnn_file: str, tmp_path: Path
) -> None:
    data = people(tmp_path / "boxes", with_outlines=False)
    settings = detector.Settings(
        data=str(data), weights=f"{rcnn_file}:mask", height=HEIGHT, width=WIDTH, batch_size=4
    )

    with pytest.raises(
        CallError, match=r"object 1 has no outline: .* give COCO json with a \"segmentation\""
    ):
        detector.train(settings, Run(tmp_path))
    with pytest.raises(CallError, match="gave a KeypointRCNN; torchvision's detectors are taken"):
        build(None, 2, HEIGHT, WIDTH, f"{rcnn_file}:keypoints")
    with pytest.raises(CallError, match="is KeypointRCNN; of detectors"):
        imported_detector.train(imported_detector.Settings(source=f"{rcnn_file}:keypoints"), Run(tmp_path))


def test_of_a_mask_rcnn_all_is_kept_but_the_predictors(rcnn_file: str) -> None:
    model = model_of(rcnn_file)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    replace_predictor(model, 7)
    after = model.state_dict()

    other = {name for name in before if before[name].shape != after[name].shape}
    assert {name.rsplit(".", 2)[1] for name in other} == {"cls_score", "bbox_pred", "mask_fcn_logits"}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - other)
    assert TwoStage(model, HEIGHT, WIDTH).columns == 8


def test_mask_precision_is_one_for_the_truth_and_nought_for_its_neighbour(discs: Path) -> None:
    test = load_objects(str(discs)).test

    def found(example: Example, shift: int) -> Found:
        masks = np.roll(object_masks(example, 120, 80), shift, 2)
        sent = [Instance(mask.astype(bool), 0, 0, (120, 80)).sent("compressed_rle") for mask in masks]
        return Found(
            torch.from_numpy(example.boxes),
            torch.full((len(masks),), 0.9),
            torch.from_numpy(example.labels),
            sent,
        )

    assert mask_precision([found(one, 0) for one in test], test) == {"mask_map": 1.0, "mask_ap50": 1.0}
    assert mask_precision([found(one, 40) for one in test], test) == {"mask_map": 0.0, "mask_ap50": 0.0}
    assert found(test[0], 0).above(0.95).masks == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["maskrcnn_mobilenet_v2_320_fpn", "maskrcnn_mobilenet_v3_large_320_fpn"]
)
def test_the_mask_rcnns_of_our_own_are_torchvisions_on_finer_maps(architecture: str) -> None:
    made = build(architecture, 3, 320, 320)

    assert isinstance(made.model, MaskRCNN)
    assert [value.shape[2] for value in made.features(torch.zeros(1, 3, 320, 320)).values()] == [
        40,
        20,
        10,
        5,
    ]
