"""Imported detectors: through the handler they detect what the original does; what can't be imported is
refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.inputs.images import ImageInput, prepare
from handlers.kinds.detector import DetectorPredictor
from marina.core import kinds
from marina.core.console import Output
from marina.core.errors import CallError, WorkError
from marina.evaluation.measurement import in_process
from marina.kinds.kind import MeasurementOptions
from marina.pipeline import importing, steps
from tests.support.foreign_models import detector, logits_of, noise, png
from training.export.trained import Trained
from training.recipes import imported_detector
from training.vision.detection.evaluation import detect


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        ("ssd", {}),
        ("ssd", {"arguments": {"scores": "sigmoid"}, "scores": "sigmoid"}),
        pytest.param("retinanet", {"height": 64, "width": 96}, marks=pytest.mark.slow),
        pytest.param("fcos", {"height": 64, "width": 96}, marks=pytest.mark.slow),
    ],
)
def test_detector_of_each_make_finds_the_same_through_the_handler(
    function: str, settings: dict[str, Any], own: Callable[[str], str], home: Path
) -> None:
    """A detector of each make finds through the handler what it finds by itself."""
    overrides = {f"training.{key}": value for key, value in settings.items()}
    one, _ = importing.make_spec("things", {"source": own(function)}, None, overrides, trust_pickle=False)
    importing.import_and_export(one, trust_pickle=False, output=Output(as_json=True))
    handler = DetectorPredictor()
    handler.load(one.export_dir)
    size = (handler.input.width, handler.input.height)  # which both let pass unchanged
    picture = Image.fromarray(noise(10, 14, 3).numpy()).resize(size, Image.Resampling.BICUBIC)

    torch.manual_seed(0)
    model: Any = imported_detector.build(
        imported_detector.Settings(source=own(function), **{"arguments": {}, **settings})
    )
    model.transform.min_size, model.transform.max_size = (64,), 96
    with torch.inference_mode():
        (expected,) = model([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255])
    (answer,) = handler.answer_rows([({"body": png(picture)}, {})])

    found = answer["detections"]
    first = 1 if function == "ssd" else 0
    assert one.kind == "detector"
    assert len(found) == len(expected["labels"]) > 3
    assert [item["class"] for item in found] == [str(label) for label in expected["labels"].tolist()]
    assert [item["class_index"] + first for item in found] == expected["labels"].tolist()
    torch.testing.assert_close(
        torch.tensor([item["score"] for item in found]), expected["scores"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        torch.tensor([item["bbox"] for item in found]), expected["boxes"], atol=0.02, rtol=0
    )


def test_scores_setting_is_required_and_a_wrong_one_is_noticed(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    """An unknown scoring function is asked for, and a wrong answer is noticed."""
    settings = {"source": own("ssd"), "arguments": {"scores": "sigmoid"}}

    with pytest.raises(
        CallError,
        match=r"has a postprocess_detections of its own, .*--set training.scores=sigmoid or softmax",
    ):
        detector(tmp_path, **settings)
    with pytest.raises(
        WorkError,
        match=r"doesn't find what the whole model finds: .*(scores differ by up to|detections in a picture)",
    ):
        detector(tmp_path, **settings, scores="softmax")


def test_a_model_that_changes_its_detections_in_its_forward_is_found_out(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    with pytest.raises(WorkError, match=r"boxes by up to [567](\.\d+)? pixels"):
        detector(tmp_path, source=own("stranger"))


def test_classes_keep_their_numbers_when_background_and_gaps_are_left_out(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    whole = detector(tmp_path, source=own("ssd"), arguments={"classes": 91}).module
    trained = detector(tmp_path, source=own("ssd"), arguments={"classes": 91}, classes="coco")

    pixels = noise(2, 3, 96, 96)
    assert trained.classes is not None
    assert (len(trained.classes), trained.classes[0], trained.classes[79]) == (80, "person", "toothbrush")
    assert "N/A" not in trained.classes
    every, named = logits_of(whole, pixels)[1], logits_of(trained.module, pixels)[1]
    assert torch.equal(named[..., 79], every[..., 89])  # toothbrush is 90 in COCO, and the background is none
    assert torch.equal(named[..., 11], every[..., 12])  # a stop sign 13, behind the gap at 12


def test_thresholds_are_the_models_own_unless_said_otherwise(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    trained = detector(tmp_path, source=own("ssd"), score_threshold=0.4, candidates=77)

    assert trained.postprocess == {
        "type": "detection",
        "score_threshold": 0.4,
        "nms_threshold": 0.45,
        "candidates": 77,
        "candidates_per": "class",
        "detections_per_image": 50,
    }
    assert all(sample.name.endswith("-as-found") for sample in trained.samples)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"source": "keypointrcnn_resnet50_fpn", "weights": "none"},
            "is KeypointRCNN; of detectors, torchvision's SSD",
        ),
        ({"source": "squeezenet1_1", "weights": "none"}, "is SqueezeNet; of detectors, torchvision's SSD"),
    ],
)
def test_what_is_no_such_detector_is_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=words):
        detector(tmp_path, **settings)


def write_own_finds(folder: Path, model: Trained) -> None:
    """A COCO folder whose truth is what the model finds, of two of its classes."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "3"}, {"id": 9, "name": "1"}],
    }
    inputs = ImageInput.from_config(model.preprocess)
    for number in range(4):
        picture = Image.fromarray(noise(6 + number, 9, 3).numpy()).resize((120, 90), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png"})
        (found,) = detect(
            model.module,
            torch.from_numpy(prepare(picture, inputs)[None]),
            [picture.size],
            inputs,
            {**model.postprocess, "score_threshold": 0.4},
        )
        for box, label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
            if label != 1:
                left, top, right, bottom = box
                row = {
                    "image_id": number,
                    "category_id": 7 if label == 2 else 9,
                    "bbox": [left, top, right - left, bottom - top],
                }
                content["annotations"].append({"id": len(content["annotations"]), **row})
    assert len(content["annotations"]) > 4
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def test_a_detector_is_measured_on_boxes_by_the_names_of_their_classes(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    folder = tmp_path / "boxes"
    write_own_finds(folder, detector(tmp_path, source=own("ssd"), classes=None))

    trained = detector(tmp_path, source=own("ssd"), data=str(folder))

    assert trained.metrics["ap50"] > 0.5  # what it said itself is the truth; its fainter finds count as wrong
    assert trained.samples
    assert (tmp_path / "precision_recall.png").is_file()


def test_a_detectors_own_figure_is_measured_again(
    own: Callable[[str], str], home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "boxes"
    write_own_finds(folder, detector(tmp_path, source=own("ssd"), classes=None))
    arguments = {"source": own("ssd"), "data": str(folder)}
    spec, _ = importing.make_spec("things", arguments, None, {"export.runtimes": []}, trust_pickle=False)
    importing.import_and_export(spec, trust_pickle=False, output=Output(as_json=True))

    measurement = kinds.get("detector").measurement(spec, MeasurementOptions())
    measured = measurement.run(in_process(spec), lambda rows: rows, is_endpoint=False)

    recorded = steps.export_metrics(spec)
    assert recorded["ap50"] > 0.5
    assert measured.metrics["map"] == pytest.approx(recorded["map"], abs=1e-3)
    assert measured.metrics["ap50"] == pytest.approx(recorded["ap50"], abs=1e-3)


def test_a_detector_that_answers_at_random_is_named(own: Callable[[str], str], tmp_path: Path) -> None:
    own("ssd")
    (tmp_path / "noisy.py").write_text(
        "import torch\nfrom own import ssd\n"
        "class Noisy(torch.nn.Module):\n"
        "    def __init__(self, inner):\n        super().__init__()\n        self.inner = inner\n"
        "    def forward(self, x):\n"
        "        return {name: torch.nn.functional.dropout(y) for name, y in self.inner(x).items()}\n"
        "def make():\n    model = ssd()\n    model.backbone = Noisy(model.backbone)\n    return model\n"
    )

    with pytest.raises(CallError, match="the model answers at random: two equal calls differ"):
        detector(tmp_path, source=f"{tmp_path / 'noisy.py'}:make")
