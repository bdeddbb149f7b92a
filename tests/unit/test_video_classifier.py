"""Clips: which frames the graph gets of which file, data sets of clips, the networks, the recipe, and the handler that serves it."""

import base64
import builtins
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from marina import draw, evaluate, openapi, spec
from marina.errors import CallError
from tests.bad_clips import of_pixels, video
from tests.picture_files import clip, drawn, encoded
from training import datasets, video_classifier
from training.classification import inputs, video_networks
from training.classification.augmentation import augmentation
from training.datasets import clip_folder, motions
from training.export import export, handler_of

from bundle_clips import ClipInput, open_clip, open_frames, prepare_clip
from bundle_errors import NotSupported, TooLarge
from bundle_images import ImageInput

SPEC = """# Tells how a digit moves.
kind: video_classifier
training: {recipe: video_classifier}
floor: {accuracy: 0.1}
export: {max_batch: 4}
serving: {batch_size: 4}
samples: {held_out: 2}
"""


def greys(frames: list[Image.Image]) -> list[int]:
    """What the frames of `steps` are numbered by."""
    return [int(np.asarray(frame.convert("L"))[4:-4, 4:-4].mean().round()) // 10 for frame in frames]


def steps(count: int, side: int = 16) -> np.ndarray:
    """Frames uint8 [count, side, side] of which number k is of the grey 10 k + 5; a corner differs, so that no two are equal."""
    frames = np.repeat(np.arange(count, dtype=np.uint8) * 10 + 5, side * side).reshape(count, side, side)
    frames[:, 0, 0] = 255
    return frames


def config(frames: int = 4, **more: Any) -> ClipInput:
    return ClipInput(frames, ImageInput(16, 16), **more)


# --- which frames ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "stride", "count", "chosen"),
    [
        ("even", 1, 4, [0, 1, 2, 3]),
        ("even", 1, 12, [1, 4, 7, 10]),
        ("even", 1, 2, [0, 0, 1, 1]),
        ("stride", 1, 12, [4, 5, 6, 7]),
        ("stride", 3, 12, [1, 4, 7, 10]),
        ("stride", 3, 8, [0, 3, 6, 7]),
        ("stride", 2, 2, [0, 1, 1, 1]),
    ],
)
def test_frames_are_taken_evenly_or_by_a_stride_around_the_middle(sampling: Any, stride: int, count: int, chosen: list[int]) -> None:
    assert config(sampling=sampling, stride=stride).chosen(count) == chosen
    assert greys(open_clip(of_pixels(steps(count)), config(sampling=sampling, stride=stride))) == chosen


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_animated_pictures_give_the_frames_that_were_written(form: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 20, 30), np.uint8)
    first, *others = [Image.fromarray(frame) for frame in values]
    file = encoded(first, form, save_all=True, append_images=others, **({"lossless": True} if form == "WEBP" else {}))
    found = open_clip(file, ClipInput(9, ImageInput(20, 30, "L")))

    assert np.array_equal(np.stack([np.asarray(frame) for frame in found]), values)


def test_the_picture_for_programs_without_animation_is_no_frame() -> None:
    shown = Image.new("L", (16, 16), 200)
    file = encoded(shown, "PNG", save_all=True, append_images=[Image.fromarray(frame) for frame in steps(6)], default_image=True)

    assert greys(open_clip(file, config(6))) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "libx264"), ("mov", "mpeg4"), ("avi", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9")]
)
def test_video_files_give_their_frames_in_the_order_in_which_they_are_shown(container: str, codec: str) -> None:
    turning = open_clip(clip(count=12), ClipInput(12, ImageInput(16, 16)))
    found = open_clip(video(container, codec, count=12), ClipInput(12, ImageInput(16, 16)))
    shown = [np.asarray(frame.resize((20, 16)), float) for frame in found]
    nearest = [int(np.argmin([np.abs(frame - np.asarray(other, float)).mean() for other in turning])) for frame in shown]

    assert [frame.size for frame in found] == [(32, 16)] * 12
    assert nearest == sorted(nearest)
    assert nearest[-1] - nearest[0] > 6


