"""Random networks equal torch in every compiled form, and none crashes; see benchmarks/shape_sweep.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import shape_sweep
from handlers.runtime.runtimes import OpenVinoRuntime, form_of
from training.export.runtimes.openvino_form import converted

FORMS = ("openvino", "openvino one_by_one", "onnxruntime")


def check(seeds: range, seconds: float = float("inf")) -> int:
    """Check that every form equals torch and only fixed shapes are rejected; return how many."""
    found = shape_sweep.sweep(seeds, seconds)
    wrong = []
    for one in found:
        may_reject = (
            one.runtime == "openvino one_by_one"
        )  # layers of one unit: "Layout rank can't be larger than tensor rank"
        if one.verdict != "equal" and not (may_reject and one.verdict == "rejected"):
            wrong.append((one.case.seed, one.case.about, one.runtime, one.verdict, one.reason))
    assert wrong == []
    assert {one.runtime for one in found} == set(FORMS)
    return len({one.case.seed for one in found})


def test_random_networks_equal_torch_in_every_form() -> None:
    assert check(range(3)) == 3


@pytest.mark.slow
def test_twenty_random_networks_equal_torch_in_every_form() -> None:
    """`benchmarks/shape_sweep.py` tries as many as it is asked for."""
    assert check(range(100, 120), 240) >= 10


def test_a_seed_makes_the_same_network_again() -> None:
    one, other = shape_sweep.make(3), shape_sweep.make(3)

    assert one.about == other.about
    assert all(torch.equal(*pair) for pair in zip(one.example, other.example, strict=True))
    for left, right in zip(one.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(left, right)


def perceptron(inputs: int, widths: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Masked(nn.Module):
    """As a policy's graph begins."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = perceptron(4, widths, 2)

    def forward(self, observations: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, 4], bool [B, 2] -> [B, 2]."""
        return self.layers(observations).masked_fill(~mask, -1e9).softmax(1)


@pytest.mark.parametrize(
    "widths", [(), (1,), (16,), (32,), (64,), (512,), (8, 8), (16, 16, 16), (16, 16, 16, 16)]
)
def test_masked_perceptrons_of_any_depth_run_one_by_one(tmp_path: Path, widths: tuple[int, ...]) -> None:
    """With one and with three hidden layers OpenVINO 2026.4 ended the process while it fused them."""
    module = Masked(*widths).eval()
    inputs = (torch.randn(3, 4), torch.tensor([[True, True], [False, True], [True, False]]))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    path = tmp_path / "openvino.xml"
    converted(torch.export.export(module, inputs, dynamic_shapes=(batch, batch), strict=False), path)
    with torch.inference_mode():
        expected = module(*inputs)

    runtime = OpenVinoRuntime(path, "fp32", form_of(expected), one_by_one=True)

    np.testing.assert_allclose(runtime(*(part.numpy() for part in inputs)), expected.numpy(), atol=1e-6)


def test_a_perceptron_without_branches_keeps_its_fusion(tmp_path: Path) -> None:
    example = (torch.randn(3, 4),)
    program = torch.export.export(
        perceptron(4, (16,), 2).eval(), example, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    converted(program, tmp_path / "openvino.xml")

    runtime = OpenVinoRuntime(tmp_path / "openvino.xml", "fp32", {"form": "tensor"}, one_by_one=True)

    assert not runtime._fusion_may_crash()
