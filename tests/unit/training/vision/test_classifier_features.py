"""Features of a frozen body: computed once, cached by what they depend on, averaged over mirror images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.kinds.explanations import GradCam
from marina.core.errors import CallError
from tests.support.picture_files import striped_pictures
from training.export.trained import Trained
from training.recipes import classifier
from training.runs.run import Run
from training.vision.classification import networks

SIDE = 32


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return striped_pictures(tmp_path_factory.mktemp("stripes"), SIDE)


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a SqueezeNet, which has no batch statistics, drawn at random."""
    torch.manual_seed(0)
    source = networks.build("squeezenet1_1", "none", 3, 3, networks.preset_of("squeezenet1_1", "none", SIDE))
    path = tmp_path_factory.mktemp("weights") / "body.pth"
    torch.save(source.network.state_dict(), path)
    return str(path)


def head_alone(stripes: Path, body: str, report: Path, **changes: object) -> Trained:
    said = {
        "data": str(stripes),
        "architecture": "squeezenet1_1",
        "weights": body,
        "freeze": True,
        "image_size": SIDE,
        "epochs": 2,
    }
    return classifier.train(classifier.Settings(**{**said, **changes}), Run(report))  # type: ignore[arg-type]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of pictures of every pass through a body, but for a lone one that shows the shape."""
    seen: list[int] = []
    whole = networks.Classifier.features

    def features(self: networks.Classifier, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:
            seen.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(networks.Classifier, "features", features)
    return seen


def test_features_of_a_frozen_body_are_computed_once(
    stripes: Path, body: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    first = head_alone(stripes, body, tmp_path, cached_views=3)
    passes = sum(seen)
    second = head_alone(stripes, body, tmp_path, cached_views=3)

    assert passes == 3 * 42 + 9 + 9
    assert sum(seen) == passes
    assert second.metrics == first.metrics
    assert torch.equal(second.module(*second.example), first.module(*first.example))
    assert len(list((home / "cache" / "features").iterdir())) == 3


def test_features_are_cached_by_pictures_weights_and_views(
    stripes: Path, body: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other pictures, weights or views are computed again, but not other learning rates."""
    seen = counted(monkeypatch)
    other = torch.load(body)
    other["features.0.weight"] += 0.1
    torch.save(other, tmp_path / "other.pth")
    passes = []
    for changes in (
        {},
        {"learning_rate": 0.1},
        {"cached_views": 2},
        {"weights": str(tmp_path / "other.pth")},
        {"resize": "stretch"},
    ):
        before = sum(seen)
        head_alone(stripes, body, tmp_path / "report", **{"cached_views": 1, **changes})
        passes.append(sum(seen) - before)

    assert passes == [60, 0, 84, 60, 60]


def test_a_damaged_file_of_features_is_written_again(
    stripes: Path, body: str, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = head_alone(stripes, body, tmp_path, cached_views=1)
    for file in (home / "cache" / "features").iterdir():
        file.write_bytes(file.read_bytes()[:50])

    assert head_alone(stripes, body, tmp_path, cached_views=1).metrics == first.metrics
    assert "is damaged" in caplog.text


def test_features_without_room_are_refused_with_what_to_do(stripes: Path, body: str, home: Path) -> None:
    with pytest.raises(CallError, match="fewer cached_views"):
        head_alone(stripes, body, home, cached_views=2, memory_gb=0, cache_gb=0)


@pytest.mark.slow
def test_head_on_real_features_knows_food_and_reuses_the_cache(
    shared_data: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new head on real features recognizes food, and learns again within a moment."""
    monkeypatch.setenv("TORCH_HOME", str(shared_data / "weights"))
    seen = counted(monkeypatch)
    said = {
        "data": str(shared_data / "pizza_steak_sushi"),
        "architecture": "mobilenet_v2",
        "weights": "IMAGENET1K_V1",
        "freeze": True,
    }
    first = classifier.train(classifier.Settings(**said, learning_rate=0.01), Run(tmp_path))
    passes = sum(seen)
    classifier.train(classifier.Settings(**said, learning_rate=0.02), Run(tmp_path))  # type: ignore[arg-type]

    assert first.metrics["accuracy"] >= 0.92
    assert sum(seen) == passes > 0


@pytest.mark.slow
def test_pneumonia_is_found_as_surely_as_was_asked_for(shared_data: Path, tmp_path: Path) -> None:
    file = str(shared_data / "pneumoniamnist" / "pneumoniamnist.npz")
    settings = classifier.Settings(
        data=file,
        image_size=28,
        horizontal_flip=False,
        epochs=3,
        class_balance="weights",
        operating_point={"class": "pneumonia", "recall": 0.97},
    )
    trained = classifier.train(settings, Run(tmp_path))

    assert trained.classes == ["normal", "pneumonia"]
    assert trained.preprocess["mode"] == "L"
    assert trained.metrics["recall_pneumonia"] >= 0.95
    assert trained.metrics["auroc"] > 0.9


def test_flip_tta_averages_answers_and_keeps_explanations() -> None:
    """Answers are averaged over the mirror image outside of training, and can still be explained."""
    model = networks.build(
        "squeezenet1_1", "none", 3, 3, networks.preset_of("squeezenet1_1", "none", 64)
    ).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        there, back = model(images), model(images.flip(-1))
    model.both_ways = True
    batch = torch.export.Dim("batch", min=1, max=8)
    graph = torch.export.export(model, (images,), dynamic_shapes=({0: batch},), strict=False).module()

    assert torch.allclose(model(images), (there + back) / 2, atol=1e-5)
    assert torch.allclose(graph(images[:1]), model(images[:1]), atol=1e-5)
    assert GradCam(graph)(images[:1]).method == "grad-cam"
    with pytest.raises(CallError, match="ends in a linear layer"):
        model.features(images)


def test_the_head_of_averaged_features_gives_the_averaged_logits() -> None:
    model = networks.build("small_cnn", "none", 3, 3, networks.preset_of("small_cnn", "none", 32)).eval()
    model.both_ways = True
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)

    with torch.no_grad():
        assert model.features(images).shape == (4, 128)
        assert torch.allclose(networks.Head(model.heads[0])(model.features(images)), model(images), atol=1e-5)


@pytest.mark.parametrize("said", [{"horizontal_flip": False}, {"data": "digits"}])
def test_flip_tta_is_refused_where_a_mirror_image_differs(said: dict[str, Any], tmp_path: Path) -> None:
    """Averaging over the mirror image is refused where it shows another thing."""
    with pytest.raises((ValueError, CallError), match="flip_tta"):
        classifier.train(classifier.Settings(flip_tta=True, **said), Run(tmp_path))
