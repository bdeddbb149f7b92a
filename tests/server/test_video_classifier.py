"""The documents' recipe for clips, trained to its floor and served: every form of a clip, and bad requests
among good ones.
"""

import base64
import json
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from marina import engines
from marina.client import Client
from marina.core import paths, spec
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.engines import server_process as server
from marina.load import load_test as loadtest
from marina.packaging import archive
from marina.pipeline import readiness as ready
from marina.pipeline import steps as up
from tests.support.bad_clips import of_pixels, video_of
from tests.support.bad_inputs import bad, good
from tests.support.live_requests import port_of, wrong_among
from tests.support.measuring import measure_both
from training.data import ImageData, load_clips

pytestmark = pytest.mark.slow

Served = tuple[Client, spec.Spec, ImageData]


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[spec.Spec]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        (home / "models").mkdir()
        shutil.copy(paths.SOURCE / "docs" / "recipes" / "motions.yaml", home / "models")
        one = spec.load("motions")
        up.prepare([one], Output(as_json=True))
        yield one


@pytest.fixture(scope="module")
def served(archived: spec.Spec, engine: str) -> Iterator[Served]:
    port, output = server.free_port_base(), Output(as_json=True)
    with up.serving([archived], port, output, engines.get(engine)) as client:
        yield client, archived, load_clips("motions")


def test_it_is_ready_and_answers_its_samples(served: Served) -> None:
    client, one, _ = served

    assert ready.problems(client, one) == []
    assert len(ready.golden_samples(one)) == 6
    assert all(not answered.problem for answered in ready.send_samples(client, one))


def test_a_gif_a_video_and_a_list_of_frames_show_the_same_motion(served: Served) -> None:
    client, _, data = served
    right = {"gif": 0, "mp4": 0, "frames": 0}
    for example in data.test[:40]:
        frames = np.asarray(example.image)[..., 0]
        pictures = [base64.b64encode(of_pixels(frame[None], "PNG")).decode() for frame in frames]
        for name, body in (
            ("gif", of_pixels(frames)),
            ("mp4", video_of(frames)),
            ("frames", {"frames": pictures}),
        ):
            answer = client.predict("motions", body)
            right[name] += answer["predictions"][0]["class"] == data.classes[example.label]

    assert min(right.values()) >= 36


def test_endpoint_metrics_equal_in_process_and_training_metrics(served: Served) -> None:
    """Measured through the endpoint it is as good as in process and in training."""
    client, one, data = served
    through, local = measure_both(client, one, data)

    assert through == pytest.approx(local, abs=1e-6)
    assert through["accuracy"] == pytest.approx(up.export_metrics(one)["accuracy"], abs=1e-6)
    assert through["accuracy"] >= 0.95


def test_every_bad_request_among_good_ones_fails_alone(served: Served) -> None:
    wrong, _ = wrong_among(served[0], "motions", good("video_classifier"), bad("video_classifier"), times=5)

    assert wrong == {}


def test_a_load_test_finds_no_wrong_answer(served: Served, tmp_path) -> None:
    figures = loadtest.run(served[1], port_of(served[0]), users=4, seconds=4, report=tmp_path / "report.html")

    assert figures.requests > 10
    assert (figures.failures, figures.errors) == (0, [])


def test_a_refusal_says_what_to_send_and_the_archive_has_the_handler(served: Served) -> None:
    client, one, _ = served
    with pytest.raises(
        RequestRefused, match="a clip has at least 2 frames, this is a single picture; send an animated GIF"
    ):
        client.predict("motions", of_pixels(np.zeros((1, 8, 8), np.uint8)))
    with archive.opened(one) as folder:
        assert {
            "video_classifier_handler.py",
        } <= {path.name for path in folder.iterdir()}
        assert json.loads((folder / "preprocess_config.json").read_text())["input"] == "clip"
