"""Self-supervised pretraining: losses as in the papers, views, representations better than random."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.nn import functional as F

from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from training.data import ImageData, load_images
from training.recipes import classifier
from training.runs.run import Run
from training.vision.classification import inputs, networks
from training.vision.classification.learner import torch_threads
from training.vision.self_supervision.contrastive import Pretraining, info_nce, nt_xent
from training.vision.self_supervision.pretraining import BODY, pretrain
from training.vision.self_supervision.views import Views

LABELS_PER_CLASS = 3
# by which a probe on what was learnt must beat one on an untrained network; measured: see the test
MARGIN = 0.05


def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(one @ two / (one.norm() * two.norm()))


def test_nt_xent_is_the_papers_equation_term_by_term() -> None:
    one, two = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    views, temperature = [*one, *two], 0.3
    expected = 0.0
    for i, view in enumerate(views):
        partner = views[(i + 5) % 10]
        others = sum(math.exp(cosine(view, other) / temperature) for k, other in enumerate(views) if k != i)
        expected -= math.log(math.exp(cosine(view, partner) / temperature) / others) / 10

    assert float(nt_xent(one, two, temperature)) == pytest.approx(expected, rel=1e-5)


def test_info_nce_is_the_papers_equation_term_by_term() -> None:
    queries, keys = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    expected = 0.0
    for i, query in enumerate(queries):
        others = sum(math.exp(cosine(query, key) / 0.2) for key in keys)
        expected -= 2 * 0.2 * math.log(math.exp(cosine(query, keys[i]) / 0.2) / others) / 6

    assert float(info_nce(queries, keys, 0.2)) == pytest.approx(expected, rel=1e-5)


def test_alike_views_of_unlike_pictures_have_the_least_loss() -> None:
    apart = torch.eye(8)

    assert nt_xent(apart, apart, 0.1) < nt_xent(apart, apart.roll(1, 0), 0.1)
    assert nt_xent(apart, apart, 0.1) < nt_xent(torch.ones(8, 8), torch.ones(8, 8), 0.1)
    assert info_nce(apart, apart, 0.1) < info_nce(apart, apart.roll(1, 0), 0.1)


@pytest.mark.parametrize("shape", [(6, 3, 40, 52), (6, 1, 40, 52), (2, 3, 100, 100)])
def test_a_view_is_a_part_of_the_picture_and_never_the_same_twice(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)

    one, two = Views()(images), Views()(images)

    assert one.shape == two.shape == shape
    assert one.dtype == torch.float32
    assert 0 <= float(one.min()) <= float(one.max()) <= 255
    assert all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_without_colour_and_mirror_the_left_stays_left_and_tones_stay() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(10, 200, 64).round().to(torch.uint8).expand(32, 3, 64, 64)

    plain, mirrored = Views(mirror=False, colour=0.0)(ramp), Views(mirror=True, colour=0.0)(ramp)

    rises = plain.diff(dim=3)[..., 2:-2].mean((1, 2, 3))
    assert (rises > 0).all()
    assert 5 < int((mirrored.diff(dim=3)[..., 2:-2].mean((1, 2, 3)) > 0).sum()) < 27
    assert plain.min() >= 9
    assert plain.max() <= 201


def test_a_grey_picture_stays_grey_in_any_hue() -> None:
    torch.manual_seed(0)
    grey = torch.randint(0, 256, (8, 1, 20, 20), dtype=torch.uint8).expand(-1, 3, -1, -1)

    views = Views(colour=1.0)(grey)

    assert (views - views.mean(1, keepdim=True)).abs().max() < 0.05


def few_labels(table: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Rows of LABELS_PER_CLASS pictures of each class, int64."""
    return torch.cat([(labels == index).nonzero()[:LABELS_PER_CLASS, 0] for index in range(10)])


def probe(model: networks.Classifier, config: ImageInput, data: ImageData) -> float:
    """Accuracy on the test split of logistic regression on the standardised features of a few labelled
    pictures.
    """
    with torch.no_grad():
        splits = [inputs.pixels(part, config).tensors for part in (data.train, data.test)]
        (train, labels), (test, truth) = [
            (model.eval().features(images), labels) for images, labels in splits
        ]
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    rows = few_labels(train, labels)
    features, targets = (train[rows] - mean) / deviation, labels[rows]
    weights = torch.zeros(train.shape[1], 10, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weights, targets) + 1e-3 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return float((((test - mean) / deviation @ weights).argmax(1) == truth).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_linear_probe_is_better_on_self_supervised_features(method: str, tmp_path: Path) -> None:
    """A linear probe of thirty labels does better on features that were learned without labels."""
    data = load_images("digits", 0)  # real handwriting
    torch.manual_seed(0)
    model, config = classifier._network(classifier.Settings(), data)
    untrained = probe(model, config, data)

    with torch_threads(1):
        about = pretrain(
            model,
            data.train,
            config,
            classifier.Settings(pretraining=Pretraining(method=method, epochs=25, batch_size=128)),
            Run(tmp_path),
        )
    learnt = probe(model, config, data)

    assert learnt > untrained + MARGIN, (untrained, learnt)
    assert about["pretraining_pictures"] == len(data.train)
    assert (tmp_path / "pretraining.png").is_file()
    other, _ = classifier._network(classifier.Settings(weights=str(tmp_path / BODY)), data)
    pixels = torch.randint(0, 256, (2, 1, config.height, config.width), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(other.eval().features(pixels), model.features(pixels))


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Two classes of small pictures, and unlabelled ones beside them, one of them damaged."""
    for place, many in (("data/left", 14), ("data/right", 14), ("more/below", 12)):
        (tmp_path / place).mkdir(parents=True)
        for number in range(many):
            values = np.random.default_rng(number).integers(0, 90, (24, 32, 3), np.uint8)
            values[:, slice(0, 16) if "left" in place else slice(16, 32)] += 150
            Image.fromarray(values).save(tmp_path / place / f"{number}.png")
    (tmp_path / "more" / "broken.png").write_bytes(b"\x89PNG broken")
    return tmp_path


def test_recipe_pretrains_on_unlabeled_pictures_and_freezes(
    halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe takes unlabeled pictures and continues with a frozen body."""
    monkeypatch.setenv("MARINA_HOME", str(halves))
    pretraining = {"method": "moco", "unlabelled": str(halves / "more"), "epochs": 2, "batch_size": 16}
    settings = classifier.Settings(
        data=str(halves / "data"),
        image_size=32,
        horizontal_flip=False,
        freeze=True,
        augmentation="none",
        epochs=2,
        pretraining=pretraining,
    )

    trained = classifier.train(settings, Run(halves / "report"))

    assert trained.training["pretraining_pictures"] == trained.data["train"] + 12
    assert trained.training["pretraining_loss"] > 0
    assert (halves / "report" / BODY).is_file()


@pytest.mark.parametrize(
    ("pretraining", "words"),
    [
        ({"batch_size": 64}, "has 20 pictures and a batch of 64"),
        ({"unlabelled": "nowhere"}, "no folder nowhere"),
    ],
)
def test_pictures_that_are_missing_are_asked_for(
    pretraining: dict[str, object], words: str, halves: Path
) -> None:
    settings = classifier.Settings(data=str(halves / "data"), image_size=32, pretraining=pretraining)

    with pytest.raises(CallError, match=words):
        classifier.train(settings, Run(halves / "report"))


def test_a_frozen_body_must_have_learnt_somewhere() -> None:
    with pytest.raises(ValidationError, match="or 'pretraining'"):
        classifier.Settings(freeze=True)

    assert classifier.Settings(freeze=True, pretraining={}).pretraining == Pretraining()
