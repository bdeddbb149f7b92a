"""The classifier's learner: frozen layers stay, schedules, augmentation, and settings that must agree."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from handlers.inputs.images import ImageInput
from marina.core import paths, spec
from marina.core.errors import CallError
from marina.core.spec import validate
from tests.support.picture_files import striped_pictures
from training.data import load_images
from training.recipes import classifier
from training.runs.run import Run
from training.runs.schedules import rate_share
from training.train import settings_of
from training.vision.classification import inputs, networks
from training.vision.classification.augmentation import add_fourier_noise, augmentation, mix
from training.vision.classification.learner import Learner, Shuffled, balanced_weights, fit
from training.vision.classification.settings import ClassifierSettings

SIDE = 32


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return striped_pictures(tmp_path_factory.mktemp("stripes"), SIDE)


def noise(count: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (count, channels, SIDE, SIDE),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(count),
    )


def small(classes: int = 3) -> networks.Classifier:
    torch.manual_seed(0)
    return networks.build("small_cnn", "none", classes, 3, networks.preset_of("small_cnn", "none", SIDE))


def learnt(model: networks.Classifier, count: int = 24, **settings: object) -> Learner:
    """A learner after its epochs on noise."""
    chosen = ClassifierSettings(**{"batch_size": 8, "epochs": 1, **settings})  # type: ignore[arg-type]
    pictures = TensorDataset(noise(count), torch.arange(count) % 3)
    learner = Learner(model, model.stages(), chosen)
    with tempfile.TemporaryDirectory() as report:
        fit(learner, pictures, pictures, Run(Path(report)), threads=1)
    return learner


FAMILIES = [
    *(
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "mnasnet0_5",
        "mobilenet_v2",
    ),
    *(
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnet18",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "vgg11",
        "vit_b_16",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_gets_its_head_its_stages_and_a_graph_that_equals_it(architecture: str) -> None:
    size = {"inception_v3": 80, "alexnet": 64, "googlenet": 64, "vit_b_16": 224}.get(architecture, 32)
    torch.manual_seed(0)
    model = networks.build(architecture, "none", 5, 3, networks.preset_of(architecture, "none", size)).eval()
    model.temperature = 2.0
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    graph = torch.export.export(model, (images,), dynamic_shapes=(batch,), strict=False).module()
    stages = model.stages()
    parts = [*stages, networks.Stage([model.heads[0]], list(model.heads[0].parameters()))]
    with torch.no_grad():
        logits, of_head = model(images), networks.Head(model.heads[0])(model.features(images))

    assert logits.shape == (2, 5)
    assert torch.allclose(of_head / 2, logits, atol=1e-5)
    assert torch.allclose(graph(images[:1]), logits[:1], atol=1e-4)
    assert 4 <= len(stages) <= 30
    assert sorted(id(one) for part in parts for one in part.parameters) == sorted(
        id(one) for one in model.network.parameters()
    )


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_head_on_features_gives_what_the_network_gives(architecture: str) -> None:
    model = networks.build(architecture, "none", 5, 1, networks.preset_of(architecture, "none", SIDE)).eval()
    images = noise(3, channels=1)
    with torch.no_grad():
        of_head = networks.Head(model.heads[0])(model.features(images))

        assert torch.allclose(of_head, model(images), atol=1e-5)


def test_stages_cover_the_body_once_and_in_order() -> None:
    """Stages cover the body once and in order, with norms beside their layers."""
    model = small()
    stages = model.stages()
    weights = [one for stage in stages for one in stage.parameters] + list(model.heads[0].parameters())

    assert len(stages) == 6
    assert [id(one) for one in weights] == [id(one) for one in model.network.parameters()]


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def test_open_stages_alone_learn_and_frozen_statistics_stay() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learnt(model, freeze=True, weights="some.pth", unfrozen_stages=1)
    last = max(int(name.split(".")[1]) for name in before if name.endswith("running_mean"))

    # convolution, norm, head
    assert {int(name.split(".")[1]) for name in changed(before, model)} == {last - 1, last, last + 6}


def test_gradual_unfreezing_opens_one_stage_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, frozen = small(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(Learner, "on_train_epoch_end", lambda self: frozen.append(len(self._frozen())))
    learnt(
        model,
        freeze=True,
        weights="some.pth",
        unfreeze_every=1,
        epochs=3,
        learning_rate=0.05,
        ema_decay=0.0,
    )
    convolutions = [int(name.split(".")[1]) for name in before if before[name].ndim == 4]

    assert frozen == [6, 5, 4]
    assert {int(name.split(".")[1]) for name in changed(before, model)} & set(convolutions) <= set(
        convolutions[-2:]
    )


def test_layers_learn_the_slower_the_further_they_are_from_the_head() -> None:
    model = small()
    rates = Learner(
        model, model.stages(), ClassifierSettings(layer_decay=0.5, learning_rate=0.8)
    ).parameter_groups()

    assert [round(rate, 4) for rate in rates] == [0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125]
    assert sum(len(weights) for weights in rates.values()) == len(list(model.parameters()))


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "plateau", "constant"])
def test_every_schedule_trains_and_leaves_finite_weights(schedule: str) -> None:
    learner = learnt(small(), schedule=schedule, epochs=2)

    assert len(learner.history) == 2
    assert all(bool(value.isfinite().all()) for value in learner.model.state_dict().values())


def test_cosine_rises_and_falls_and_step_goes_down_by_tenths() -> None:
    cosine, step = ClassifierSettings(schedule="cosine", warmup=0.1), ClassifierSettings(schedule="step")

    assert [round(rate_share(cosine, done), 2) for done in (0.05, 0.1, 0.55, 1.0)] == [0.5, 1.0, 0.5, 0.0]
    assert [rate_share(step, done) for done in (0.5, 0.7, 0.9)] == [1.0, 0.1, 0.01]


def test_patience_ends_the_training_when_nothing_gets_better() -> None:
    learner = learnt(small(), epochs=30, patience=2, learning_rate=1e-8, ema_decay=0.0)

    assert len(learner.history) == learner.best_epoch + 2 < 30


def test_bfloat16_trains() -> None:
    assert np.isfinite(learnt(small(), precision="bfloat16").history[0]["validation_loss"])


def test_rare_classes_weigh_as_much_as_common_ones_and_are_drawn_as_often() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = balanced_weights(labels, 2)
    torch.manual_seed(0)
    drawn = torch.cat([rows for _, rows in Shuffled(TensorDataset(labels, labels), 100, balanced=True)])

    assert float(weights[0]) * 90 == pytest.approx(float(weights[1]) * 10)
    assert 30 < int(drawn.sum()) < 70


@pytest.mark.parametrize("kind", ["light", "randaugment", "trivialaugment"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_augmentation_varies_pictures_and_keeps_their_form(kind: str, mode: str) -> None:
    images = noise(4, 3 if mode == "RGB" else 1)
    config = ImageInput(SIDE, SIDE, mode=mode, fit="crop", resize=SIDE)  # type: ignore[arg-type]
    varied = augmentation(ClassifierSettings(augmentation=kind), config)(images)  # type: ignore[arg-type]

    assert (varied.shape, varied.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(varied, images)


def test_a_disturbed_spectrum_keeps_the_mean_and_grows_with_its_deviation() -> None:
    images = torch.randint(90, 160, (16, 3, SIDE, SIDE), dtype=torch.uint8)
    little, much = (add_fourier_noise(images, deviation).float() - images.float() for deviation in (0.1, 1.0))

    assert float(little.mean().abs()) < 0.2
    assert 0 < float(little.abs().mean()) < float(much.abs().mean()) < 60
    assert torch.equal(add_fourier_noise(images, 0.0), images)


@pytest.mark.parametrize("kinds", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_mixed_pictures_carry_the_shares_of_their_classes(kinds: tuple[str, ...]) -> None:
    mixed = mix(ClassifierSettings(**dict.fromkeys(kinds, True)), 3)  # type: ignore[arg-type]
    assert mixed is not None
    images, shares = mixed(noise(6).float(), torch.arange(6) % 3)

    assert images.shape == (6, 3, SIDE, SIDE)
    assert torch.allclose(shares.sum(1), torch.ones(6))
    assert np.isfinite(learnt(small(), **dict.fromkeys(kinds, True)).history[0]["train_loss"])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"freeze": True}, ["needs 'weights'"]),
        ({"unfrozen_stages": 2}, ["freeze: true"]),
        ({"cached_views": 3}, ["stays frozen"]),
        ({"freeze": True, "weights": "DEFAULT", "mixup": True}, ["kept features", "unfrozen_stages: 1"]),
        (
            {"freeze": True, "weights": "DEFAULT", "augmentation": "none", "cached_views": 3},
            ["all 3 views are the same"],
        ),
        ({"schedule": "step", "warmup": 0.1}, ["warmup"]),
        ({"schedule": "cyclic"}, ["one_cycle", "plateau"]),
        ({"learning_rat": 1}, ["unknown key", "learning_rate"]),
    ],
)
def test_settings_that_do_not_agree_are_refused_in_words(
    said: dict[str, object], words: Sequence[str]
) -> None:
    with pytest.raises(CallError) as caught:
        validate(classifier.Settings, said, "models/own.yaml: training")

    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_photo_augmentation_of_ink_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="say light, or none"):
        classifier.train(classifier.Settings(augmentation="randaugment"), Run(tmp_path))


def test_a_decision_for_a_class_that_is_not_there_is_refused(stripes: Path, tmp_path: Path) -> None:
    settings = classifier.Settings(
        data=str(stripes), image_size=16, epochs=1, operating_point={"class": "up", "recall": 0.9}
    )
    with pytest.raises(CallError, match="no class 'up'; the data has left, middle, right"):
        classifier.train(settings, Run(tmp_path))


def test_a_decision_is_measured_as_it_is_served(stripes: Path, tmp_path: Path) -> None:
    settings = classifier.Settings(
        data=str(stripes), image_size=16, epochs=2, operating_point={"class": "middle", "recall": 1.0}
    )
    trained = classifier.train(settings, Run(tmp_path))
    decision = trained.postprocess["decision"]
    assert trained.classes is not None
    config = ImageInput.from_config(trained.preprocess)
    data = load_images(str(stripes), 0)
    own = torch.stack([inputs.picture(example, config) for example in data.test if example.label == 1])
    found = trained.module(own).softmax(1)[:, 1] >= decision["threshold"]

    assert decision["class_index"] == 1
    assert trained.metrics["recall_middle"] == pytest.approx(float(found.float().mean()))


@pytest.mark.parametrize(
    "file", sorted((paths.SOURCE / "docs" / "recipes").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_recipe_of_the_docs_is_a_spec(file: Path) -> None:
    one = spec.parse(file.read_text(encoding="utf-8"), file.stem, str(file))

    # defaults go into the others
    plain = {key: value for key, value in one.training.settings.items() if not isinstance(value, dict)}
    assert plain.items() <= settings_of(one).model_dump(mode="json").items()
    assert one.floor


def test_four_steps_in_all_are_enough_for_the_one_cycle(tmp_path: Path) -> None:
    pictures = TensorDataset(torch.randn(8, 4), torch.arange(8) % 2)
    learner = Learner(torch.nn.Linear(4, 2), [], ClassifierSettings(epochs=1, batch_size=2))
    fit(learner, pictures, pictures, Run(tmp_path), threads=1)

    assert len(learner.history) == 1
