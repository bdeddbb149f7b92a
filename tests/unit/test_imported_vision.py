"""Picture models that learned elsewhere: brought from every sort of source as they are; what can't be, or isn't trusted, is refused."""

import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
import yaml
from PIL import Image
from torch import nn
from torchvision.models import MobileNet_V2_Weights
from typer.testing import CliRunner

from marina import cli, importing, spec
from marina.console import Output
from marina.errors import BelowFloor, CallError, WorkError
from training import datasets, imported_classifier, imported_detector
from training.imported_classifier import Settings
from training.imports.files import read_program, read_state
from training.imports.sources import class_names, origin
from training.trained import Trained

from bundle_images import ImageInput, prepare
from classifier_handler import ClassifierHandler
from detector_handler import DetectorHandler

OWN = '''
from functools import partial

import torch
from torch import nn
from torchvision import ops
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from neighbour import WIDTH


class Brightest(nn.Module):
    """Says which of three colours a picture has most of."""

    def __init__(self, classes=3, factor=20.0):
        super().__init__()
        self.colour = nn.Conv2d(3, classes, 1)
        with torch.no_grad():
            self.colour.weight.copy_(factor * torch.eye(classes, 3).view(classes, 3, 1, 1))
            self.colour.bias.zero_()

    def forward(self, x):
        return self.colour(x).mean((2, 3))


def brightest(**arguments):
    return Brightest(**arguments)


def with_softmax():
    return nn.Sequential(Brightest(), nn.Softmax(1))


def with_batch_statistics():
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), Brightest())


def with_a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()


def with_a_bug():
    raise RuntimeError("the disk of the author")


def with_a_branch():
    class Branching(Brightest):
        def forward(self, x):
            return super().forward(x) * (2 if x.mean() > 0.5 else 1)
    return Branching()


not_a_model = dict


def layers(width=WIDTH):
    return nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, width, 3, 4, 1), nn.ReLU())


def retinanet(classes=4):
    """With a backbone that gives one map as a tensor, as torchvision's own documentation shows it."""
    backbone = layers()
    backbone.out_channels = WIDTH
    anchors = AnchorGenerator(((32, 48, 64),), ((0.5, 1.0, 2.0),))
    return scattered(RetinaNet(backbone, classes, min_size=64, max_size=96, anchor_generator=anchors, score_thresh=0.02), 0.12)


def scattered(model, deviation):
    """With scores that are not all the same, as those of an untrained head are."""
    torch.manual_seed(3)
    for module in model.head.classification_head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=deviation)
    return model


def fcos(classes=4):
    backbone = layers()
    backbone.out_channels = WIDTH
    return FCOS(backbone, classes, min_size=64, max_size=96, anchor_generator=AnchorGenerator(((16,),), ((1.0,),)), score_thresh=0.05)


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers(), nn.Conv2d(WIDTH, 24, 3, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return {"0": x, "1": self.second(x)}


def ssd(classes=4, size=96, scores="softmax"):
    boxes = DefaultBoxGenerator([[2], [2]])
    model = SSD(Maps(), boxes, (size, size), classes, score_thresh=0.02, detections_per_img=50)
    scattered(model, 0.5)
    if scores == "sigmoid":
        model.postprocess_detections = partial(by_sigmoid, model)
    return model


def by_sigmoid(model, heads, anchors, shapes):
    found = []
    for codes, scores, boxes, shape in zip(heads["bbox_regression"], heads["cls_logits"].sigmoid(), anchors, shapes):
        boxes = ops.clip_boxes_to_image(model.box_coder.decode_single(codes, boxes), shape)
        places, labels = (scores[:, 1:] > model.score_thresh).nonzero(as_tuple=True)
        boxes, scores, labels = boxes[places], scores[places, labels + 1], labels + 1
        kept = ops.batched_nms(boxes, scores, labels, model.nms_thresh)[: model.detections_per_img]
        found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
    return found


def stranger():
    """An SSD whose forward moves every box."""
    class Moving(SSD):
        def forward(self, images, targets=None):
            return [{**found, "boxes": found["boxes"] + 7} for found in super().forward(images, targets)]
    model = ssd()
    model.__class__ = Moving
    return model
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function of a user's own file, as a source; the file imports what lies beside it."""
    for name in ("own", "neighbour"):  # another test's
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "neighbour.py").write_text("WIDTH = 32\n")
    return lambda function: f"{tmp_path / 'own.py'}:{function}"


def classifier(report: Path, **settings: Any) -> Trained:
    return imported_classifier.train(Settings(**settings), 0, report)


def detector(report: Path, **settings: Any) -> Trained:
    return imported_detector.train(imported_detector.Settings(**settings), 0, report)


def logits_of(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(pixels)  # type: ignore[no-any-return]


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# --- weights


@pytest.mark.parametrize("form", ["plain", "nested", "prefixed", "safetensors"])
def test_an_architecture_of_torchvision_takes_a_state_dict_with_the_head_that_is_in_it(form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = torchvision.models.squeezenet1_1(num_classes=7).eval()
    path = tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pth'}"
    state = network.state_dict()
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        prefixed = {f"module.{key}": value for key, value in state.items()}
        torch.save({"plain": state, "nested": {"epoch": 3, "state_dict": state}, "prefixed": prefixed}[form], path)

    trained = classifier(tmp_path, source="torchvision:squeezenet1_1", weights=str(path))

    pixels = noise(2, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(logits_of(trained.module, pixels), logits_of(network, (pixels / 255 - mean) / std))
    assert trained.classes == [str(index) for index in range(7)]
    assert (trained.preprocess["fit"], trained.preprocess["resize"], trained.preprocess["height"]) == ("crop", 256, 224)
    assert trained.training["files"].keys() == {path.name}


def test_weights_that_dont_fit_are_refused_with_the_first_misfits(own: Callable[[str], str], tmp_path: Path) -> None:
    safetensors.torch.save_file({"colour.weight": torch.zeros(5, 3, 1, 1), "other.bias": torch.zeros(2)}, tmp_path / "a.safetensors")

    with pytest.raises(CallError) as caught:
        classifier(tmp_path, source=own("brightest"), weights=str(tmp_path / "a.safetensors"))

    assert "colour.bias is missing; other.bias is not known; colour.weight is (5, 3, 1, 1) instead of (3, 3, 1, 1)" in str(caught.value)


def test_weights_that_are_not_there_offline_are_named_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no way to the network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)

    with pytest.raises(CallError, match=r"no way to the network. Offline, put the file resnet18-f37072fd.pth into .*checkpoints"):
        classifier(tmp_path, source="resnet18", weights="IMAGENET1K_V1")


def test_weights_to_which_more_belongs_than_their_file_says_are_asked_for_by_name(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "inception_v3_google-0cc3c7bd.pth")

    with pytest.raises(CallError, match=r"more belongs to it than the file says; .*give IMAGENET1K_V1"):
        classifier(tmp_path, source="inception_v3", weights=str(tmp_path / "inception_v3_google-0cc3c7bd.pth"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "resnet19"}, "is none of torchvision:NAME, .* did you mean resnet1"),
        ({"source": "torchvision:resnet19"}, "no architecture 'resnet19'; did you mean"),
        ({"source": "timm:resnet19"}, "timm has no model 'resnet19'; did you mean"),
        ({"source": "resnet18", "weights": "V9"}, "unknown weights 'V9' of resnet18; known: IMAGENET1K_V1, DEFAULT, none, or a file"),
        ({"source": "resnet18", "weights": "gone.pth"}, "weights 'gone.pth': no such file"),
        ({"source": "resnet18", "weights": "none", "arguments": {"depth": 3}}, "resnet18 raised TypeError at .*depth"),
        ({"source": "deeplabv3_resnet50", "weights": "none"}, "is no image classifier"),
        ({"source": "gone.pt2"}, "source 'gone.pt2': no such file"),
        ({"source": "gone.py:make"}, "source 'gone.py': no such file"),
        ({"source": "nowhere.at_all:make"}, "nowhere.at_all raised ModuleNotFoundError"),
    ],
)
def test_a_source_that_cant_be_had_is_refused_with_what_can(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=words):
        classifier(tmp_path, **settings)


# --- pickles


def test_a_pickled_model_is_refused_and_once_trusted_it_is_the_same_model_without_the_pickle(
    own: Callable[[str], str], home: Path, tmp_path: Path
) -> None:
    network = imported_classifier.build(Settings(source=own("brightest"), arguments={"factor": 3.0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        torch.save(network, tmp_path / "whole.pth")

        with pytest.raises(CallError, match=r"is a pickle of more than tensors, .*--trust-pickle"):
            classifier(tmp_path, source=str(tmp_path / "whole.pth"))

        one, _ = importing.chosen("colours", {"source": str(tmp_path / "whole.pth")}, None, {}, trust_pickle=True)
        importing.bring(one, trust_pickle=True, output=Output(as_json=True))

    program = torch.export.load(one.export_dir / "model.pt2").module()
    pixels = noise(3, 3, 224, 224)
    torch.testing.assert_close(logits_of(program, pixels), logits_of(network, pixels / 255))
    assert not [path for path in one.export_dir.rglob("*") if path.suffix in (".pth", ".pt", ".pkl")]
    assert "trust" not in one.as_yaml()
    assert json.loads((one.export_dir / "model_metadata.json").read_text())["training"]["trust_pickle"] is True


@pytest.mark.parametrize("place", ["weights", "source", "beside tensors"])
def test_a_malicious_pickle_is_refused_and_does_not_run(place: str, own: Callable[[str], str], tmp_path: Path) -> None:
    content: Any = Payload(tmp_path / "broken-in")
    torch.save({"colour.bias": torch.zeros(3), "more": content} if place == "beside tensors" else content, tmp_path / "evil.pth")
    evil = str(tmp_path / "evil.pth")

    with pytest.raises(CallError, match="could run any code"):
        classifier(tmp_path, **({"source": evil} if place == "source" else {"source": own("brightest"), "weights": evil}))

    assert not (tmp_path / "broken-in").exists()
    torch.load(evil, weights_only=False)  # it would have
    assert (tmp_path / "broken-in").exists()


def test_a_malicious_file_in_the_place_of_torchvisions_own_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(Payload(tmp_path / "broken-in"), place / "squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    with pytest.raises(CallError, match="can't be had: Weights only load failed"):
        classifier(tmp_path, source="squeezenet1_1", weights="IMAGENET1K_V1")

    assert not (tmp_path / "broken-in").exists()


def test_files_that_are_no_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("nothing")
    (tmp_path / "text.safetensors").write_text("nothing")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pth")

    with pytest.raises(CallError, match=r"text.pth (is a pickle|is no file of torch.save)"):
        read_state(tmp_path / "text.pth")
    with pytest.raises(CallError, match=r"no \.safetensors file"):
        read_state(tmp_path / "text.safetensors")
    with pytest.raises(CallError, match="holds no state dict"):
        read_state(tmp_path / "list.pth")
    with pytest.raises(CallError, match="holds weights and no architecture"):
        classifier(tmp_path, source=str(tmp_path / "state.pth"))


# --- programs


class Mean(nn.Module):
    """Logits of the mean colour, of pixels in 0..1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * 10


def program(path: Path, module: nn.Module, example: torch.Tensor, dynamic: bool = True) -> str:
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False), path)
    return str(path)


def test_a_program_of_floats_gets_our_normalisation_in_front(tmp_path: Path) -> None:
    source = program(tmp_path / "mean.pt2", Mean(), torch.rand(2, 3, 20, 30))

    trained = classifier(tmp_path, source=source, mean=[0.5], std=[0.25], fit="stretch")

    pixels = noise(5, 3, 20, 30)
    torch.testing.assert_close(logits_of(trained.module, pixels), (pixels / 255).mean((2, 3)) * 40 - 20)
    assert (trained.preprocess["height"], trained.preprocess["width"]) == (20, 30)


def test_the_digits_program_is_imported_as_it_is_and_reads_as_well(tmp_path: Path, exported_digits: Path) -> None:
    trained = classifier(tmp_path, source=str(exported_digits / "model.pt2"), fit="ink", data="digits")

    metadata = json.loads((exported_digits / "model_metadata.json").read_text())
    assert trained.metrics["accuracy"] == pytest.approx(metadata["metrics"]["accuracy"])
    assert trained.classes == list("0123456789")
    assert trained.preprocess["mode"] == "L"


@pytest.fixture
def exported_digits(built_in: list[spec.Spec]) -> Path:
    return next(one.export_dir for one in built_in if one.name == "digits")


@pytest.mark.parametrize(
    ("example", "dynamic", "settings", "words"),
    [
        (torch.rand(2, 3, 8, 8), False, {}, r"takes batches of 2 only, .*dynamic_shapes="),
        (torch.rand(2, 8, 8, 3), True, {}, r"must take one batch of pictures \[B, 3 or 1, height, width\]"),
        (torch.rand(2, 3, 8, 8).double(), True, {}, "it takes torch.float64"),
    ],
)
def test_a_program_that_no_server_can_feed_is_refused(
    example: torch.Tensor, dynamic: bool, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=words):
        classifier(tmp_path, source=program(tmp_path / "a.pt2", Mean(), example, dynamic), **settings)


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> str:
    """A copy of a .pt2 with its members changed."""
    copy = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return str(copy)


def test_a_program_with_a_pickle_inside_is_refused_and_does_not_run(tmp_path: Path) -> None:
    evil = io.BytesIO()
    torch.save(Payload(tmp_path / "broken-in"), evil)
    path = Path(program(tmp_path / "a.pt2", Mean(), torch.rand(2, 3, 8, 8)))
    source = rewritten(path, lambda name, content: evil.getvalue() if name.endswith("sample_inputs/model.pt") else content)

    with pytest.raises(CallError, match="holds a pickle, and reading it could run any code"):
        classifier(tmp_path, source=source)

    assert not (tmp_path / "broken-in").exists()


def test_a_program_with_code_in_an_expression_is_refused_and_does_not_run(tmp_path: Path) -> None:
    code = f"__import__('os').mkdir('{tmp_path}/broken-in')"
    path = Path(program(tmp_path / "a.pt2", Mean(), torch.rand(2, 3, 8, 8)))
    source = rewritten(
        path,
        lambda name, content: re.sub(rb'"expr_str": ?"[^"]*"', f'"expr_str": "{code}"'.encode(), content) if "models/" in name else content,
    )

    with pytest.raises(CallError, match=r"text that torch.export doesn't write and that would run as code: .*__import__"):
        classifier(tmp_path, source=source)

    assert not (tmp_path / "broken-in").exists()


def test_programs_with_shapes_worked_out_are_read(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.flatten(2).transpose(1, 2)
            rows = torch.cat([rows, rows.mean(1, keepdim=True)], 1).reshape(-1, 3)
            return rows.view(x.shape[0], -1, 3).sum(1)[:, :2]

    found = read_program(Path(program(tmp_path / "a.pt2", Attention(), torch.rand(2, 3, 8, 8))), trusted=False)

    assert found.module(check_guards=False)(torch.rand(5, 3, 8, 8)).shape == (5, 2)


# --- functions of one's own, and timm


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


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


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


# --- what comes before the graph


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


# --- data to measure with


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


# --- detectors


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        ("ssd", {}),
        ("ssd", {"arguments": {"scores": "sigmoid"}, "scores": "sigmoid"}),
        ("retinanet", {"height": 64, "width": 96}),
        ("fcos", {"height": 64, "width": 96}),
    ],
)
def test_a_detector_of_each_make_finds_through_the_handler_what_it_finds_by_itself(
    function: str, settings: dict[str, Any], own: Callable[[str], str], home: Path
) -> None:
    overrides = {f"training.{key}": value for key, value in settings.items()}
    one, _ = importing.chosen("things", {"source": own(function)}, None, overrides, trust_pickle=False)
    importing.bring(one, trust_pickle=False, output=Output(as_json=True))
    handler = DetectorHandler()
    handler.load(one.export_dir)
    size = (handler.input.width, handler.input.height)  # which both let pass unchanged
    picture = Image.fromarray(noise(10, 14, 3).numpy()).resize(size, Image.Resampling.BICUBIC)

    torch.manual_seed(0)
    model: Any = imported_detector.build(imported_detector.Settings(source=own(function), **{"arguments": {}, **settings}))
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
    torch.testing.assert_close(torch.tensor([item["score"] for item in found]), expected["scores"], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor([item["bbox"] for item in found]), expected["boxes"], atol=0.02, rtol=0)


def test_a_way_of_scoring_of_ones_own_is_asked_for_and_a_wrong_answer_is_found_out(own: Callable[[str], str], tmp_path: Path) -> None:
    settings = {"source": own("ssd"), "arguments": {"scores": "sigmoid"}}

    with pytest.raises(CallError, match=r"has a postprocess_detections of its own, .*--set training.scores=sigmoid or softmax"):
        detector(tmp_path, **settings)
    with pytest.raises(WorkError, match=r"doesn't find what the whole model finds: .*(scores differ by up to|detections in a picture)"):
        detector(tmp_path, **settings, scores="softmax")


def test_a_model_that_changes_its_detections_in_its_forward_is_found_out(own: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"boxes by up to [567](\.\d+)? pixels"):
        detector(tmp_path, source=own("stranger"))


def test_classes_keep_their_numbers_when_background_and_gaps_are_left_out(own: Callable[[str], str], tmp_path: Path) -> None:
    whole = detector(tmp_path, source=own("ssd"), arguments={"classes": 91}).module
    trained = detector(tmp_path, source=own("ssd"), arguments={"classes": 91}, classes="coco")

    pixels = noise(2, 3, 96, 96)
    assert trained.classes is not None
    assert (len(trained.classes), trained.classes[0], trained.classes[79]) == (80, "person", "toothbrush")
    assert "N/A" not in trained.classes
    every, named = logits_of(whole, pixels)[1], logits_of(trained.module, pixels)[1]
    assert torch.equal(named[..., 79], every[..., 89])  # toothbrush is 90 in COCO, and the background is none
    assert torch.equal(named[..., 11], every[..., 12])  # a stop sign 13, behind the gap at 12


def test_thresholds_are_the_models_own_unless_said_otherwise(own: Callable[[str], str], tmp_path: Path) -> None:
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
        ({"source": "keypointrcnn_resnet50_fpn", "weights": "none"}, "is KeypointRCNN; of detectors, torchvision's SSD"),
        ({"source": "squeezenet1_1", "weights": "none"}, "is SqueezeNet; of detectors, torchvision's SSD"),
    ],
)
def test_what_is_no_such_detector_is_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=words):
        detector(tmp_path, **settings)


def test_a_detector_is_measured_on_boxes_by_the_names_of_their_classes(own: Callable[[str], str], tmp_path: Path) -> None:
    model = detector(tmp_path, source=own("ssd"), classes=None)
    folder = tmp_path / "boxes"
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "3"}, {"id": 9, "name": "1"}]}
    from training.detection.evaluation import detect

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
                row = {"image_id": number, "category_id": 7 if label == 2 else 9, "bbox": [left, top, right - left, bottom - top]}
                content["annotations"].append({"id": len(content["annotations"]), **row})
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))

    trained = detector(tmp_path, source=own("ssd"), data=str(folder))

    assert len(content["annotations"]) > 4
    assert trained.metrics["ap50"] > 0.5  # what it said itself is the truth; its fainter finds count as wrong
    assert trained.samples
    assert (tmp_path / "precision_recall.png").is_file()


# --- the command


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("torchvision:resnet18", "classifier"),
        ("fcos_resnet50_fpn", "detector"),
        ("fasterrcnn_resnet50_fpn", "detector"),
        ("timm:resnet10t", "classifier"),
        ("model.pt2", "classifier"),
    ],
)
def test_the_kind_is_found_by_looking(source: str, kind: str) -> None:
    assert importing.kind_of(source, {}, trust_pickle=False) == kind


def test_the_kind_of_a_function_of_ones_own_and_of_a_saved_policy_is_found_in_them(own: Callable[[str], str], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "policy.zip", "w") as archive:
        archive.writestr("policy.pth", b"")

    assert importing.kind_of(own("ssd"), {}, trust_pickle=False) == "detector"
    assert importing.kind_of(own("brightest"), {}, trust_pickle=False) == "classifier"
    assert importing.kind_of(str(tmp_path / "policy.zip"), {}, trust_pickle=False) == "policy"
    with pytest.raises(CallError, match="neither a classifier nor a detector"):
        importing.kind_of("deeplabv3_resnet50", {}, trust_pickle=False)
    with pytest.raises(CallError, match=r"policy.zip doesn't say where it learnt; .*training.environment="):
        importing.chosen("pole", {"source": str(tmp_path / "policy.zip")}, None, {}, trust_pickle=False)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("resnet18", "torchvision"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "timm"),
        ("~/a b/net.py:build", "factory"),
        ("package.module:build", "factory"),
        ("x.pt2", "program"),
        ("x.pth", "pickle"),
    ],
)
def test_a_source_says_what_it_is(source: str, expected: str) -> None:
    assert origin(source).kind == expected


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["import", *words])


def test_the_command_writes_a_spec_that_the_next_import_uses_and_leaves_as_it_is(own: Callable[[str], str], home: Path) -> None:
    first = run("colours", "--from", own("brightest"), "--set", "training.image_size=32", "--set", "serving.workers=2", "--json")
    path = home / "models" / "colours.yaml"
    text = path.read_text()
    second = run("colours", "--from", own("brightest"), "--set", "training.mean=[0.5]", "--json")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert text.startswith("# Imported from own.py:brightest.\n")
    assert yaml.safe_load(text)["training"] == {"recipe": "imported_classifier", "source": own("brightest"), "image_size": 32}
    assert yaml.safe_load(text)["serving"] == {"workers": 2}
    assert path.read_text() == text
    assert json.loads(second.stdout.splitlines()[-1])["ok"] is True
    assert spec.load("colours").is_exported
    metadata = json.loads((spec.load("colours").export_dir / "model_metadata.json").read_text())
    assert (metadata["training"]["mean"], metadata["training"]["image_size"], metadata["floor"]) == ([0.5], 32, {})


def test_an_import_that_fails_leaves_no_spec_behind(own: Callable[[str], str], home: Path) -> None:
    done = run("colours", "--from", own("with_a_tuple"))

    assert done.exit_code == 2
    assert list((home / "models").iterdir()) == []


def test_an_import_never_takes_the_place_of_a_model_that_is_trained(home: Path) -> None:
    text = "# Reads.\nkind: classifier\ntraining: {recipe: classifier}\nfloor: {accuracy: 0.9}\n"
    (home / "models" / "digits.yaml").write_text(text)

    with pytest.raises(CallError, match="is there already, a classifier of the recipe classifier; choose another name"):
        importing.chosen("digits", {"source": "resnet18"}, None, {}, trust_pickle=False)

    assert (home / "models" / "digits.yaml").read_text() == text


def test_only_an_import_may_do_without_a_floor(home: Path) -> None:
    (home / "models" / "own.yaml").write_text("# Reads.\nkind: classifier\ntraining: {recipe: classifier}\n")
    (home / "models" / "brought.yaml").write_text("# Reads.\nkind: classifier\ntraining: {recipe: imported_classifier, source: resnet18}\n")

    assert spec.load("brought").floor == {}
    with pytest.raises(CallError, match=r"floor: .*write at least one metric"):
        spec.load("own")


def test_a_floor_holds_for_imports_too(own: Callable[[str], str], home: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "2").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / "2" / "0.png")
    given = {"source": own("brightest"), "data": str(tmp_path / "data")}
    one, _ = importing.chosen("colours", given, None, {"training.image_size": 32, "floor.accuracy": 0.5}, trust_pickle=False)

    with pytest.raises(BelowFloor, match=r"accuracy 0 is below the floor 0.5"):
        importing.bring(one, trust_pickle=False, output=Output(as_json=True))


def test_a_file_is_written_into_the_spec_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("")
    monkeypatch.chdir(tmp_path)

    assert importing.absolute("net.py:build") == f"{tmp_path}/net.py:build"
    assert importing.absolute("net.py") == f"{tmp_path}/net.py"
    assert importing.absolute("torchvision:resnet18") == "torchvision:resnet18"
    assert importing.absolute("IMAGENET1K_V1") == "IMAGENET1K_V1"
