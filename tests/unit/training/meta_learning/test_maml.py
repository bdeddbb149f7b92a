"""MAML: its gradient against finite differences, and an initialization that adapts faster than another."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from training.meta_learning.maml import adapted, errors_after, meta_train, sinusoids


def network_of(*sizes: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def test_adaptation_is_plain_gradient_descent() -> None:
    network = network_of(1, 8, 1)
    inputs, wanted, _, _ = (part[0] for part in sinusoids(1, 10, 1, torch.Generator().manual_seed(0)))
    plain = network_of(1, 8, 1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(inputs), wanted).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    found = adapted(network, dict(network.named_parameters()), inputs, wanted, 0.05, 3)

    for name, expected in plain.named_parameters():
        torch.testing.assert_close(found[name], expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_that_of_finite_differences(steps: int) -> None:
    network = network_of(1, 4, 1).double()
    tasks = sinusoids(3, 5, 7, torch.Generator().manual_seed(0))
    tasks = (tasks[0].double(), tasks[1].double(), tasks[2].double(), tasks[3].double())
    names, start = zip(
        *((name, value.detach().clone().requires_grad_()) for name, value in network.named_parameters()),
        strict=True,
    )

    def objective(*values: torch.Tensor) -> torch.Tensor:
        return errors_after(network, dict(zip(names, values, strict=True)), tasks, 0.1, steps).mean()

    assert torch.autograd.gradcheck(objective, start)
    first_order = torch.autograd.grad(
        errors_after(network, dict(zip(names, start, strict=True)), tasks, 0.0, 1).mean(), start
    )
    through = torch.autograd.grad(objective(*start), start)
    assert not torch.allclose(through[0], first_order[0], rtol=1e-2)


def test_a_few_steps_from_a_learned_start_fit_a_new_wave() -> None:
    generator, network = torch.Generator().manual_seed(0), network_of(1, 40, 40, 1)
    untrained = {name: value.detach().clone() for name, value in network.named_parameters()}
    meta_train(network, (sinusoids(25, 10, 10, generator) for _ in range(400)), 0.02, 1, 3e-3)
    tasks = sinusoids(200, 10, 50, torch.Generator().manual_seed(10**6))
    learned = {name: value.detach() for name, value in network.named_parameters()}

    before, after = (errors_after(network, learned, tasks, 0.02, steps).mean().item() for steps in (0, 5))
    beside = errors_after(network, untrained, tasks, 0.02, 5).mean().item()

    assert after < 0.5 * before
    assert after < 0.5 * beside
