"""Imported models with their real weights on a live TorchServe: the metrics equal those of the original
model.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.inputs.images import ImageInput, boxes_to_image, prepare
from marina.client import Client
from marina.core.console import Output
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.evaluation import measurement as evaluate
from marina.pipeline import importing
from marina.pipeline import steps as up
from tests.support.measuring import measure
from training.data import Example, ImageData, held_out_objects
from training.vision.detection.evaluation import LEAST, Found, precision_recall
from training.vision.detection.pixels import open_example

pytestmark = pytest.mark.slow

OUTPUT = Output(as_json=True)


@dataclass
class Served:
    """A server with both imports, and what they were made of."""

    client: Client
    mobilenet: Spec
    coco: Spec
    detector: Any  # the user's own module
    photos: Path
    scenes: ImageData


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the workers need the other core


@pytest.fixture(scope="module")
def served(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    torch.set_num_threads(1)
    source = shared_data / "weights" / "ssdlite_coco.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("TORCH_HOME", str(shared_data / "weights"))
        mobilenet = imported(
            "mobilenet",
            source="mobilenet_v2",
            weights="IMAGENET1K_V1",
            data=str(shared_data / "imagenet_check"),
        )
        more = {"data": str(shared_data / "coco_val128"), "classes": "coco", "scores": "sigmoid"}
        coco = imported("coco", source=f"{source}:build", **more)
        for one in (mobilenet, coco):
            up.pack(one, OUTPUT)
        with up.serving([mobilenet, coco], server.free_port_base(), OUTPUT) as client:
            scenes = held_out_objects(str(shared_data / "coco_val128"))
            yield Served(client, mobilenet, coco, built(source), shared_data / "imagenet_check", scenes)


def imported(name: str, **training: str) -> Spec:
    overrides: dict[str, Any] = {
        f"training.{key}": value for key, value in training.items() if key == "scores"
    }
    overrides["export.precisions"] = [
        "fp32"
    ]  # scores are compared to 1e-4, whatever the processor is fast at
    given = {key: value for key, value in training.items() if key != "scores"}
    one, _ = importing.make_spec(name, given, None, overrides, trust_pickle=False)
    importing.import_and_export(one, trust_pickle=False, output=OUTPUT)
    importing.write_spec(one)
    return one


def built(source: Path) -> Any:
    spec = importlib.util.spec_from_file_location("ssdlite_coco", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build().eval()


def test_mobilenet_with_real_weights_gets_83_of_100_photos_right(
    served: Served,
) -> None:
    """MobileNet with its real weights classifies 83 of 100 photos correctly through the endpoint."""
    labels = json.loads((served.photos / "labels.json").read_text())

    rows = [((served.photos / name).read_bytes(), "image/jpeg") for name in labels]
    answers = evaluate.through_endpoint(served.client, served.mobilenet)(rows, {"top_k": "1"})

    right = sum(
        answer["predictions"][0]["class_index"] == label
        for answer, label in zip(answers, labels.values(), strict=True)
    )
    assert right == 83
    assert up.export_metrics(served.mobilenet) == {"accuracy": 0.83}


def test_coco_detector_is_as_precise_through_the_endpoint(
    served: Served,
) -> None:
    """A COCO detector is as precise through the endpoint as the user's module alone."""
    answer = evaluate.through_endpoint(served.client, served.coco)
    through = measure(served.coco, answer, served.scenes)
    with torch.inference_mode():
        eager, _ = precision_recall(
            [by_itself(served, example) for example in served.scenes.test], served.scenes.test
        )

    assert eager["map"] == pytest.approx(0.3556, abs=0.0005)
    assert through["map"] == pytest.approx(up.export_metrics(served.coco)["map"], abs=0.0005)
    # other rounding of the pixels; one lone orange is worth 0.0056
    assert through["map"] == pytest.approx(eager["map"], abs=0.003)
    assert through["ap50"] == pytest.approx(eager["ap50"], abs=0.003)


def test_detections_match_the_users_module_down_to_scores_of_0_001(
    served: Served,
) -> None:
    """Every detection of the user's module is returned, down to a score of 0.001."""
    inputs = ImageInput.from_config(
        json.loads((served.coco.export_dir / "preprocess_config.json").read_text())
    )
    for example in served.scenes.test[:6]:
        image = open_example(example)
        answer = served.client.predict("coco", example.image)["detections"]
        with torch.inference_mode():
            (own,) = served.detector([torch.from_numpy(prepare(image, inputs)).float() / 255])

        assert len(answer) == len(own["labels"]) == 300
        boxes = torch.from_numpy(boxes_to_image(own["boxes"].numpy(), image.size, inputs))
        torch.testing.assert_close(
            torch.tensor([one["score"] for one in answer]), own["scores"], atol=1e-4, rtol=0
        )
        # ties may change places
        assert (torch.tensor([one["bbox"] for one in answer]) - boxes).abs().amax(1).le(0.1).sum() >= 296


def by_itself(served: Served, example: Example) -> Found:
    """What the user's module finds in a picture of any size, with its own transform; labels as positions
    in the data's classes.
    """
    names = json.loads((served.coco.export_dir / "class_mapping.json").read_text())
    numbers = {label: index for index, label in enumerate(coco_numbers())}
    pixels = torch.from_numpy(np.array(open_example(example))).permute(2, 0, 1).float() / 255
    (own,) = served.detector([pixels])
    index = torch.tensor(
        [served.scenes.classes.index(names[str(numbers[int(label)])]) for label in own["labels"]]
    )
    return Found(own["boxes"], own["scores"], index).above(LEAST)


def coco_numbers() -> list[int]:
    """COCO's 80 category numbers, 1 to 90 with gaps."""
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    return [number for number in range(1, 91) if number not in gaps]
