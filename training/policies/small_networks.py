"""Small networks on one core, where calls cost more than arithmetic.

Perceptrons side by side share one batched product per layer, and all parameters lie in one vector that is updated by one call.
What is called most goes through NumPy, which has less to do per call than torch and the faster tanh: acting, and with gradients
written by hand the steps of the policy gradient methods. Parameters share their memory with torch's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import nn

Arrays = list[tuple[np.ndarray, np.ndarray]]  # weights [inputs, outputs] and biases [1, outputs] of the layers
ACTIVATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[np.ndarray], np.ndarray], type[nn.Module]]] = {
    "tanh": (torch.tanh, lambda rows: np.tanh(rows, out=rows), nn.Tanh),
    "relu": (torch.relu, lambda rows: np.maximum(rows, 0, out=rows), nn.ReLU),
}


class Perceptrons(nn.Module):
    """`count` multilayer perceptrons of the same sizes side by side: float32 [B, n] or [count, B, n] to [count, B, m].

    Weights and biases start as those of nn.Linear do, uniformly within 1 / sqrt(inputs).
    """

    def __init__(self, count: int, sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.activation = activation
        pairs = list(pairwise(sizes))
        self.weights = nn.ParameterList(torch.empty(count, *pair).uniform_(-1, 1) / pair[0] ** 0.5 for pair in pairs)
        self.biases = nn.ParameterList(torch.empty(count, 1, pair[1]).uniform_(-1, 1) / pair[0] ** 0.5 for pair in pairs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """All of them; no activation after the last layer."""
        activate, last = ACTIVATIONS[self.activation][0], len(self.weights) - 1
        rows = rows.expand(len(self.weights[0]), *rows.shape[-2:])
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = torch.baddbmm(bias, rows, weight)
            if depth < last:
                rows = activate(rows)
        return rows

    def orthogonal(self, last_gains: Sequence[float]) -> "Perceptrons":
        """Start again from orthogonal weights, gain sqrt(2) and one of `last_gains` for each last layer, and zero biases.

        The choice of Andrychowicz et al. 2021, "What Matters for On-Policy Deep Actor-Critic Methods?", section 3.2.
        """
        for depth, weights in enumerate(self.weights):
            for weight, last in zip(weights, last_gains, strict=True):
                nn.init.orthogonal_(weight.data, last if depth == len(self.weights) - 1 else 2**0.5)
        for bias in self.biases:
            nn.init.zeros_(bias)
        return self

    def arrays(self, index: int | slice = 0) -> Arrays:
        """The layers of one of them, or of several; they share memory with the parameters."""
        parts = zip(self.weights, self.biases, strict=True)
        return [(weight.detach()[index].numpy(), bias.detach()[index].numpy()) for weight, bias in parts]

    def gradients(self) -> Arrays:
        """Memory shared with the parameters' gradients, once `flatten` has made them."""
        parts = zip(self.weights, self.biases, strict=True)
        return [(weight.grad.numpy(), bias.grad.numpy()) for weight, bias in parts]

    def layers(self, index: int, columns: slice = slice(None)) -> list[nn.Module]:
        """One of them as nn.Linear and activations, with weights of their own; of the last layer only `columns`."""
        layers: list[nn.Module] = []
        for depth, (weight, bias) in enumerate(self.arrays(index)):
            chosen = columns if depth == len(self.weights) - 1 else slice(None)
            linear = nn.Linear(len(weight), weight[:, chosen].shape[1])
            linear.load_state_dict({"weight": torch.from_numpy(weight[:, chosen].T), "bias": torch.from_numpy(bias[0, chosen])})
            layers += [linear, ACTIVATIONS[self.activation][2]()]
        return layers[:-1]


def answer(arrays: Arrays, activation: str, rows: np.ndarray) -> np.ndarray:
    """What perceptrons make of `rows`, float32 [B, n], in NumPy: [B, m] of one, [count, B, m] of several."""
    return passes(arrays, activation, rows)[-1]


def passes(arrays: Arrays, activation: str, rows: np.ndarray) -> list[np.ndarray]:
    """`rows` and what each layer makes of it, as `backward` takes them."""
    activate, found = ACTIVATIONS[activation][1], [rows]
    for depth, (weight, bias) in enumerate(arrays):
        rows = np.matmul(rows, weight)
        rows += bias
        found.append(rows if depth == len(arrays) - 1 else activate(rows))
    return found


