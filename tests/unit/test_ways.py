"""The fastest way to learn is tried and kept; pictures are prepared once."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from training.classification import inputs, ways
from training.classification.learner import Learner, fit
from training.classification.settings import Learning
from training.classification.ways import WAYS, Way, way_of
from training.datasets import Example
from training.fitting import cycle
from training.running.run import Run, using

from bundle_images import ImageInput

FASTEST = Learning(precision="fastest", batch_size=4, epochs=2)
DATA = TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8) % 2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2))


def test_a_trial_leaves_the_network_and_the_random_numbers_as_they_were() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.get_rng_state()

    seconds = ways.trial(model, DATA, 4)

    assert list(seconds) == list(WAYS)
    assert min(seconds.values()) > 0
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("seconds", "way"), [((4, 3, 2, 1), WAYS[3]), ((4, 3, 9, 9), WAYS[1]), ((4, 3.9, 9, 9), Way())])
def test_the_least_time_wins_if_it_is_less_by_more_than_noise(
    seconds: tuple[float, ...], way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "trial", lambda *_: dict(zip(WAYS, seconds, strict=True)))

    assert way_of(network(), DATA, FASTEST) == way


def test_a_run_that_is_gone_on_with_keeps_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with using(Run(tmp_path)):
        for seconds, expected in (((4, 3, 2, 1), WAYS[3]), ((1, 2, 3, 4), WAYS[3])):
            monkeypatch.setattr(ways, "trial", lambda *_, found=seconds: dict(zip(WAYS, found, strict=True)))
            assert way_of(network(), DATA, FASTEST) == expected


@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_and_hands_over_plain_weights(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.classification.learner.way_of", lambda *_: way)
    learner = Learner(network(), [], FASTEST)

    fit(learner, DATA, DATA)

    weight = learner.model.state_dict()["0.weight"]
    assert (weight.dtype, weight.is_contiguous()) == (torch.float32, True)
    assert len(learner.history) == 2


@pytest.mark.parametrize("steps", range(2, 12))
def test_a_cycle_of_any_length_rises_and_falls(steps: int) -> None:
    optimizer = torch.optim.AdamW(network().parameters(), 1.0)
    schedule = cycle(optimizer, [1.0], steps, 0.2)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()

    assert 0.5 < max(rates) <= 1
    assert rates[-1] < 0.5


def test_pictures_are_prepared_once_and_again_when_their_copy_is_spoilt(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = []
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (20, 30, 3), np.uint8)).save(home / f"{k}.png")
        examples.append(Example(home / f"{k}.png", label=k))
    config = ImageInput(16, 16)
    prepared, prepare = [], inputs.picture
    monkeypatch.setattr(inputs, "picture", lambda *given: prepared.append(1) or prepare(*given))

    first = inputs.pixels(examples, config).tensors[0]
    second = inputs.pixels(examples, config).tensors[0]
    (file,) = (home / "cache" / "pictures").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        third = inputs.pixels(examples, config).tensors[0]

    assert len(prepared) == 6
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert "its checksum is another" in caplog.text
