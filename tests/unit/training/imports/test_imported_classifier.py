"""Imported classifiers: a user's functions and timm's, preprocessing before their graph, and data for
evaluation.
"""

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

from handlers.inputs.images import ImageInput, prepare
from handlers.kinds.classifier import ClassifierPredictor
from marina.core.console import Output
from marina.core.errors import CallError, WorkError
from marina.pipeline import importing
from tests.support.foreign_models import classifier, logits_of, noise, png
from training.data import Example, held_out_images
from training.imports.class_names import read_class_names
from training.vision.classification.evaluation import right_answers


def test_users_function_becomes_a_classifier_with_its_own_samples(
    own: Callable[[str], str], home: Path, tmp_path: Path
) -> None:
    """A user's own function becomes a classifier, served with samples of what it answers."""
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    settings = {"source": own("brightest"), "classes": str(tmp_path / "names.txt")}
    one, written = importing.make_spec(
        "colours", settings, None, {"training.image_size": 32}, trust_pickle=False
    )
    importing.import_and_export(one, trust_pickle=False, output=Output(as_json=True))

    handler = ClassifierPredictor()
    handler.load(one.export_dir)
    (answer,) = handler.answer_rows([({"body": png(Image.new("RGB", (50, 40), (10, 200, 30)))}, {})])

    assert (one.kind, written, one.floor) == ("classifier", True, {})
    assert answer["predictions"][0]["class"] == "green"
    assert answer["predictions"][0]["probability"] == pytest.approx(
        float(torch.tensor([10, 200, 30]).mul(20 / 255).softmax(0)[1]), abs=1e-4
    )
    assert handler.check_golden() == 6
    assert all(
        sample["name"].endswith("-as-found")
        for sample in json.loads((one.export_dir / "samples" / "samples.json").read_text())
    )


def test_a_strict_import_takes_no_guess(own: Callable[[str], str], home: Path) -> None:
    """What the import takes by default is a warning otherwise."""
    one, _ = importing.make_spec("colours", {"source": own("brightest")}, None, {}, trust_pickle=False)
    with pytest.raises(CallError, match="strict: mean and std are not given: pixels go into the network"):
        importing.import_and_export(one, trust_pickle=False, output=Output(as_json=True), strict=True)


