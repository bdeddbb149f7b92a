"""Two-stage detectors, imported and served: boxes and masks in every form, equal to the model's own."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from handlers.inputs.images import boxes_to_image, open_image, prepare
from handlers.inputs.masks import mask_of_run_lengths, read_mask
from handlers.kinds.detector import DetectorPredictor
from handlers.kinds.instance_masks import Instance
from marina.core import kinds
from marina.core.console import Output
from marina.kinds.pictures import save_picture
from marina.packaging import openapi
from marina.pipeline import importing
from tests.support.measuring import measure
from tests.support.two_stage_models import HEIGHT, WIDTH, blotches, filled, model_of, png
from training.data import ImageData, load_objects
from training.recipes import imported_detector
from training.runs.run import Run

pytestmark = pytest.mark.slow  # importing a Mask R-CNN takes a while


@pytest.fixture(scope="module")
def handler(rcnn_file: str, discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The handler of an imported Mask R-CNN, as a worker loads it from its export."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        one, _ = importing.make_spec(
            "people", {"source": f"{rcnn_file}:mask"}, None, SMALL, trust_pickle=False
        )
        importing.import_and_export(one, trust_pickle=False, output=Output(as_json=True))
        made = DetectorPredictor()
        made.load(one.export_dir)
        assert made.check_golden() > 0
        yield made, one


SMALL = {"training.height": HEIGHT, "training.width": WIDTH}


def test_batch_of_mixed_sizes_equals_the_model_one_by_one(rcnn_file: str, handler: Any) -> None:
    """Pictures of different sizes in one batch are answered as the model answers each alone."""
    model = model_of(rcnn_file)
    pictures = [blotches(seed, size) for seed, size in enumerate(((96, 64), (200, 90), (61, 120)))]
    answers = handler[0].answer_rows([({"body": png(picture)}, {"masks": "rle"}) for picture in pictures])

    for picture, answer in zip(pictures, answers, strict=True):
        inputs = handler[0].input
        with torch.inference_mode():
            (whole,) = model([torch.from_numpy(prepare(open_image(png(picture)), inputs)).float() / 255])
        found = answer["detections"]
        assert len(found) == len(whole["labels"]) > 5
        assert [one["class_index"] + 1 for one in found] == whole["labels"].tolist()
        torch.testing.assert_close(
            torch.tensor([one["score"] for one in found]), whole["scores"], rtol=0, atol=1e-4
        )
        boxes = boxes_to_image(whole["boxes"].numpy(), picture.size, inputs)
        np.testing.assert_allclose([one["bbox"] for one in found], boxes, rtol=0, atol=0.01)
        if picture.size == (WIDTH, HEIGHT):
            for one, mask in zip(found, whole["masks"], strict=True):
                ours = mask_of_run_lengths(one["mask"]["counts"], HEIGHT, WIDTH)
                assert (ours != (mask[0] > 0.5).numpy()).mean() < 1e-3


def test_masks_come_in_each_form_that_is_asked_for_and_no_other(handler: Any) -> None:
    body = png(blotches(0, (150, 80)))
    forms = ("none", "rle", "compressed_rle", "polygons")
    plain, lists, texts, polygons = (
        handler[0].answer_rows([({"body": body}, {"masks": form})])[0]["detections"] for form in forms
    )
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
    save_picture(kinds.get("detector").draw(png(picture), {"detections": [found]}), tmp_path / "drawn.png")
    drawn = np.array(Image.open(tmp_path / "drawn.png")).astype(int)

    assert (drawn[260:340, 310:490] != 255).any(2).all()
    assert (drawn[:180] == 255).all()
    assert (drawn[260:340, :290] == 255).all()


def test_what_is_described_is_what_is_answered(handler: Any) -> None:
    import jsonschema

    described = handler[0].describe()
    body = base64.b64encode(png(blotches(1, (70, 70)))).decode()
    for form in ("none", "rle", "compressed_rle", "polygons"):
        (answer,) = handler[0].answer_rows(
            [({"body": json.dumps({"image": body, "masks": form}).encode()}, {})]
        )
        jsonschema.validate(answer, described["answer"])
    (tensors,) = handler[0].answer_rows(
        [
            (
                {
                    "body": json.dumps(
                        {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [body]}]}
                    ).encode()
                },
                {"masks": "rle"},
            )
        ]
    )

    document = openapi.of_description(described)
    assert [one["name"] for one in document["paths"]["/predictions/people"]["post"]["parameters"]] == [
        *("confidence_threshold", "masks"),
        *("prefer", "callback"),  # of every prediction
    ]
    assert {one["name"] for one in tensors["outputs"]} == {
        "detections",
        "bbox",
        "score",
        "class",
        "class_index",
        "mask",
    }


def test_import_reports_its_differences_and_mask_precision(
    rcnn_file: str, discs: Path, tmp_path: Path
) -> None:
    """An import reports its largest differences, and measures masks where there are any."""
    settings = {
        "source": f"{rcnn_file}:mask",
        "height": HEIGHT,
        "width": WIDTH,
        "arguments": {"classes": 3},
        "data": str(discs),
    }
    trained = imported_detector.train(
        imported_detector.Settings(**settings, candidates=15, nms_threshold=0.4), Run(tmp_path)
    )

    assert trained.training["largest_score_difference"] < 1e-4
    assert trained.training["largest_box_difference"] < 0.01
    assert {"map", "ap50", "mask_map", "mask_ap50"} <= trained.metrics.keys()
    assert trained.classes == ["disc", "board"]
    assert trained.postprocess["nms_threshold"] == trained.module.model.roi_heads.nms_thresh == 0.4
    assert trained.module.model.rpn._post_nms_top_n["testing"] == 15


def test_a_faster_rcnn_has_no_masks_to_ask_for(rcnn_file: str, tmp_path: Path) -> None:
    settings = imported_detector.Settings(source=f"{rcnn_file}:faster", height=HEIGHT, width=WIDTH)
    trained = imported_detector.train(settings, Run(tmp_path))

    assert trained.postprocess["masks"] is False
    assert [part.shape for part in trained.example] == [(2, 3, HEIGHT, WIDTH), (2,)]
    assert len(trained.module(*trained.example)) == 3


@pytest.mark.parametrize(
    "architecture", ["fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn_v2"]
)
def test_torchvisions_are_brought_by_name_with_a_file_of_weights(architecture: str, tmp_path: Path) -> None:
    model: Any = torchvision.models.get_model(
        architecture, weights=None, weights_backbone=None, num_classes=4
    )
    for norm in (one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    # else all features vanish, and all scores are the same
    model.train().backbone(torch.randn(2, 3, 128, 160))
    for layer in (
        *model.rpn.head.modules(),
        *model.roi_heads.box_head.modules(),
        *model.roi_heads.box_predictor.modules(),
    ):
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=1.5 * layer.weight[0].numel() ** -0.5)
    torch.save(model.state_dict(), tmp_path / "four.pth")
    size = {"height": 128, "width": 160, "candidates": 30, "detections_per_image": 10}
    settings = imported_detector.Settings(source=architecture, weights=str(tmp_path / "four.pth"), **size)
    trained = imported_detector.train(settings, Run(tmp_path))

    assert trained.postprocess["masks"] is architecture.startswith("mask")
    assert trained.classes == ["1", "2", "3"]
    assert trained.training["largest_score_difference"] < 1e-4
    assert trained.module(*trained.example)[1].shape == (2, 10)


def test_the_evaluation_asks_for_masks_and_measures_them(handler: Any, discs: Path) -> None:
    data = load_objects(str(discs))
    names = ("1", "2", "3")
    data = ImageData(data.name, names, data.train, data.validation, data.test, data.source, data.licence)
    asked: list[dict[str, str]] = []

    def answer(rows: Any, headers: dict[str, str]) -> list[Any]:
        asked.append(headers)
        return list(handler[0].answer_rows([({"body": body}, headers) for body, _ in rows]))

    measured = measure(handler[1], answer, data)

    assert asked[0]["masks"] == "compressed_rle"
    assert {"map", "ap50", "mask_map", "mask_ap50", "images"} == {
        key for key in measured if not key.startswith("map_")
    }
