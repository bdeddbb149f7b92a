"""How a classifier learns: what is frozen stays, schedules run as they say, features are kept, settings agree with each other."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from marina import paths, spec
from marina.errors import CallError
from marina.spec import validated
from training import classifier, datasets
from training.classification import inputs, networks
from training.classification.augmentation import augmentation, disturb_spectrum, mix
from training.classification.learner import Learner, Shuffled, balanced_weights, fit, rate_share
from training.classification.settings import Learning
from training.train import settings_of
from training.trained import Trained

from bundle_explanations import GradCam
from bundle_images import ImageInput

SIDE = 32
CONFIG = ImageInput(SIDE, SIDE, fit="crop", resize=SIDE)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 pictures 32 x 32: bright at the left, in the middle, at the right."""
    folder = tmp_path_factory.mktemp("stripes")
    for place, name in enumerate(("left", "middle", "right")):
        (folder / name).mkdir()
        for number in range(20):
            values = np.random.default_rng(100 * place + number).integers(0, 120, (SIDE, SIDE, 3), np.uint8)
            values[:, 11 * place : 11 * place + 10] += 120
            Image.fromarray(values).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a SqueezeNet, which has no batch statistics, drawn at random."""
    torch.manual_seed(0)
    source = networks.build("squeezenet1_1", "none", 3, 3, networks.preset_of("squeezenet1_1", "none", SIDE))
    path = tmp_path_factory.mktemp("weights") / "body.pth"
    torch.save(source.network.state_dict(), path)
    return str(path)


def noise(count: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def small(classes: int = 3) -> networks.Classifier:
    torch.manual_seed(0)
    return networks.build("small_cnn", "none", classes, 3, networks.preset_of("small_cnn", "none", SIDE))


def learnt(model: networks.Classifier, count: int = 24, **settings: object) -> Learner:
    """A learner after its epochs on noise."""
    chosen = Learning(**{"batch_size": 8, "epochs": 1, **settings})  # type: ignore[arg-type]
    pictures = TensorDataset(noise(count), torch.arange(count) % 3)
    learner = Learner(model, model.stages(), chosen)
    fit(learner, pictures, pictures, threads=1)
    return learner


FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_16"),
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
    assert sorted(id(one) for part in parts for one in part.parameters) == sorted(id(one) for one in model.network.parameters())


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_head_on_features_gives_what_the_network_gives(architecture: str) -> None:
    model = networks.build(architecture, "none", 5, 1, networks.preset_of(architecture, "none", SIDE)).eval()
    images = noise(3, channels=1)
    with torch.no_grad():
        of_head = networks.Head(model.heads[0])(model.features(images))

        assert torch.allclose(of_head, model(images), atol=1e-5)


def test_stages_cover_the_body_once_in_order_with_norms_beside_their_layers() -> None:
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

    assert {int(name.split(".")[1]) for name in changed(before, model)} == {last - 1, last, last + 6}  # convolution, norm, head


def test_gradual_unfreezing_opens_one_stage_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, frozen = small(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(Learner, "on_train_epoch_end", lambda self: frozen.append(len(self._frozen())))
    learnt(model, freeze=True, weights="some.pth", unfreeze_every=1, epochs=3, learning_rate=0.05, average_decay=0.0)
    convolutions = [int(name.split(".")[1]) for name in before if before[name].ndim == 4]

    assert frozen == [6, 5, 4]
    assert {int(name.split(".")[1]) for name in changed(before, model)} & set(convolutions) <= set(convolutions[-2:])


def test_layers_learn_the_slower_the_further_they_are_from_the_head() -> None:
    model = small()
    rates = Learner(model, model.stages(), Learning(layer_decay=0.5, learning_rate=0.8))._rates()

    assert [round(rate, 4) for rate in rates] == [0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125]
    assert sum(len(weights) for weights in rates.values()) == len(list(model.parameters()))


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "plateau", "constant"])
def test_every_schedule_trains_and_leaves_finite_weights(schedule: str) -> None:
    learner = learnt(small(), schedule=schedule, epochs=2)

    assert len(learner.history) == 2
    assert all(bool(value.isfinite().all()) for value in learner.model.state_dict().values())


def test_cosine_rises_and_falls_and_step_goes_down_by_tenths() -> None:
    cosine, step = Learning(schedule="cosine", warm_up=0.1), Learning(schedule="step")

    assert [round(rate_share(cosine, done), 2) for done in (0.05, 0.1, 0.55, 1.0)] == [0.5, 1.0, 0.5, 0.0]
    assert [rate_share(step, done) for done in (0.5, 0.7, 0.9)] == [1.0, 0.1, 0.01]


def test_patience_ends_the_training_when_nothing_gets_better() -> None:
    learner = learnt(small(), epochs=30, patience=2, learning_rate=1e-8, average_decay=0.0)

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
    varied = augmentation(Learning(augmentation=kind), config)(images)  # type: ignore[arg-type]

    assert (varied.shape, varied.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(varied, images)


def test_a_disturbed_spectrum_keeps_the_mean_and_grows_with_its_deviation() -> None:
    images = torch.randint(90, 160, (16, 3, SIDE, SIDE), dtype=torch.uint8)
    little, much = (disturb_spectrum(images, deviation).float() - images.float() for deviation in (0.1, 1.0))

    assert float(little.mean().abs()) < 0.2
    assert 0 < float(little.abs().mean()) < float(much.abs().mean()) < 60
    assert torch.equal(disturb_spectrum(images, 0.0), images)


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "either"])
def test_mixed_pictures_carry_the_shares_of_their_classes(kind: str) -> None:
    mixed = mix(Learning(mix=kind), 3)  # type: ignore[arg-type]
    assert mixed is not None
    images, shares = mixed(noise(6).float(), torch.arange(6) % 3)

    assert images.shape == (6, 3, SIDE, SIDE)
    assert torch.allclose(shares.sum(1), torch.ones(6))
    assert np.isfinite(learnt(small(), mix=kind).history[0]["train_loss"])


def head_alone(stripes: Path, body: str, report: Path, **changes: object) -> Trained:
    said = {"data": str(stripes), "architecture": "squeezenet1_1", "weights": body, "freeze": True, "image_size": SIDE, "epochs": 2}
    return classifier.train(classifier.Settings(**{**said, **changes}), 0, report)  # type: ignore[arg-type]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of pictures of every pass through a body."""
    seen: list[int] = []
    whole = networks.Classifier.features

    def features(self: networks.Classifier, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(networks.Classifier, "features", features)
    return seen


def test_features_of_a_frozen_body_are_computed_once(
    stripes: Path, body: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    first = head_alone(stripes, body, tmp_path, views=3)
    passes = sum(seen)
    second = head_alone(stripes, body, tmp_path, views=3)

    assert passes == 3 * 42 + 9 + 9
    assert sum(seen) == passes
    assert second.metrics == first.metrics
    assert torch.equal(second.module(*second.example), first.module(*first.example))
    assert len(list((home / "cache" / "features").iterdir())) == 3


def test_other_pictures_weights_or_views_are_computed_anew_but_not_other_rates(
    stripes: Path, body: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    other = torch.load(body)
    other["features.0.weight"] += 0.1
    torch.save(other, tmp_path / "other.pth")
    passes = []
    for changes in ({}, {"learning_rate": 0.1}, {"views": 2}, {"weights": str(tmp_path / "other.pth")}, {"fit": "stretch"}):
        before = sum(seen)
        head_alone(stripes, body, tmp_path / "report", **{"views": 1, **changes})
        passes.append(sum(seen) - before)

    assert passes == [60, 0, 84, 60, 60]


def test_a_damaged_file_of_features_is_written_anew(
    stripes: Path, body: str, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = head_alone(stripes, body, tmp_path, views=1)
    for file in (home / "cache" / "features").iterdir():
        file.write_bytes(file.read_bytes()[:50])

    assert head_alone(stripes, body, tmp_path, views=1).metrics == first.metrics
    assert "computed again" in caplog.text


def test_the_cache_forgets_what_was_not_used_for_longest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_CACHE_BYTES", 1300)
    folder = paths.cache() / "features"
    for number in range(4):
        inputs._keep(folder / f"{number}.safetensors", torch.zeros(60))  # 240 bytes and a header
        time.sleep(0.02)  # a file system's clock is coarse
        if number == 2:
            assert inputs._kept(folder / "0.safetensors") is not None
            time.sleep(0.02)
    inputs._keep(folder / "large.safetensors", torch.zeros(400))

    assert {file.stem for file in folder.iterdir()} == {"0", "2", "3"}


def test_features_that_outgrow_memory_are_refused_with_what_to_do(
    stripes: Path, body: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MAX_BYTES", 1000)
    with pytest.raises(CallError, match="fewer views"):
        head_alone(stripes, body, home, views=2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"freeze": True}, ["needs 'weights'"]),
        ({"unfrozen_stages": 2}, ["freeze: true"]),
        ({"views": 3}, ["stays frozen"]),
        ({"freeze": True, "weights": "DEFAULT", "mix": "mixup"}, ["kept features", "unfrozen_stages: 1"]),
        ({"freeze": True, "weights": "DEFAULT", "augmentation": "none", "views": 3}, ["all 3 views are the same"]),
        ({"schedule": "step", "warm_up": 0.1}, ["warm_up"]),
        ({"schedule": "cyclic"}, ["one_cycle", "plateau"]),
        ({"learning_rat": 1}, ["unknown key", "learning_rate"]),
    ],
)
def test_settings_that_do_not_agree_are_refused_in_words(said: dict[str, object], words: Sequence[str]) -> None:
    with pytest.raises(CallError) as caught:
        validated(classifier.Settings, said, "models/own.yaml: training")

    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_photo_augmentation_of_ink_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="say light, or none"):
        classifier.train(classifier.Settings(augmentation="randaugment"), 0, tmp_path)


def test_a_decision_for_a_class_that_is_not_there_is_refused(stripes: Path, tmp_path: Path) -> None:
    settings = classifier.Settings(data=str(stripes), image_size=16, epochs=1, decision={"class": "up", "recall": 0.9})
    with pytest.raises(CallError, match="no class 'up'; the data has left, middle, right"):
        classifier.train(settings, 0, tmp_path)


def test_a_decision_is_measured_as_it_is_served(stripes: Path, tmp_path: Path) -> None:
    settings = classifier.Settings(data=str(stripes), image_size=16, epochs=2, decision={"class": "middle", "recall": 1.0})
    trained = classifier.train(settings, 0, tmp_path)
    decision = trained.postprocess["decision"]
    assert trained.classes is not None
    config = ImageInput.from_config(trained.preprocess)
    data = datasets.load(str(stripes), "classifier", 0)
    own = torch.stack([inputs.picture(example, config) for example in data.test if example.label == 1])
    found = trained.module(own).softmax(1)[:, 1] >= decision["threshold"]

    assert decision["class_index"] == 1
    assert trained.metrics["recall_middle"] == pytest.approx(float(found.float().mean()))


@pytest.mark.parametrize("file", sorted((paths.SOURCE / "docs" / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_of_the_docs_is_a_spec(file: Path) -> None:
    one = spec.parse(file.read_text(encoding="utf-8"), file.stem, str(file))

    plain = {key: value for key, value in one.training.settings.items() if not isinstance(value, dict)}  # defaults go into the others
    assert plain.items() <= settings_of(one).model_dump(mode="json").items()
    assert one.floor


@pytest.mark.slow
def test_a_new_head_on_real_features_knows_food_and_learns_again_in_a_moment(
    shared_data: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(shared_data / "weights"))
    seen = counted(monkeypatch)
    said = {"data": str(shared_data / "pizza_steak_sushi"), "architecture": "mobilenet_v2", "weights": "IMAGENET1K_V1", "freeze": True}
    first = classifier.train(classifier.Settings(**said, learning_rate=0.01), 0, tmp_path)  # type: ignore[arg-type]
    passes = sum(seen)
    classifier.train(classifier.Settings(**said, learning_rate=0.02), 0, tmp_path)  # type: ignore[arg-type]

    assert first.metrics["accuracy"] >= 0.92
    assert sum(seen) == passes > 0


@pytest.mark.slow
def test_pneumonia_is_found_as_surely_as_was_asked_for(shared_data: Path, tmp_path: Path) -> None:
    file = str(shared_data / "pneumoniamnist" / "pneumoniamnist.npz")
    settings = classifier.Settings(
        data=file, image_size=28, mirror=False, epochs=3, balance="weights", decision={"class": "pneumonia", "recall": 0.97}
    )
    trained = classifier.train(settings, 0, tmp_path)

    assert trained.classes == ["normal", "pneumonia"]
    assert trained.preprocess["mode"] == "L"
    assert trained.metrics["recall_pneumonia"] >= 0.95
    assert trained.metrics["auroc"] > 0.9


def test_answers_are_averaged_over_the_mirror_image_outside_of_training_and_are_still_explained() -> None:
    model = networks.build("squeezenet1_1", "none", 3, 3, networks.preset_of("squeezenet1_1", "none", 64)).eval()
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


@pytest.mark.parametrize("said", [{"mirror": False}, {"data": "digits"}])
def test_averaging_over_the_mirror_image_is_refused_where_it_is_another_thing(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((ValueError, CallError), match="average_mirrored"):
        classifier.train(classifier.Settings(average_mirrored=True, **said), 0, tmp_path)


def test_four_steps_in_all_are_enough_for_the_one_cycle() -> None:
    pictures = TensorDataset(torch.randn(8, 4), torch.arange(8) % 2)
    learner = Learner(torch.nn.Linear(4, 2), [], Learning(epochs=1, batch_size=2))
    fit(learner, pictures, pictures, threads=1)

    assert len(learner.history) == 1
