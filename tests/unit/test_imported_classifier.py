"""Classifiers that learned elsewhere: functions of one's own and of timm, what comes before their graph, and data to measure with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import MobileNet_V2_Weights

from marina import importing
from marina.console import Output
from marina.errors import CallError, WorkError
from tests.foreign_models import classifier, logits_of, noise, png
from training import datasets
from training.imports.sources import class_names

from bundle_images import ImageInput, prepare
from classifier_handler import ClassifierHandler


def test_a_function_of_ones_own_gives_a_classifier_that_is_served_with_samples_of_what_it_says(
    own: Callable[[str], str], home: Path, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    settings = {"source": own("brightest"), "classes": str(tmp_path / "names.txt")}
    one, written = importing.chosen("colours", settings, None, {"training.image_size": 32}, trust_pickle=False)
    importing.bring(one, trust_pickle=False, output=Output(as_json=True))

    handler = ClassifierHandler()
    handler.load(one.export_dir)
    (answer,) = handler.answer_rows([({"body": png(Image.new("RGB", (50, 40), (10, 200, 30)))}, {})])

    assert (one.kind, written, one.floor) == ("classifier", True, {})
    assert answer["predictions"][0]["class"] == "green"
    assert answer["predictions"][0]["probability"] == pytest.approx(
        float(torch.tensor([10, 200, 30]).mul(20 / 255).softmax(0)[1]), abs=1e-4
    )
    assert handler.check_golden(one.export_dir) == 6
    assert all(sample["name"].endswith("-as-found") for sample in json.loads((one.export_dir / "samples" / "samples.json").read_text()))


@pytest.mark.parametrize(
    ("function", "settings", "words"),
    [
        ("with_softmax", {}, "gives probabilities; take its softmax out, or say --set training.outputs=probabilities"),
        ("with_batch_statistics", {}, "otherwise in company than alone"),
        ("with_a_tuple", {}, "gives tuple for 4 pictures"),
        ("with_a_bug", {}, r"RuntimeError at .*own.py:\d+: the disk of the author"),
        ("not_a_model", {}, "gave a dict, not an nn.Module"),
        ("gone", {}, "has no function 'gone'; it has .*brightest"),
        ("brightest", {"mode": "L"}, "^$"),
        ("brightest", {"arguments": {"classes": 1}}, r"gives \(4, 1\) for 4 pictures"),
        ("brightest", {"arguments": {"factor": float("nan")}}, "no finite numbers"),
        ("brightest", {"std": [0.0]}, "std above 0"),
        ("brightest", {"classes": "imagenet"}, "imagenet has 1000 names, the model gives 3 classes"),
    ],
)
def test_a_function_that_gives_no_such_classifier_is_refused_with_the_reason(
    function: str, settings: dict[str, Any], words: str, own: Callable[[str], str], tmp_path: Path
) -> None:
    if words == "^$":  # grey pictures are repeated for a network of three channels
        assert classifier(tmp_path, source=own(function), image_size=32, **settings).preprocess["mode"] == "L"
        return
    with pytest.raises(CallError, match=words):
        classifier(tmp_path, source=own(function), image_size=32, **settings)


def test_probabilities_are_turned_into_logits_if_that_is_said(own: Callable[[str], str], tmp_path: Path) -> None:
    trained = classifier(tmp_path, source=own("with_softmax"), image_size=32, outputs="probabilities")

    plain = classifier(tmp_path, source=own("brightest"), image_size=32)
    pixels = noise(3, 3, 32, 32)
    torch.testing.assert_close(logits_of(trained.module, pixels).softmax(1), logits_of(plain.module, pixels).softmax(1))


def test_a_model_that_cant_be_exported_is_refused_in_words(own: Callable[[str], str], home: Path) -> None:
    one, _ = importing.chosen("branching", {"source": own("with_a_branch")}, "classifier", {"training.image_size": 32}, trust_pickle=False)

    with pytest.raises(WorkError, match="branching can't be exported: "):
        importing.bring(one, trust_pickle=False, output=Output(as_json=True))

    assert not one.export_dir.exists()


def test_a_model_of_timm_keeps_timms_own_preprocessing_through_the_export(home: Path) -> None:
    timm = pytest.importorskip("timm")
    overrides = {"training.weights": "none", "training.arguments": {"num_classes": 5}}
    one, _ = importing.chosen("own", {"source": "timm:resnet10t"}, None, overrides, trust_pickle=False)
    importing.bring(one, trust_pickle=False, output=Output(as_json=True))
    handler = ClassifierHandler()
    handler.load(one.export_dir)
    picture = Image.fromarray(noise(300, 400, 3).numpy()).resize((400, 300))

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=5).eval()
    usual = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.inference_mode():
        expected = network(usual(picture)[None]).softmax(1)[0]
    (answer,) = handler.answer_rows([({"body": png(picture)}, {})])

    found = {one["class_index"]: one["probability"] for one in answer["predictions"]}
    torch.testing.assert_close(torch.tensor([found[index] for index in range(5)]), expected, atol=2e-3, rtol=0)
    assert (handler.input.height, handler.input.interpolation) == (176, "bicubic")


@pytest.mark.parametrize("size", [(341, 256), (256, 399), (500, 375), (1001, 333), (224, 224), (60, 90)])
def test_the_crop_is_torchvisions_to_the_pixel(size: tuple[int, int]) -> None:
    picture = Image.fromarray(noise(size[1], size[0], 3).numpy())
    usual = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    mean, std = torch.tensor(usual.mean).view(3, 1, 1), torch.tensor(usual.std).view(3, 1, 1)

    found = torch.from_numpy(prepare(picture, ImageInput(224, 224, fit="crop", resize=256)))

    assert ((usual(picture) * std + mean) * 255 - found).abs().max() < 1.01  # Pillow rounds once or twice


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (96, 96), (31, 500)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_without_antialiasing_a_picture_is_resized_as_torchvisions_detectors_do(size: tuple[int, int], mode: Any) -> None:
    picture = Image.fromarray(noise(size[1], size[0], 3).numpy()).convert(mode)
    pixels = torch.from_numpy(np.array(picture)).float().view(size[1], size[0], -1).permute(2, 0, 1)

    found = torch.from_numpy(prepare(picture, ImageInput(96, 128, mode=mode, antialias=False)))

    expected = nn.functional.interpolate(pixels[None], (96, 128), mode="bilinear", align_corners=False)[0]
    assert (expected - found).abs().max() < 0.51


def test_the_pictures_of_a_letterbox_keep_their_proportions_without_antialiasing_too() -> None:
    picture = Image.new("RGB", (200, 100), (255, 0, 0))

    found = torch.from_numpy(prepare(picture, ImageInput(64, 64, fit="letterbox", antialias=False)))

    assert found[:, :32].float().mean((1, 2)).tolist() == [255, 0, 0]
    assert found[:, 32:].unique().tolist() == [114]


def test_a_folder_with_labels_beside_it_measures_by_index_and_by_name(own: Callable[[str], str], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"a": (250, 60, 0), "b": (60, 250, 0), "c": (0, 60, 250), "d": (0, 60, 250)}.items():
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
    (folder / "labels.json").write_text(json.dumps({"a.png": 0, "b.png": 1, "c.png": 2, "d.png": 0}))
    (tmp_path / "names.json").write_text(json.dumps({"0": "red", "1": "green", "2": "blue"}))
    settings = {"source": own("brightest"), "image_size": 32, "data": str(folder), "classes": str(tmp_path / "names.json")}

    by_index = classifier(tmp_path, **settings)
    (folder / "labels.json").write_text(json.dumps({"a.png": "red", "b.png": "green", "c.png": "green", "d.png": "red"}))
    by_name = classifier(tmp_path, **settings)

    assert by_index.metrics == {"accuracy": 0.75}
    assert by_name.metrics == {"accuracy": 0.5}
    assert [(sample.name, sample.expect["class"]) for sample in by_index.samples] == [
        ("red-0", "red"),
        ("green-1", "green"),
        ("blue-2", "blue"),
    ]
    assert by_index.data["measured_on"]["test"] == 4
    assert (tmp_path / "mistakes.png").is_file()


@pytest.mark.parametrize("content", ["[]", "{}", '{"a.png": 1.5}', '{"gone.png": 1}', "{broken"])
def test_labels_that_say_something_else_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(content)

    with pytest.raises(CallError, match=r"labels.json (must say|names 'gone.png'|is no JSON)"):
        datasets.held_out(str(tmp_path), "classifier")


@pytest.mark.parametrize(("layout", "counted"), [("{}", 6), ("test/{}", 6), ("train/{}", 6)])
def test_a_folder_without_a_test_is_measured_whole(layout: str, counted: int, tmp_path: Path) -> None:
    for name in ("red", "green"):
        place = tmp_path / layout.format(name)
        place.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), name).save(place / f"{number}.png")

    found = datasets.held_out(str(tmp_path / "test" if layout.startswith("test") else tmp_path), "classifier")

    assert (len(found.test), found.classes, list(found.train)) == (counted, ("green", "red"), [])


def test_the_test_of_a_folder_that_has_one_is_measured_alone(tmp_path: Path) -> None:
    for split, many in (("train", 4), ("val", 3), ("test", 2)):
        for name in ("red", "green"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(many):
                Image.new("RGB", (8, 8), name).save(tmp_path / split / name / f"{number}.png")

    assert len(datasets.held_out(str(tmp_path), "classifier").test) == 4


def test_the_ranges_of_eight_bits_may_be_measured_on_pictures_without_a_class(own: Callable[[str], str], tmp_path: Path) -> None:
    for number in range(20):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")

    without, given = (classifier(tmp_path, source=own("brightest"), image_size=32, calibration=one) for one in (None, str(tmp_path)))

    assert without.calibration() == ()
    (pictures,) = given.calibration()
    assert pictures.shape == (20, *given.example[0].shape[1:])
    with pytest.raises(CallError, match="calibration: no folder"):
        classifier(tmp_path, source=own("brightest"), image_size=32, calibration=str(tmp_path / "gone"))


def test_a_class_that_the_model_does_not_know_is_named(own: Callable[[str], str], tmp_path: Path) -> None:
    for name in ("red", "mauve"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / "0.png")

    with pytest.raises(CallError, match="the data's class 'mauve' is none of the model's"):
        classifier(tmp_path, source=own("brightest"), image_size=32, data=str(tmp_path / "data"))


def test_names_are_read_from_lists_and_mappings_and_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["crane", "crow", "crane"]')
    (tmp_path / "b.json").write_text('{"1": ["n02", "goldfish"], "0": ["n01", "tench"]}')
    (tmp_path / "c.json").write_text('{"1": "first"}')

    assert class_names(str(tmp_path / "a.json")) == ["crane (0)", "crow", "crane (2)"]
    assert class_names(str(tmp_path / "b.json")) == ["tench", "goldfish"]
    assert (class_names("imagenet") or [])[90] == "lorikeet"
    with pytest.raises(CallError, match="no list of names"):
        class_names(str(tmp_path / "c.json"))