def test_a_video_that_says_how_it_is_turned_is_turned() -> None:
    whole, quarter = video(count=3), b"\0\1\0\0" + bytes(12) + b"\0\1\0\0"
    place = whole.index(quarter, whole.index(b"tkhd"))  # the unit matrix of ISO 14496-12; now (0 1 0, -1 0 0): a quarter clockwise
    turned = whole[:place] + bytes(4) + b"\0\1\0\0" + bytes(4) + b"\xff\xff\0\0" + bytes(4) + whole[place + 20 :]
    before, after = (np.asarray(open_clip(file, config(3))[0], float) for file in (whole, turned))

    assert after.shape == (32, 16, 3)
    assert np.array_equal(np.rot90(before, -1), after)


def test_without_pyav_a_video_file_gets_a_415_that_says_what_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    file, given = video(), builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *rest: (_ for _ in ()).throw(ImportError) if name == "av" else given(name, *rest)
    )

    with pytest.raises(NotSupported, match=r"PyAV is not installed.*send an animated GIF, WEBP, PNG, or JSON with a list of pictures"):
        open_clip(file, config())
    assert len(open_clip(clip(), config())) == 4


def test_limits_hold_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = of_pixels(steps(20))
    monkeypatch.setattr("PIL.Image.Image.seek", lambda *_: pytest.fail("decoded"))

    with pytest.raises(TooLarge, match="20 frames; send at most 19"):
        open_clip(file, config(max_frames=19))
    with pytest.raises(TooLarge, match=r"20 frames of 16 x 16 pixels; send at most .* 5,119 in all"):
        open_clip(file, config(max_pixels=5119))
    with pytest.raises(TooLarge, match="bytes; send at most 100"):
        open_clip(file, config(max_bytes=100))


def test_a_list_of_frames_is_the_same_as_its_animation() -> None:
    frames = [encoded(Image.fromarray(frame), "PNG") for frame in steps(10)]
    one, other = (prepare_clip(found, config()) for found in (open_frames(frames, config()), open_clip(of_pixels(steps(10)), config())))

    assert (one.shape, one.dtype) == ((4, 3, 16, 16), np.uint8)
    assert np.array_equal(one, other)


def test_the_configuration_is_read_back_as_it_was_written() -> None:
    said = ClipInput(5, ImageInput(20, 24, "L", "crop", 30), "stride", 3, max_frames=70)

    assert ClipInput.from_config(json.loads(json.dumps(said.as_config()))) == said


# --- data -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of clips of all sorts: brighter and darker."""
    for name, order in (("brighter", 1), ("darker", -1)):
        place = tmp_path / "clips" / name
        place.mkdir(parents=True)
        for number in range(6):
            frames = steps(12)[::order] + np.uint8(10 * number)
            (place / f"{number}.gif").write_bytes(of_pixels(frames))
            (place / f"{number}.webp").write_bytes(of_pixels(frames, "WEBP"))
            (place / f"of frames {number}").mkdir()
            for index, frame in enumerate(frames):
                Image.fromarray(frame).save(place / f"of frames {number}" / f"{index}.png")  # 10.png is behind 9.png
        (place / "video.mp4").write_bytes(video())
    return tmp_path / "clips"


def test_a_folder_of_files_and_folders_of_frames_is_read_and_what_is_no_clip_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "darker" / "still.gif").write_bytes(encoded(drawn(), "GIF"))
    (folder / "darker" / "cut.gif").write_bytes(clip()[:-20])
    data = datasets.load(str(folder), "video_classifier", 0)
    clips = [*data.train, *data.validation, *data.test]
    of_frames = next(one for one in clips if Path(str(one.image)).is_dir() and one.label == 0)

    assert data.classes == ("brighter", "darker")
    assert (len(clips), len(data.validation), len(data.test)) == (38, 6, 6)
    assert isinstance(of_frames, clip_folder.Clip)
    assert np.diff(greys(of_frames.chosen(config(12, max_bytes=10, max_frames=3)))).tolist() == [1] * 11  # limits are the server's
    assert json.loads(of_frames.encoded()[0]).keys() == {"frames"}
    assert {one.encoded()[1] for one in clips} == {"image/gif", "image/webp", "video/mp4", "application/json"}
    assert "still.gif is left out: a clip has at least 2 frames" in caplog.text
    assert "cut.gif is left out" in caplog.text


