"""Model-agnostic meta-learning: parameters from which a few gradient steps fit any task of a family.

The algorithm is MAML (Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
Algorithm 2) on regression: the meta-gradient is that of the error after adaptation, through the adaptation's
own gradients. All tasks of a batch go together. The family is the paper's sinusoids (section 5.1). Not
covered: policies, the first-order approximation.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

Parameters = dict[str, torch.Tensor]
# support x, y [T, K, 1], query x, y [T, Q, 1]
Tasks = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def sinusoids(tasks: int, shots: int, queries: int, generator: torch.Generator) -> Tasks:
    """Sine waves of amplitude 0.1 to 5 and phase 0 to pi, seen at places from -5 to 5."""
    amplitude = 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=generator)
    phase = torch.pi * torch.rand(tasks, 1, 1, generator=generator)
    places = 10 * torch.rand(tasks, shots + queries, 1, generator=generator) - 5
    values = amplitude * (places - phase).sin()
    return places[:, :shots], values[:, :shots], places[:, shots:], values[:, shots:]


def error(
    network: nn.Module, parameters: Parameters, inputs: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of `network` with these parameters."""
    return functional.mse_loss(functional_call(network, parameters, (inputs,)), wanted)


def adapted(
    network: nn.Module,
    parameters: Parameters,
    inputs: torch.Tensor,
    wanted: torch.Tensor,
    rate: float,
    steps: int,
) -> Parameters:
    """Parameters after so many gradient steps on [K, n] and [K, m]; they can be differentiated by the
    first ones.
    """
    for _ in range(steps):
        gradients = grad(lambda now: error(network, now, inputs, wanted))(parameters)
        parameters = {name: value - rate * gradients[name] for name, value in parameters.items()}
    return parameters


def errors_after(
    network: nn.Module, parameters: Parameters, tasks: Tasks, rate: float, steps: int
) -> torch.Tensor:
    """The error on each task's queries after adaptation to its support, [T] (the objective of equation 1
    is their sum).
    """

    def of_one(
        inputs: torch.Tensor, wanted: torch.Tensor, query: torch.Tensor, answer: torch.Tensor
    ) -> torch.Tensor:
        return error(network, adapted(network, parameters, inputs, wanted, rate, steps), query, answer)

    found: torch.Tensor = vmap(of_one)(*tasks)
    return found


def meta_train(
    network: nn.Module, batches: Iterator[Tasks], rate: float, steps: int, learning_rate: float = 1e-3
) -> None:
    """Adam on the mean error after adaptation, one step per batch of tasks; `network` is changed in place."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    for tasks in batches:
        optimizer.zero_grad()
        error = errors_after(network, dict(network.named_parameters()), tasks, rate, steps).mean()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
