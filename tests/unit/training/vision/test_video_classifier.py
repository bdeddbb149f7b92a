"""The video classifier: networks, the recipe, and the handler that serves it."""

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from PIL import Image

from handlers.kinds import predictor_of
from marina.core import kinds, spec
from marina.core.errors import CallError
from marina.evaluation import measurement as evaluate
from marina.kinds.pictures import save_picture
from marina.packaging import openapi
from tests.support.clip_files import clips_of_two_classes, config, steps
from tests.support.measuring import measure
from tests.support.picture_files import clip, drawn, encoded
from training.data import motions
from training.export.writer import export
from training.recipes import video_classifier
from training.runs.run import Run
from training.vision.classification import inputs, video_networks
from training.vision.classification.augmentation import augmentation

SPEC = """# Tells how a digit moves.
kind: video_classifier
training: {recipe: video_classifier}
floor: {accuracy: 0.1}
export: {max_batch: 4}
serving: {batch_size: 4}
samples: {held_out: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return clips_of_two_classes(tmp_path / "clips")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mc3_18", "r2plus1d_18")]


@pytest.mark.parametrize("architecture", ["r3d_18", *SLOW])  # small_3d is exported below
def test_the_exported_graph_equals_the_network_for_every_batch(architecture: str) -> None:
    preset = video_networks.preset_of(architecture, 32)
    network = video_networks.build(architecture, "none", 3, 1, preset).eval()
    clips = torch.randint(0, 256, (3, 4, 1, 32, 32), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(network, (clips[:2],), dynamic_shapes=({0: batch},), strict=False).module()

    with torch.inference_mode():
        assert network(clips).shape == (3, 3)
        torch.testing.assert_close(program(clips), network(clips), rtol=0, atol=1e-4)
        torch.testing.assert_close(network(clips[:1]), network(clips)[:1], rtol=0, atol=1e-4)


def test_the_order_of_frames_counts() -> None:
    network = video_networks.build("small_3d", "none", 3, 3, video_networks.preset_of("small_3d", 32)).eval()
    clips = torch.randint(0, 256, (2, 8, 3, 32, 32), dtype=torch.uint8)

    assert not torch.allclose(network(clips), network(clips.flip(1)), atol=1e-3)


def test_weights_are_taken_from_a_file_but_for_a_head_of_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = video_networks.preset_of("small_3d", None)
    given = video_networks.build("small_3d", "none", 7, 3, preset).network
    torch.save(given.state_dict(), tmp_path / "seven.pth")
    taken = video_networks.build("small_3d", str(tmp_path / "seven.pth"), 3, 3, preset).network

    assert torch.equal(taken[0].weight, given[0].weight)  # type: ignore[index]
    assert taken[-1].out_features == 3  # type: ignore[index]
    with pytest.raises(CallError, match="don't fit"):
        video_networks.build("small_3d", str(tmp_path / "seven.pth"), 3, 1, preset)
    with pytest.raises(CallError, match="small_3d takes none, or a file"):
        video_networks.build("small_3d", "kinetics", 3, 3, preset)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        "torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(CallError, match=r"no network\. Offline, put the file r3d_18-\w+\.pth into "):
        video_networks.build("r3d_18", "kinetics", 3, 3, video_networks.preset_of("r3d_18", None))


def test_augmentation_and_mixing_treat_all_frames_of_a_clip_alike() -> None:
    settings = video_classifier.Settings(cutmix=True)
    frame = torch.randint(0, 256, (6, 1, 3, 16, 16), dtype=torch.uint8)
    still = frame.expand(-1, 4, -1, -1, -1).clone()
    varied = augmentation(settings, config())(still)
    mixed, shares = video_classifier._mix_of_clips(settings, 3)(varied.float(), torch.arange(6) % 3)

    assert not torch.equal(varied, still)
    assert not torch.equal(mixed, varied)
    assert shares.shape == (6, 3)
    for clips in (varied, mixed):
        assert bool((clips == clips[:, :1]).all())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"stride": 2}, "stride is part of sampling: stride"),
        ({"fourier_noise": 0.5}, "for single pictures"),
        ({"pretraining": {}}, "for single pictures"),
        ({"architecture": "resnet18"}, "small_3d"),
        ({"freeze": True}, "needs 'weights'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        video_classifier.Settings(**said)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(spec, what was trained, handler) after two epochs on few motions."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        patch.setattr(motions.load, "__defaults__", (96, 24, 40))
        torch.set_num_threads(1)
        (home / "models").mkdir()
        (home / "models" / "motions.yaml").write_text(SPEC)
        one = spec.load("motions")
        making = one.export_dir.parent / ".making"
        settings = video_classifier.Settings(horizontal_flip=False, epochs=2, batch_size=16, frames=6)
        trained = video_classifier.train(settings, Run(making / "report"))
        trained.training["data"] = "motions"
        export(one, trained, making)
        handler = predictor_of("video_classifier")
        handler.load(one.export_dir)
        yield one, trained, handler


def test_a_short_training_hands_over_all_that_the_export_needs(made: Any) -> None:
    one, trained, _ = made
    names = {path.name for path in (one.export_dir / "report").iterdir()} - {"tensorboard"}

    assert trained.metrics.keys() == {"accuracy", "macro_f1", "ece", "ece_uncalibrated", "auroc"}
    assert names == {
        *("curves.png", "confusion.png", "reliability.png", "mistakes.png"),
        *("classes.json", "history.json"),
    }
    assert trained.preprocess["frames"] == 6
    assert trained.preprocess["image"]["mode"] == "L"
    assert trained.example[0].shape == (4, 6, 1, 40, 40)
    assert [path.suffix for path in (one.export_dir / "samples").glob("*-*")] == [".png", ".png"]


def test_the_handler_answers_as_training_measured(made: Any) -> None:
    one, trained, _ = made
    data = motions.load(1, 1, 40)

    measured = measure(one, evaluate.in_process(one), data)

    assert measured == {"accuracy": pytest.approx(trained.metrics["accuracy"], abs=1e-6), "images": 40}


def test_mirroring_what_goes_left_or_right_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motions.load, "__defaults__", (8, 8, 8))
    with pytest.raises(CallError, match="horizontal_flip: true makes left of right"):
        video_classifier.train(video_classifier.Settings(), Run(tmp_path))


def test_a_head_alone_learns_from_features_that_are_kept(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = video_networks.preset_of("small_3d", 16)
    body = video_networks.build("small_3d", "none", 2, 3, preset).network
    torch.save(body.state_dict(), tmp_path / "body.pth")
    said = {
        "data": str(folder),
        "weights": str(tmp_path / "body.pth"),
        "freeze": True,
        "image_size": 16,
        "frames": 4,
        "horizontal_flip": False,
    }
    settings = video_classifier.Settings(**said, epochs=2, cached_views=2, batch_size=8)
    trained = video_classifier.train(settings, Run(tmp_path / "report"))
    monkeypatch.setattr(inputs, "_computed", lambda *_: pytest.fail("computed again"))
    again = video_classifier.train(settings, Run(tmp_path / "report"))
    changed = {
        name
        for name, value in trained.module.network.state_dict().items()
        if not torch.equal(value, body.state_dict()[name])
    }  # type: ignore[operator,union-attr]

    assert changed == {"15.weight", "15.bias"}
    assert again.metrics == trained.metrics
    assert {"recall_brighter", "precision_darker"} <= trained.metrics.keys()


def test_requests_and_answers_are_what_the_schemas_say(made: Any) -> None:
    described = made[2].describe()
    document = openapi.of_description(described)
    frames = [base64.b64encode(encoded(Image.fromarray(frame), "PNG")).decode() for frame in steps(4)]
    bodies: list[Any] = [{"frames": frames}, {"clip": base64.b64encode(clip()).decode(), "top_k": 2}]
    answers = made[2].answer_rows([({"body": body}, {}) for body in bodies])

    for body, answer in zip(bodies, answers, strict=True):
        jsonschema.validate(body, described["request"])
        jsonschema.validate(answer, described["answer"])
    for wrong in (
        {"frames": frames[:1]},
        {"frames": []},
        {"clip": 3},
        {},
        {"frames": frames, "clip": frames[0]},
    ):
        assert not jsonschema.Draft202012Validator(described["request"]).is_valid(wrong)
    assert len(answers[1]["predictions"]) == 2
    assert described["limits"]["max_frames"] == 1000
    assert {"video/mp4", "image/gif"} <= document["paths"]["/predictions/motions"]["post"]["requestBody"][
        "content"
    ].keys()
    assert "/explanations/motions" not in document["paths"]


@pytest.mark.parametrize(
    "body",
    [clip(), json.dumps({"frames": [base64.b64encode(encoded(drawn(), "PNG")).decode()] * 3}).encode()],
)
def test_an_answer_is_drawn_below_frames_of_the_clip(body: bytes, tmp_path: Path) -> None:
    answer = {"predictions": [{"class": "left", "probability": 0.8, "class_index": 0}]}
    draw = kinds.get("video_classifier").draw
    save_picture(draw(body, answer), tmp_path / "drawn.png")

    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.width > 3 * picture.height
    with pytest.raises(CallError, match="only a clip"):
        draw(encoded(drawn(), "PNG"), answer)