def test_a_folder_without_clips_is_refused_with_how_one_looks(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()

    with pytest.raises(CallError, match=r"(?s)no clips in .*cat/\*.gif"):
        datasets.load(str(tmp_path), "video_classifier", 0)
    with pytest.raises(CallError, match="neither the built-in set 'motions' nor a folder"):
        datasets.load("motion", "video_classifier", 0)


def test_the_frame_in_the_middle_is_the_same_for_every_motion_and_opposite_motions_go_backwards() -> None:
    figures = datasets.digits.load().train[:5]
    clips = [motions.clip(figures, label, np.random.default_rng(3))[..., 0].astype(int) for label in range(8)]

    assert all(np.array_equal(one[7], clips[0][7]) for one in clips)
    places = [np.abs(one - np.median(one)) > 40 for one in clips]
    columns, rows = ([np.argwhere(place)[:, axis].mean() for place in (found[0] for found in places)] for axis in (1, 0))
    assert columns[0] > columns[7] + 1 > columns[1] + 2
    assert rows[2] > rows[7] > rows[3]
    assert places[4][0].sum() < places[7][7].sum() < places[5][0].sum()


def test_the_same_motions_come_every_time_and_a_clip_is_sent_without_loss() -> None:
    data, again = motions.load(8, 1, 1), motions.load(4, 2, 1)

    assert datasets.fingerprint(again.train) == datasets.fingerprint(data.train[:4])
    assert {example.label for example in data.train} == set(range(8))
    body, kind = data.train[0].encoded()
    sent = open_clip(body, ClipInput(motions.FRAMES, ImageInput(40, 40, "L")))
    assert kind == "image/apng"
    assert np.array_equal(np.stack([np.asarray(frame) for frame in sent]), np.asarray(data.train[0].image)[..., 0])


# --- networks and learning ------------------------------------------------------------------------------------------------------

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


def test_weights_are_taken_from_a_file_but_for_a_head_of_other_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(CallError, match=r"no network\. Offline, put the file r3d_18-\w+\.pth into "):
        video_networks.build("r3d_18", "kinetics", 3, 3, video_networks.preset_of("r3d_18", None))


def test_augmentation_and_mixing_treat_all_frames_of_a_clip_alike() -> None:
    settings = video_classifier.Settings(mix="cutmix")
    frame = torch.randint(0, 256, (6, 1, 3, 16, 16), dtype=torch.uint8)
    still = frame.expand(-1, 4, -1, -1, -1).clone()
    varied = augmentation(settings, config())(still)
    mixed, shares = video_classifier._mix_of_clips(settings, 3)(varied.float(), torch.arange(6) % 3)  # type: ignore[misc]

    assert not torch.equal(varied, still)
    assert not torch.equal(mixed, varied)
    assert shares.shape == (6, 3)
    for clips in (varied, mixed):
        assert bool((clips == clips[:, :1]).all())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"stride": 2}, "stride is part of sampling: stride"),
        ({"spectrum_noise": 0.5}, "for single pictures"),
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
        settings = video_classifier.Settings(mirror=False, epochs=2, batch_size=16, frames=6)
        trained = video_classifier.train(settings, 0, making / "report")
        trained.training["data"] = "motions"
        export(one, trained, making)
        handler = handler_of("video_classifier")
        handler.load(one.export_dir)
        yield one, trained, handler