@pytest.mark.parametrize(
    ("function", "settings", "words"),
    [
        (
            "with_softmax",
            {},
            "gives probabilities; take its softmax out, or say --set training.outputs=probabilities",
        ),
        ("with_batch_statistics", {}, "otherwise in company than alone"),
        ("with_a_tuple", {}, r"gives tuple .* for 4 pictures; logits \[4, classes\]"),
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
def test_function_that_returns_no_classifier_is_refused(
    function: str, settings: dict[str, Any], words: str, own: Callable[[str], str], tmp_path: Path
) -> None:
    """A function that returns no such classifier is refused with the reason."""
    if words == "^$":  # grey pictures are repeated for a network of three channels
        assert classifier(tmp_path, source=own(function), image_size=32, **settings).preprocess["mode"] == "L"
        return
    with pytest.raises(CallError, match=words):
        classifier(tmp_path, source=own(function), image_size=32, **settings)


def test_probabilities_are_turned_into_logits_if_that_is_said(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    trained = classifier(tmp_path, source=own("with_softmax"), image_size=32, outputs="probabilities")

    plain = classifier(tmp_path, source=own("brightest"), image_size=32)
    pixels = noise(3, 3, 32, 32)
    torch.testing.assert_close(
        logits_of(trained.module, pixels).softmax(1), logits_of(plain.module, pixels).softmax(1)
    )


def test_a_model_that_cant_be_exported_is_refused_in_words(own: Callable[[str], str], home: Path) -> None:
    one, _ = importing.make_spec(
        "branching",
        {"source": own("with_a_branch")},
        "classifier",
        {"training.image_size": 32},
        trust_pickle=False,
    )

    with pytest.raises(WorkError, match="branching can't be exported: "):
        importing.import_and_export(one, trust_pickle=False, output=Output(as_json=True))

    assert not one.export_dir.exists()


@pytest.mark.slow
def test_a_model_of_timm_keeps_timms_own_preprocessing_through_the_export(home: Path) -> None:
    timm = pytest.importorskip("timm")
    overrides = {"training.weights": "none", "training.arguments": {"num_classes": 5}}
    one, _ = importing.make_spec("own", {"source": "timm:resnet10t"}, None, overrides, trust_pickle=False)
    importing.import_and_export(one, trust_pickle=False, output=Output(as_json=True))
    handler = ClassifierPredictor()
    handler.load(one.export_dir)
    picture = Image.fromarray(noise(300, 400, 3).numpy()).resize((400, 300))

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=5).eval()
    usual = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.inference_mode():
        expected = network(usual(picture)[None]).softmax(1)[0]
    (answer,) = handler.answer_rows([({"body": png(picture)}, {})])

    found = {one["class_index"]: one["probability"] for one in answer["predictions"]}
    torch.testing.assert_close(
        torch.tensor([found[index] for index in range(5)]), expected, atol=2e-3, rtol=0
    )
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
def test_resize_without_antialiasing_equals_torchvision_detectors(size: tuple[int, int], mode: Any) -> None:
    """Without antialiasing a picture is resized as torchvision's detectors resize it."""
    picture = Image.fromarray(noise(size[1], size[0], 3).numpy()).convert(mode)
    pixels = torch.from_numpy(np.array(picture)).float().view(size[1], size[0], -1).permute(2, 0, 1)

    found = torch.from_numpy(prepare(picture, ImageInput(96, 128, mode=mode, antialias=False)))

    expected = nn.functional.interpolate(pixels[None], (96, 128), mode="bilinear", align_corners=False)[0]
    assert (expected - found).abs().max() < 0.51


def test_letterbox_without_antialiasing_keeps_proportions() -> None:
    """A letterboxed picture keeps its proportions without antialiasing too."""
    picture = Image.new("RGB", (200, 100), (255, 0, 0))

    found = torch.from_numpy(prepare(picture, ImageInput(64, 64, fit="letterbox", antialias=False)))

    assert found[:, :32].float().mean((1, 2)).tolist() == [255, 0, 0]
    assert found[:, 32:].unique().tolist() == [114]


def test_a_folder_with_labels_beside_it_measures_by_index_and_by_name(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"a": (250, 60, 0), "b": (60, 250, 0), "c": (0, 60, 250), "d": (0, 60, 250)}.items():
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
    (folder / "labels.json").write_text(json.dumps({"a.png": 0, "b.png": 1, "c.png": 2, "d.png": 0}))
    (tmp_path / "names.json").write_text(json.dumps({"0": "red", "1": "green", "2": "blue"}))
    settings = {
        "source": own("brightest"),
        "image_size": 32,
        "data": str(folder),
        "classes": str(tmp_path / "names.json"),
    }

    by_index = classifier(tmp_path, **settings)
    (folder / "labels.json").write_text(
        json.dumps({"a.png": "red", "b.png": "green", "c.png": "green", "d.png": "red"})
    )
    by_name = classifier(tmp_path, **settings)

    assert by_index.metrics == {"accuracy": 0.75}
    assert by_name.metrics == {"accuracy": 0.5}
    assert [(sample.name, sample.expect["class"]) for sample in by_index.samples] == [
        ("red-0", "red"),
        ("green-2", "green"),
        ("blue-3", "blue"),
    ]
    assert by_index.data["measured_on"]["test"] == 4
    assert (tmp_path / "mistakes.png").is_file()


@pytest.mark.parametrize("content", ["[]", "{}", '{"a.png": 1.5}', '{"gone.png": 1}', "{broken"])
def test_labels_that_say_something_else_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(content)

    with pytest.raises(CallError, match=r"(labels.json (must say|is no JSON)|no pictures in)"):
        held_out_images(str(tmp_path))


@pytest.mark.parametrize(("layout", "counted"), [("{}", 6), ("test/{}", 6), ("train/{}", 6)])
def test_a_folder_without_a_test_is_measured_whole(layout: str, counted: int, tmp_path: Path) -> None:
    for name in ("red", "green"):
        place = tmp_path / layout.format(name)
        place.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), name).save(place / f"{number}.png")

    found = held_out_images(str(tmp_path / "test" if layout.startswith("test") else tmp_path))

    assert (len(found.test), found.classes, list(found.train)) == (counted, ("green", "red"), [])


def test_the_test_of_a_folder_that_has_one_is_measured_alone(tmp_path: Path) -> None:
    for split, many in (("train", 4), ("val", 3), ("test", 2)):
        for name in ("red", "green"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(many):
                Image.new("RGB", (8, 8), name).save(tmp_path / split / name / f"{number}.png")

    assert len(held_out_images(str(tmp_path)).test) == 4


def test_int8_ranges_are_measured_on_pictures_without_a_class(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    """The int8 ranges may be measured on pictures without a class."""
    for number in range(20):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")

    without, given = (
        classifier(tmp_path, source=own("brightest"), image_size=32, calibration=one)
        for one in (None, str(tmp_path))
    )

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

    assert read_class_names(str(tmp_path / "a.json")) == ["crane (0)", "crow", "crane (2)"]
    assert read_class_names(str(tmp_path / "b.json")) == ["tench", "goldfish"]
    assert (read_class_names("imagenet") or [])[90] == "lorikeet"
    with pytest.raises(CallError, match="no list of names"):
        read_class_names(str(tmp_path / "c.json"))


def test_equal_logits_behind_the_first_cost_no_sample() -> None:
    """A clear lead is enough; equal first places are no sample, because a kernel's noise decides them."""
    examples = [Example(np.zeros((8, 8), np.uint8), label) for label in (0, 1, 2)]
    logits = torch.tensor([[5.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 5.0, 5.0]])

    samples = right_answers(examples, logits, torch.tensor([0, 1, 2]), ["a", "b", "c", "d"])

    assert [sample.expect for sample in samples] == [{"class": "a"}, {"class": "b"}]
