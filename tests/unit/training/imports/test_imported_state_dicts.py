"""State dicts as training frameworks write them: prefixes, wrappers, and tensors that are no weights."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from marina.core.errors import CallError
from training.findings import Findings
from training.imports.files import State, load_weights, read_state
from training.vision.classification import networks, video_networks


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.fc = nn.Linear(4, 3)


def weights() -> State:
    torch.manual_seed(1)
    return Network().state_dict()


def renamed(start: str, middle: str = "") -> State:
    """Under a prefix, and with a component in the middle of the names of layer2."""
    return {f"{start}{key.replace('layer2.', f'layer2.{middle}')}": value for key, value in weights().items()}


@pytest.mark.parametrize(
    ("start", "middle"),
    [
        ("", ""),
        ("module.", ""),
        ("_orig_mod.", ""),
        ("model.", ""),
        ("net.", ""),
        ("module._orig_mod.", ""),
        ("_orig_mod.module.", ""),
        ("model._orig_mod.module.", ""),
        ("model.module.net.", ""),
        ("backbone.", ""),
        ("", "module."),
        ("model.", "_orig_mod."),
        ("_fsdp_wrapped_module.", "_fsdp_wrapped_module._checkpoint_wrapped_module."),
    ],
)
def test_prefixes_of_training_frameworks_are_taken_off(start: str, middle: str) -> None:
    network = Network()

    load_weights(network, renamed(start, middle), "a.pth")

    for key, value in weights().items():
        assert torch.equal(network.state_dict()[key], value)


def test_a_network_with_such_a_member_of_its_own_keeps_it() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Network()

    network = Wrapped()

    load_weights(network, renamed("model.module."), "a.pth")

    assert torch.equal(network.module.fc.weight, weights()["fc.weight"])


@pytest.mark.parametrize(
    "extras",
    [
        ["criterion.pos_weight"],
        ["loss_fn.weight", "train_acc.total", "ema.model.fc.weight"],
        ["teacher.0.weight", "n_averaged"],
    ],
)
@pytest.mark.parametrize("start", ["", "model."])
def test_tensors_of_other_modules_are_left_out_and_named(start: str, extras: list[str]) -> None:
    findings, network = Findings(), Network()
    state = {**renamed(start), **{name: torch.ones(3) for name in extras}}

    load_weights(network, state, "a.ckpt", findings)

    (finding,) = findings
    assert str(finding).startswith(f"{len(extras)} of {len(state)} tensors of a.ckpt left out")
    assert finding.examples == extras
    assert torch.equal(network.state_dict()["fc.weight"], weights()["fc.weight"])


def test_without_findings_they_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "marina"):
        load_weights(Network(), {**weights(), "loss.weight": torch.ones(1)}, "a.pth")

    assert "1 of 12 tensors of a.pth left out" in caplog.text
    assert "loss.weight" in caplog.text


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({**weights(), "layer3.weight": torch.ones(1)}, "layer3.weight is not known"),
        ({**weights(), "layer2.7.weight": torch.ones(1)}, "layer2.7.weight is not known"),
        ({**renamed("model."), "model.layer3.weight": torch.ones(1)}, "layer3.weight is not known"),
        (
            {key: value for key, value in renamed("module._orig_mod.").items() if "fc.bias" not in key},
            "fc.bias is missing$",
        ),
        ({**renamed("student."), **renamed("teacher.")}, r"several networks that fit: student., teacher."),
        ({"other.weight": torch.ones(1)}, "layer1.weight is missing"),
        ({}, "layer1.weight is missing"),
    ],
    ids=["one layer more", "inside", "under a prefix", "one less", "two networks", "strange", "empty"],
)
def test_weights_of_another_network_are_refused(state: State, message: str) -> None:
    with pytest.raises(CallError, match=message):
        load_weights(Network(), state, "a.pth")


def test_the_expected_one_of_two_networks_is_taken_and_the_other_named() -> None:
    """A LightningModule's model beside its moving average."""
    findings, network = Findings(), Network()
    average = {key: value + 1 for key, value in renamed("ema_model.").items()}

    load_weights(network, {**average, **renamed("model.")}, "a.ckpt", findings)

    assert torch.equal(network.fc.weight, weights()["fc.weight"])
    assert next(iter(findings)).count == len(average)


def test_a_classifiers_recipe_takes_such_files_too(tmp_path: Path) -> None:
    preset = networks.preset_of(networks.SMALL_CNN, "none", 32)
    torch.manual_seed(2)
    learned = networks.build(networks.SMALL_CNN, "none", 5, 3, preset).network
    state = {f"model._orig_mod.{key}": value for key, value in learned.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.ckpt")

    network = networks.build(networks.SMALL_CNN, str(tmp_path / "a.ckpt"), 7, 3, preset).network

    assert torch.equal(network[0].weight, learned[0].weight)  # type: ignore[index]
    torch.save([1], tmp_path / "b.pth")
    with pytest.raises(CallError, match="holds no state dict"):
        networks.build(networks.SMALL_CNN, str(tmp_path / "b.pth"), 7, 3, preset)


def test_a_video_classifiers_recipe_takes_such_files_too(tmp_path: Path) -> None:
    preset = video_networks.preset_of(video_networks.SMALL_3D, 32)
    learned = video_networks.build(video_networks.SMALL_3D, "none", 5, 3, preset).network
    torch.save({f"module.{key}": value for key, value in learned.state_dict().items()}, tmp_path / "a.pth")

    network = video_networks.build(video_networks.SMALL_3D, str(tmp_path / "a.pth"), 5, 3, preset).network

    for key, value in read_state(tmp_path / "a.pth").items():
        assert torch.equal(network.state_dict()[key.removeprefix("module.")], value)