def test_a_short_training_hands_over_all_that_the_export_needs(made: Any) -> None:
    one, trained, _ = made
    names = {path.name for path in (one.export_dir / "report").iterdir()}

    assert trained.metrics.keys() == {"accuracy", "macro_f1", "ece", "ece_uncalibrated", "auroc"}
    assert names == {"curves.png", "confusion.png", "reliability.png", "mistakes.png", "classes.json"}
    assert trained.preprocess["frames"] == 6
    assert trained.preprocess["image"]["mode"] == "L"
    assert trained.example[0].shape == (4, 6, 1, 40, 40)
    assert [path.suffix for path in (one.export_dir / "samples").glob("*-*")] == [".png", ".png"]


def test_the_handler_answers_as_training_measured(made: Any) -> None:
    one, trained, _ = made
    data = motions.load(1, 1, 40)

    measured = evaluate.measure(one, evaluate.in_process(one), data, 0, list)

    assert measured == {"accuracy": pytest.approx(trained.metrics["accuracy"], abs=1e-6), "images": 40}


def test_mirroring_what_goes_left_or_right_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motions.load, "__defaults__", (8, 8, 8))
    with pytest.raises(CallError, match="mirror: true makes left of right"):
        video_classifier.train(video_classifier.Settings(), 0, tmp_path)


def test_a_head_alone_learns_from_features_that_are_kept(folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = video_networks.preset_of("small_3d", 16)
    body = video_networks.build("small_3d", "none", 2, 3, preset).network
    torch.save(body.state_dict(), tmp_path / "body.pth")
    said = {"data": str(folder), "weights": str(tmp_path / "body.pth"), "freeze": True, "image_size": 16, "frames": 4, "mirror": False}
    settings = video_classifier.Settings(**said, epochs=2, views=2, batch_size=8)
    trained = video_classifier.train(settings, 0, tmp_path / "report")
    monkeypatch.setattr(inputs, "_computed", lambda *_: pytest.fail("computed again"))
    again = video_classifier.train(settings, 0, tmp_path / "report")
    changed = {name for name, value in trained.module.network.state_dict().items() if not torch.equal(value, body.state_dict()[name])}  # type: ignore[operator,union-attr]

    assert changed == {"15.weight", "15.bias"}
    assert again.metrics == trained.metrics
    assert {"recall_brighter", "precision_darker"} <= trained.metrics.keys()


def test_requests_and_answers_are_what_the_schemas_say(made: Any) -> None:
    described = made[2].describe_handle()
    document = openapi.of_description(described)
    frames = [base64.b64encode(encoded(Image.fromarray(frame), "PNG")).decode() for frame in steps(4)]
    bodies: list[Any] = [{"frames": frames}, {"clip": base64.b64encode(clip()).decode(), "top_k": 2}]
    answers = made[2].answer_rows([({"body": body}, {}) for body in bodies])

    for body, answer in zip(bodies, answers, strict=True):
        jsonschema.validate(body, described["request"])
        jsonschema.validate(answer, described["answer"])
    for wrong in ({"frames": frames[:1]}, {"frames": []}, {"clip": 3}, {}, {"frames": frames, "clip": frames[0]}):
        assert not jsonschema.Draft202012Validator(described["request"]).is_valid(wrong)
    assert len(answers[1]["predictions"]) == 2
    assert described["limits"]["max_frames"] == 1000
    assert {"video/mp4", "image/gif"} <= document["paths"]["/predictions/motions"]["post"]["requestBody"]["content"].keys()
    assert "/explanations/motions" not in document["paths"]


@pytest.mark.parametrize("body", [clip(), json.dumps({"frames": [base64.b64encode(encoded(drawn(), "PNG")).decode()] * 3}).encode()])
def test_an_answer_is_drawn_below_frames_of_the_clip(body: bytes, tmp_path: Path) -> None:
    answer = {"predictions": [{"class": "left", "probability": 0.8, "class_index": 0}]}
    draw.draw(body, answer, tmp_path / "drawn.png", clip=True)

    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.width > 3 * picture.height
    with pytest.raises(CallError, match="only a clip"):
        draw.draw(encoded(drawn(), "PNG"), answer, tmp_path / "drawn.png", clip=True)
