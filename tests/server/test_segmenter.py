"""A segmenter on a live server: every form of its answers, its golden samples, evaluation, and bad
requests among good ones.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.inputs.images import ImageInput
from handlers.inputs.masks import mask_of_run_lengths, run_lengths
from marina import engines
from marina.client import Client
from marina.core import spec
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.engines import server_process as server
from marina.load import load_test as loadtest
from marina.packaging import archive, openapi
from marina.pipeline import readiness as ready
from marina.pipeline import steps as up
from tests.support.bad_inputs import bad, good
from tests.support.live_requests import port_of, wrong_among
from tests.support.measuring import measure_both
from training.data import ImageData, load_outlines, outlined_folder
from training.export.trained import Trained
from training.export.writer import export
from training.recipes.segmenter import samples
from training.vision.segmentation.evaluation import overlap, pairs, segment
from training.vision.segmentation.pixels import Prepared

pytestmark = pytest.mark.slow

SPEC = """# Tells the bright from the dark.
kind: segmenter
training: {{recipe: segmenter, data: {data}}}
floor: {{mean_iou: 0.9}}
export: {{max_batch: 8}}
service_level: {{p95_ms: 2000}}
"""
INPUTS = ImageInput(64, 96, fit="letterbox")


class Bright(torch.nn.Module):
    """Two classes by brightness, for cells of 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, 64, 96] -> logits [B, 2, 32, 48]."""
        light = torch.nn.functional.avg_pool2d(pixels.float().mean(1, keepdim=True) / 255, 2)
        return torch.cat([self.share - light, light - self.share], 1)


Served = tuple[Client, spec.Spec, ImageData]


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, engine: str
) -> Iterator[tuple[Client, spec.Spec, ImageData]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        torch.set_num_threads(1)
        (home / "models").mkdir()
        (home / "models" / "bright.yaml").write_text(SPEC.format(data=boards(home / "Boards")))
        one = spec.load("bright")
        data = load_outlines(str(home / "Boards"), 0)
        making = one.export_dir.parent / ".making"
        (making / "report").mkdir(parents=True)
        export(one, trained(data), making)
        up.pack(one, Output(as_json=True))
        with up.serving([one], server.free_port_base(), Output(as_json=True), engines.get(engine)) as client:
            yield client, one, data


def boards(folder: Path) -> Path:
    """Bright boards on dark ground, as COCO json with run lengths."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "board"}]}
    for k in range(20):
        rng = np.random.default_rng(k)
        width, height = rng.integers(80, 200, 2).tolist()
        mask = np.zeros((height, width), bool)
        top, left = rng.integers(5, 40, 2).tolist()
        mask[top : top + 36, left : left + 36] = True
        Image.fromarray(np.where(mask, 230, 20).astype(np.uint8)).save(folder / "images" / f"{k}.png")
        content["images"].append({"id": k, "file_name": f"{k}.png"})
        outline = {"size": [height, width], "counts": run_lengths(mask)}
        content["annotations"].append(
            {"id": k, "image_id": k, "category_id": 1, "bbox": [left, top, 36, 36], "segmentation": outline}
        )
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def trained(data: ImageData) -> Trained:
    module = Bright().eval()
    test = Prepared.of(data.test, INPUTS, "pictures")
    found = list(segment(module, test.pixels, test.truth, INPUTS))
    counts = np.sum([pairs(one, truth, 2) for one, truth in zip(found, test.truth, strict=True)], axis=0)
    return Trained(
        kind="segmenter",
        module=module,
        example=(test.pixels[:2],),
        metrics=overlap(counts),
        preprocess=INPUTS.as_config(),
        postprocess={"type": "segmentation"},
        samples=samples(found, test.truth, data),
        data=data.about(),
        classes=list(data.classes),
        training={"data": data.source},
    )


def test_it_is_ready_and_answers_its_samples(served: tuple[Client, spec.Spec, Any]) -> None:
    client, one, _ = served

    assert ready.problems(client, one) == []
    assert len(ready.golden_samples(one)) == 3
    assert all(not answered.problem for answered in ready.send_samples(client, one))


def test_all_forms_of_an_answer_come_through_the_server(served: tuple[Client, spec.Spec, Any]) -> None:
    client, _, data = served
    example = data.test[0]
    width, height = Image.open(io.BytesIO(example.encoded()[0])).size
    truth = outlined_folder.label_map(example, width, height)
    picture = client.predict("bright", example.image, format="png")
    lengths = client.predict("bright", example.image, format="compressed_rle")
    labels = np.array(Image.open(io.BytesIO(picture)))

    assert labels.shape == truth.shape
    assert (labels == truth).mean() > 0.97
    assert np.array_equal(
        mask_of_run_lengths(lengths["areas"][1]["mask"]["counts"], height, width), labels == 1
    )
    with pytest.raises(RequestRefused, match="format must be json or png or rle"):
        client.predict("bright", example.image, format="gif")
    tensors = client.predict(
        "bright", {"inputs": [{"name": "x", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [255] * 12}]}
    )
    assert {one["name"] for one in tensors["outputs"]} >= {
        "width",
        "height",
        "class",
        "pixels",
        "share",
        "mask",
    }


def test_measured_through_the_endpoint_it_is_as_good_as_in_process(
    served: tuple[Client, spec.Spec, Any],
) -> None:
    client, one, data = served
    through, local = measure_both(client, one, data)

    assert through == pytest.approx(local, abs=1e-6)
    assert through["mean_iou"] == pytest.approx(up.export_metrics(one)["mean_iou"], abs=1e-6)


def test_every_bad_request_among_good_ones_fails_alone(served: tuple[Client, spec.Spec, Any]) -> None:
    wrong, _ = wrong_among(served[0], "bright", good("segmenter"), bad("segmenter"), times=10)

    assert wrong == {}


def test_a_load_test_finds_no_wrong_answer(served: tuple[Client, spec.Spec, Any], tmp_path: Path) -> None:
    figures = loadtest.run(served[1], port_of(served[0]), users=4, seconds=4, report=tmp_path / "report.html")

    assert figures.requests > 0
    assert (figures.failures, figures.errors) == (0, [])


def test_openapi_names_the_png_response_and_the_archive_its_handler(
    served: tuple[Client, spec.Spec, Any],
) -> None:
    """Its OpenAPI document says that a picture may be returned; its archive has its handler."""
    document = openapi.document(served[1])
    answered = document["paths"]["/predictions/bright"]["post"]

    forms = set(answered["responses"]["200"]["content"])
    assert forms == {"application/json", "image/png", "text/event-stream"}
    assert [one["name"] for one in answered["parameters"]] == ["format", "prefer", "callback"]
    with archive.opened(served[1]) as folder:
        assert {"segmenter_handler.py", "spec.yaml"} <= {path.name for path in folder.iterdir()}