def backward(arrays: Arrays, activation: str, passed: list[np.ndarray], by_output: np.ndarray, gradients: Arrays | None) -> np.ndarray:
    """Backpropagation of a loss, given its gradient by the outputs, [count, B, m]: returns that by the inputs, [count, B, n].

    The gradients by weights and biases are written into `gradients`, and not computed without it.
    """
    ones = np.ones((1, by_output.shape[-2]), by_output.dtype)
    for depth in reversed(range(len(arrays))):
        if gradients is not None:
            np.matmul(passed[depth].swapaxes(-1, -2), by_output, out=gradients[depth][0])
            np.matmul(ones, by_output, out=gradients[depth][1])  # a sum, in a third of the time
        across = arrays[depth][0].swapaxes(-1, -2)
        # a product of one column and one row is no more than that, and faster so
        by_output = by_output * across if by_output.shape[-1] == 1 else np.matmul(by_output, across)
        if depth:
            latent = passed[depth]
            by_output *= latent > 0 if activation == "relu" else 1 - latent * latent
    return by_output


def tangents(arrays: Arrays, activation: str, passed: list[np.ndarray], direction: Arrays) -> np.ndarray:
    """How fast the outputs, [B, m], change when the parameters move in `direction`, arrays like `arrays`: forward differentiation.

    The R-operator of Pearlmutter 1994, "Fast Exact Multiplication by the Hessian", section 3.
    """
    speed = np.zeros_like(passed[0])
    for depth, ((weight, _), (by_weight, by_bias)) in enumerate(zip(arrays, direction, strict=True)):
        if depth:
            latent = passed[depth]
            speed *= latent > 0 if activation == "relu" else 1 - latent * latent
        speed = np.matmul(speed, weight) + np.matmul(passed[depth], by_weight) + by_bias
    return speed


class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1) on one vector, float32 [n], that is changed in place.

    The moments are kept without their factors 1 - beta, which go into the scalars with the corrections of the bias: fewer passes.
    """

    def __init__(self, values: np.ndarray, epsilon: float = 1e-5, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.values, self.epsilon, self.betas, self.steps = values, epsilon, betas, 0
        self.gradients, self.squares, self.scratch = (np.zeros_like(values) for _ in range(3))

    def step(self, gradient: np.ndarray, learning_rate: float) -> None:
        """One step."""
        self.steps += 1
        first, second = self.betas
        mean, deviation = (1 - first) / (1 - first**self.steps), ((1 - second) / (1 - second**self.steps)) ** 0.5
        self.gradients *= first
        self.gradients += gradient
        self.squares *= second
        self.squares += np.multiply(gradient, gradient, out=self.scratch)
        np.sqrt(self.squares, out=self.scratch)
        self.scratch += self.epsilon / deviation
        np.divide(self.gradients, self.scratch, out=self.scratch)
        self.scratch *= learning_rate * mean / deviation
        self.values -= self.scratch


def flatten(*modules: nn.Module) -> nn.Parameter:
    """One vector that holds all parameters, and one that holds their gradients, so that one call updates or clips them all.

    The parameters become views of it. Gradients are added up in place: zero `flat.grad`, never set it to None.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    flat = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    parts = zip(parameters, torch.split(flat.detach(), sizes), torch.split(flat.grad, sizes), strict=True)
    for parameter, values, gradient in parts:
        parameter.data, parameter.grad = values.view_as(parameter), gradient.view_as(parameter)
    return flat


def descend(loss: torch.Tensor, flat: nn.Parameter, optimizer: torch.optim.Optimizer, modules: nn.Module, most: float = 0.0) -> None:
    """One step of `optimizer` down the gradient of `loss` by the parameters of `modules`, its norm at most `most` (0: any)."""
    assert flat.grad is not None
    flat.grad.zero_()
    loss.backward(inputs=list(modules.parameters()))  # type: ignore[no-untyped-call]
    if most:
        flat.grad.mul_((most / (flat.grad.norm() + 1e-6)).clamp(max=1.0))
    optimizer.step()


@contextmanager
def small_network_arithmetic(seed: int) -> Iterator[None]:
    """One thread, in NumPy too, denormal numbers flushed to zero and torch's generator seeded; all as before afterwards.

    Units that a ReLU has switched off for good leave denormal moments in Adam, which cost twice the time of all the rest.
    """
    threads, flushed = torch.get_num_threads(), not bool(torch.full((1,), 1e-40) * 1)
    with torch.random.fork_rng(devices=[]), threadpool_limits(1):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(flushed)
            torch.set_num_threads(threads)
