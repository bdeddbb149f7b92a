"""The fastest layout is found by a trial and kept; pictures are prepared once."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from handlers.inputs.images import ImageInput
from training.data import Example
from training.runs.run import Run
from training.runs.schedules import one_cycle
from training.vision.classification import inputs, layouts
from training.vision.classification.layouts import LAYOUTS, LayoutTrial, layout_of
from training.vision.classification.learner import Learner, fit
from training.vision.classification.settings import ClassifierSettings
from training.vision.records import Storage

FASTEST = ClassifierSettings(precision="fastest", batch_size=4, epochs=2)
DATA = TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8) % 2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2)
    )


def test_a_trial_leaves_the_network_and_the_random_numbers_as_they_were() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.get_rng_state()

    seconds = layouts.trial(model, DATA, 4)

    assert list(seconds) == list(LAYOUTS)
    assert min(seconds.values()) > 0
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("seconds", "way"),
    [((4, 3, 2, 1), LAYOUTS[3]), ((4, 3, 9, 9), LAYOUTS[1]), ((4, 3.9, 9, 9), LayoutTrial())],
)
def test_the_least_time_wins_if_it_is_less_by_more_than_noise(
    seconds: tuple[float, ...], way: LayoutTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "trial", lambda *_: dict(zip(LAYOUTS, seconds, strict=True)))

    assert layout_of(network(), DATA, FASTEST, Run(tmp_path)) == way


def test_a_run_that_is_gone_on_with_keeps_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, checkpoints=tmp_path)
    for seconds, expected in (((4, 3, 2, 1), LAYOUTS[3]), ((1, 2, 3, 4), LAYOUTS[3])):
        monkeypatch.setattr(
            layouts, "trial", lambda *_, found=seconds: dict(zip(LAYOUTS, found, strict=True))
        )
        assert layout_of(network(), DATA, FASTEST, run) == expected


@pytest.mark.parametrize("way", LAYOUTS)
def test_every_way_learns_and_hands_over_plain_weights(
    way: LayoutTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.vision.classification.learner.layout_of", lambda *_: way)
    learner = Learner(network(), [], FASTEST)

    fit(learner, DATA, DATA, Run(tmp_path))

    weight = learner.model.state_dict()["0.weight"]
    assert (weight.dtype, weight.is_contiguous()) == (torch.float32, True)
    assert len(learner.history) == 2


@pytest.mark.parametrize("steps", range(2, 12))
def test_a_cycle_of_any_length_rises_and_falls(steps: int) -> None:
    optimizer = torch.optim.AdamW(network().parameters(), 1.0)
    schedule = one_cycle(optimizer, [1.0], steps, 0.2)
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
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (20, 30, 3), np.uint8)).save(
            home / f"{k}.png"
        )
        examples.append(Example(home / f"{k}.png", label=k))
    config = ImageInput(16, 16)
    prepared, prepare = [], inputs.picture
    monkeypatch.setattr(inputs, "picture", lambda *given: prepared.append(1) or prepare(*given))

    first = inputs.pixels(examples, config, Storage()).tensors[0]
    second = inputs.pixels(examples, config, Storage()).tensors[0]
    (file,) = (home / "cache" / "pictures").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        third = inputs.pixels(examples, config, Storage()).tensors[0]

    assert len(prepared) == 4
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert "is damaged" in caplog.text
