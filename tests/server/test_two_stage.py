"""A Mask R-CNN on a live server: trained, archived, ready, masks in every form, evaluated, robust to bad
requests.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.inputs.masks import read_mask
from marina import engines
from marina.client import Client
from marina.core import spec
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.engines import server_process as server
from marina.packaging import archive, openapi
from marina.pipeline import readiness as ready
from marina.pipeline import steps as up
from tests.support.bad_inputs import bad, good
from tests.support.live_requests import wrong_among
from tests.support.measuring import measure_both
from tests.support.two_stage_models import OWN, blotches, filled, people, png
from training.data import load_objects

pytestmark = pytest.mark.slow

SPEC = """# Finds discs and boards, with their outlines.
kind: detector
training: {{recipe: detector, data: {data}, weights: "{weights}:mask", height: 64, width: 96, epochs: 6,
  batch_size: 4, horizontal_flip: true}}
floor: {{ap50: 0.0}}
export: {{max_batch: 8}}
"""


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[spec.Spec, Path]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        torch.set_num_threads(1)
        (home / "models").mkdir()
        (home / "rcnn.py").write_text(OWN)
        data = people(home / "discs", many=40)
        (home / "models" / "people.yaml").write_text(SPEC.format(data=data, weights=home / "rcnn.py"))
        one = spec.load("people")
        up.prepare([one], Output(as_json=True))
        yield one, data


@pytest.fixture(scope="module")
def served(archived: tuple[spec.Spec, Path], engine: str) -> Iterator[tuple[Client, spec.Spec, Path]]:
    port, output = server.free_port_base(), Output(as_json=True)
    with up.serving([archived[0]], port, output, engines.get(engine)) as client:
        yield client, *archived


def test_it_is_ready_and_its_golden_answers_have_masks(served: tuple[Client, spec.Spec, Path]) -> None:
    client, one, _ = served
    samples = ready.golden_samples(one)

    assert ready.problems(client, one) == []
    assert samples
    assert all(not answered.problem for answered in ready.send_samples(client, one))
    with archive.opened(one) as folder:
        assert {"detector_handler.py", "model.pt2"} <= {path.name for path in folder.iterdir()}


def test_masks_come_through_the_server_in_each_form(served: tuple[Client, spec.Spec, Path]) -> None:
    client, one, _ = served
    picture, size = png(blotches(3, (150, 80))), (150, 80)
    asked: dict[str, Any] = {"confidence_threshold": 0.02}
    forms = ("none", "rle", "compressed_rle", "polygons")
    plain, lists, texts, polygons = (
        client.predict("people", picture, masks=form, **asked)["detections"] for form in forms
    )

    assert len(plain) == len(lists) > 0
    assert "masks" in openapi.description(one)["options"]
    for bare, first, second, third in zip(plain, lists, texts, polygons, strict=True):
        mask = read_mask(first["mask"])
        assert mask is not None
        assert mask.shape == (80, 150)
        assert "mask" not in bare
        assert np.array_equal(read_mask(second["mask"]), mask)
        assert (filled(third["mask"]["polygons"], size) & mask).sum() >= 0.9 * mask.sum() - 4
    with pytest.raises(RequestRefused, match="masks must be none or rle"):
        client.predict("people", picture, masks="png")


def test_measured_through_the_endpoint_it_is_as_good_as_in_process(
    served: tuple[Client, spec.Spec, Path],
) -> None:
    client, one, data = served
    images = load_objects(str(data), one.training.seed)
    through, local = measure_both(client, one, images)

    assert through == pytest.approx(local, abs=1e-3)
    for name in ("map", "ap50", "mask_map", "mask_ap50"):
        assert through[name] == pytest.approx(up.export_metrics(one)[name], abs=0.01)


def test_every_bad_request_among_good_ones_fails_alone(served: tuple[Client, spec.Spec, Path]) -> None:
    # 49 million pixels, too many where masks are
    small = [one for one in bad("detector") if "of very many empty rows" not in one.name]

    wrong, _ = wrong_among(served[0], "people", good("detector"), small, times=5)

    assert wrong == {}
