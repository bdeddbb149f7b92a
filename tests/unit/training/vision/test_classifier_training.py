"""The classifier recipe: the served model equals the evaluated one, trainings are reproducible and leave no
files behind.
"""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from handlers.inputs.images import ImageInput, open_image, prepare
from marina.core.errors import CallError
from training.data import digits
from training.export.trained import Trained
from training.recipes import classifier
from training.runs.run import Run
from training.vision.classification import networks
from training.vision.classification.augmentation import vary_strokes


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifier")


@pytest.fixture(scope="module")
def trained(elsewhere: Path) -> Trained:
    """Two epochs of the digits, trained in an empty working directory."""
    work = elsewhere / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("MARINA_HOME", str(elsewhere))
        return classifier.train(classifier.Settings(epochs=2), Run(elsewhere / "report", seed=3))


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder of two classes, bright left and bright right, 24 x 32 in colour."""
    for name, half in (("Left side", slice(0, 16)), ("right", slice(16, 32))):
        for number in range(14):
            values = np.random.default_rng(number).integers(0, 90, (24, 32, 3), np.uint8)
            values[:, half] += 150
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    return tmp_path


def graph(module: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    return torch.export.export(module, (example,), dynamic_shapes=(batch,), strict=False).module()


def network(
    architecture: str, weights: str = "none", channels: int = 3, size: int | None = None
) -> networks.Classifier:
    preset = networks.preset_of(architecture, weights, size)
    return networks.build(architecture, weights, 5, channels, preset)


def test_two_epochs_learn_far_above_chance(trained: Trained) -> None:
    assert trained.metrics["accuracy"] > 0.7
    assert set(trained.metrics) == {"accuracy", "macro_f1", "auroc", "ece", "ece_uncalibrated"}


def test_the_same_seed_gives_the_same_metrics_and_weights(trained: Trained, tmp_path: Path) -> None:
    again = classifier.train(classifier.Settings(epochs=2), Run(tmp_path, seed=3))

    assert again.metrics == trained.metrics
    assert torch.equal(again.module(*trained.example), trained.module(*trained.example))


def test_nothing_is_left_in_the_working_directory(trained: Trained, elsewhere: Path) -> None:
    assert trained.classes is not None
    assert list((elsewhere / "work").iterdir()) == []


def test_the_report_holds_its_pictures(trained: Trained, elsewhere: Path) -> None:
    assert trained.kind == "classifier"
    for name in ("curves", "confusion", "reliability", "mistakes"):
        with Image.open(elsewhere / "report" / f"{name}.png") as picture:
            assert min(picture.size) > 200


def test_the_exported_graph_equals_eager_for_every_batch(trained: Trained) -> None:
    exported = graph(trained.module, trained.example[0])
    for count in (1, 2, 7, 64):
        images = trained.example[0].repeat(8, 1, 1, 1)[:count]

        assert torch.allclose(exported(images), trained.module(images), atol=1e-5)


def test_samples_are_right_and_go_round_the_classes(trained: Trained) -> None:
    """Samples are answered correctly from their bytes and go round the classes."""
    assert trained.classes is not None
    config = ImageInput.from_config(trained.preprocess)
    for sample in trained.samples:
        image = torch.from_numpy(prepare(open_image(sample.body, config.mode), config))
        answer = trained.classes[int(trained.module(image[None]).argmax())]

        assert {"class": answer} == sample.expect
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", sample.name)
    assert len({sample.name for sample in trained.samples}) == len(trained.samples) == 64
    assert {sample.name for sample in trained.samples[:10]} == {f"digit-{figure}" for figure in range(10)}


def test_the_reported_accuracy_is_that_of_the_module_on_the_test_split(trained: Trained) -> None:
    config = ImageInput.from_config(trained.preprocess)
    test = digits.load().test
    images = torch.from_numpy(
        np.stack([prepare(Image.fromarray(np.asarray(example.image)), config) for example in test])
    )
    right = trained.module(images).argmax(1) == torch.tensor([example.label for example in test])

    assert float(right.float().mean()) == pytest.approx(trained.metrics["accuracy"], abs=1e-6)


def test_varied_strokes_differ_but_keep_their_form() -> None:
    pixels = [
        np.array(Image.fromarray(np.asarray(example.image)).resize((16, 16)))
        for example in digits.load().train[:32]
    ]
    images = torch.from_numpy(np.stack(pixels))
    varied = vary_strokes(images[:, None])

    assert (varied.shape, varied.dtype) == ((32, 1, 16, 16), torch.uint8)
    assert 5 < (varied.float() - images[:, None].float()).abs().mean() < 80


def test_a_folder_trains_with_names_that_suit_addresses(shapes: Path, tmp_path: Path) -> None:
    settings = classifier.Settings(data=str(shapes), image_size=16, epochs=2, horizontal_flip=False)
    trained = classifier.train(settings, Run(tmp_path / "report"))

    assert trained.classes == ["Left side", "right"]
    assert trained.postprocess == {"type": "classification", "top_k": 2}
    assert {sample.name.rsplit("-", 1)[0] for sample in trained.samples} <= {"left-side", "right"}
    assert trained.preprocess["fit"] == "crop"


def test_a_new_head_alone_leaves_the_body_as_it_was(shapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = networks.build("squeezenet1_1", "none", 2, 3, networks.preset_of("squeezenet1_1", "none", 32))
    torch.save(source.network.state_dict(), tmp_path / "body.pth")
    settings = classifier.Settings(
        data=str(shapes),
        architecture="squeezenet1_1",
        weights=str(tmp_path / "body.pth"),
        freeze=True,
        image_size=32,
        epochs=1,
    )
    trained = classifier.train(settings, Run(tmp_path / "report"))
    before, after = source.network.state_dict(), trained.module.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}

    assert changed == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize(
    "architecture", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet", "squeezenet1_1"]
)
def test_the_head_is_replaced_in_every_family(architecture: str) -> None:
    model = network(architecture, size=64)

    assert model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 5)


def test_a_network_of_torchvision_exports_and_equals_eager() -> None:
    model = network("squeezenet1_1", size=32).eval()
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)

    assert torch.allclose(graph(model, images)(images[:1]), model(images[:1]), atol=1e-4)


def test_a_grey_picture_is_repeated_for_a_network_of_colour() -> None:
    model = network("mobilenet_v3_small", channels=1, size=32).eval()
    grey = torch.randint(0, 255, (2, 1, 32, 32), dtype=torch.uint8)

    assert torch.equal(model(grey), model(grey.repeat(1, 3, 1, 1)))


def test_serving_equals_the_evaluation_transform_of_the_weights() -> None:
    preset = networks.preset_of("mobilenet_v2", "IMAGENET1K_V1", None)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)).resize(
        (400, 300), Image.Resampling.BICUBIC
    )
    ours = (
        torch.from_numpy(
            prepare(image, ImageInput(preset.crop, preset.crop, fit="crop", resize=preset.resize))
        )
        / 255
    )
    ours = (ours - torch.tensor(preset.mean)[:, None, None]) / torch.tensor(preset.std)[:, None, None]
    theirs = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()(image)

    assert float((ours - theirs).abs().mean()) < 0.03  # 0.5 of 255 levels are 0.01 here


def test_weights_of_a_file_are_loaded_but_for_a_head_of_other_classes(tmp_path: Path) -> None:
    source = torchvision.models.mobilenet_v3_small(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "seven.pth")
    model = network("mobilenet_v3_small", str(tmp_path / "seven.pth")).eval()

    assert torch.equal(
        model.network.state_dict()["features.0.0.weight"], source.state_dict()["features.0.0.weight"]
    )
    assert model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 5)


def test_safetensors_are_read(tmp_path: Path) -> None:
    source = networks.SmallCNN(3, 5).state_dict()
    header, blob = {"__metadata__": {"format": "pt"}}, b""
    for name, value in source.items():
        data = value.numpy().tobytes()
        kind = "I64" if value.dtype == torch.int64 else "F32"
        header[name] = {
            "dtype": kind,
            "shape": list(value.shape),
            "data_offsets": [len(blob), len(blob) + len(data)],
        }  # type: ignore[dict-item]
        blob += data
    text = json.dumps(header).encode()
    (tmp_path / "small.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + blob)
    model = network("small_cnn", str(tmp_path / "small.safetensors"))

    assert all(torch.equal(value, source[name]) for name, value in model.network.state_dict().items())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "other.pth")
    with pytest.raises(CallError, match="don't fit"):
        network("resnet18", str(tmp_path / "other.pth"))


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights at all, but long enough")
    with pytest.raises(CallError, match="save it"):
        network("resnet18", str(tmp_path / name))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "resnet19"}, "resnet18"),
        ({"architecture": "fasterrcnn_resnet50_fpn"}, "unknown architecture"),
        ({"architecture": "resnet18", "weights": "IMAGENET"}, "IMAGENET1K_V1"),
        ({"architecture": "resnet18", "weights": "missing.pth"}, "no such file"),
        ({"data": "nowhere"}, "neither"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=said):
        classifier.train(classifier.Settings(**changes), Run(tmp_path))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_weights")
def test_weights_that_cannot_be_downloaded_name_their_place() -> None:
    """Weights that cannot be downloaded are refused with the place to put them."""
    with pytest.raises(CallError, match=r"resnet18-\w+\.pth into .*checkpoints"):
        network("resnet18", "DEFAULT")


def test_photos_are_prepared_and_learnt_from_scratch(shared_data: Path, tmp_path: Path) -> None:
    settings = classifier.Settings(data=str(shared_data / "pizza_steak_sushi"), image_size=24, epochs=1)
    trained = classifier.train(settings, Run(tmp_path))

    assert trained.classes == ["pizza", "steak", "sushi"]
    assert trained.example[0].shape == (8, 3, 24, 24)
