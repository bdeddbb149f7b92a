"""Small multilayer perceptrons on one core, where calls cost more than arithmetic.

`BatchedMLP` holds several side by side, with one batched product per layer. What is called most goes through
NumPy, which has less overhead per call than torch and the faster tanh: acting, and gradient steps with
derivatives written by hand (`forward_all`, `backward`, `jvp`). Parameters share their memory with torch's.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

# weights [inputs, outputs] and biases [1, outputs] of the layers
Layers = list[tuple[np.ndarray, np.ndarray]]
ACTIVATIONS: dict[
    str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[np.ndarray], np.ndarray], type[nn.Module]]
] = {
    "tanh": (torch.tanh, lambda x: np.tanh(x, out=x), nn.Tanh),
    "relu": (torch.relu, lambda x: np.maximum(x, 0, out=x), nn.ReLU),
}


class BatchedMLP(nn.Module):
    """`count` perceptrons of the same sizes: float32 [B, n] or [count, B, n] to [count, B, m].

    Weights and biases start as those of nn.Linear do, uniformly within 1 / sqrt(inputs).
    """

    def __init__(self, count: int, sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.activation = activation
        pairs = list(pairwise(sizes))
        self.weights = nn.ParameterList(
            torch.empty(count, *pair).uniform_(-1, 1) / pair[0] ** 0.5 for pair in pairs
        )
        self.biases = nn.ParameterList(
            torch.empty(count, 1, pair[1]).uniform_(-1, 1) / pair[0] ** 0.5 for pair in pairs
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All of them; no activation after the last layer."""
        activate, last = ACTIVATIONS[self.activation][0], len(self.weights) - 1
        x = x.expand(len(self.weights[0]), *x.shape[-2:])
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if depth < last:
                x = activate(x)
        return x

    def init_orthogonal(self, last_gains: Sequence[float]) -> "BatchedMLP":
        """Orthogonal weights, gain sqrt(2) and one of `last_gains` for each last layer, and zero biases.

        Andrychowicz et al. 2021, "What Matters for On-Policy Deep Actor-Critic Methods?", section 3.2.
        """
        for depth, weights in enumerate(self.weights):
            for weight, last_gain in zip(weights, last_gains, strict=True):
                nn.init.orthogonal_(weight.data, last_gain if depth == len(self.weights) - 1 else 2**0.5)
        for bias in self.biases:
            nn.init.zeros_(bias)
        return self

    def numpy_layers(self, index: int | slice = 0) -> Layers:
        """The layers of one of them, or of several, in memory that is shared with the parameters."""
        parts = zip(self.weights, self.biases, strict=True)
        return [(weight.detach()[index].numpy(), bias.detach()[index].numpy()) for weight, bias in parts]

    def numpy_grads(self) -> Layers:
        """Memory shared with the parameters' gradients, once `flatten` has made them."""
        parts = zip(self.weights, self.biases, strict=True)
        return [(weight.grad.numpy(), bias.grad.numpy()) for weight, bias in parts]

    def to_modules(self, index: int, columns: slice = slice(None)) -> list[nn.Module]:
        """A copy of one of them as nn.Linear and activations; of the last layer only `columns`."""
        modules: list[nn.Module] = []
        for depth, (weight, bias) in enumerate(self.numpy_layers(index)):
            kept = columns if depth == len(self.weights) - 1 else slice(None)
            linear = nn.Linear(len(weight), weight[:, kept].shape[1])
            linear.load_state_dict(
                {"weight": torch.from_numpy(weight[:, kept].T), "bias": torch.from_numpy(bias[0, kept])}
            )
            modules += [linear, ACTIVATIONS[self.activation][2]()]
        return modules[:-1]


def forward(layers: Layers, activation: str, x: np.ndarray) -> np.ndarray:
    """Outputs for `x`, float32 [B, n]: [B, m] of one perceptron, [count, B, m] of several."""
    return forward_all(layers, activation, x)[-1]


def forward_all(layers: Layers, activation: str, x: np.ndarray) -> list[np.ndarray]:
    """`x` and the output of every layer, as `backward` and `jvp` take them."""
    activate, outputs = ACTIVATIONS[activation][1], [x]
    for depth, (weight, bias) in enumerate(layers):
        x = np.matmul(x, weight)
        x += bias
        outputs.append(x if depth == len(layers) - 1 else activate(x))
    return outputs


def backward(
    layers: Layers, activation: str, outputs: list[np.ndarray], grad: np.ndarray, grads: Layers | None
) -> np.ndarray:
    """Backpropagate `grad`, the loss's gradient by the last output [count, B, m]; returns that by the input.

    Gradients by weights and biases are written into `grads`, and not computed where it is None.
    """
    ones = np.ones((1, grad.shape[-2]), grad.dtype)
    for depth in reversed(range(len(layers))):
        if grads is not None:
            np.matmul(outputs[depth].swapaxes(-1, -2), grad, out=grads[depth][0])
            np.matmul(ones, grad, out=grads[depth][1])  # a sum, in a third of the time
        weight = layers[depth][0].swapaxes(-1, -2)
        # a product of one column and one row is elementwise, and faster so
        grad = grad * weight if grad.shape[-1] == 1 else np.matmul(grad, weight)
        if depth:
            hidden = outputs[depth]
            grad *= hidden > 0 if activation == "relu" else 1 - hidden * hidden
    return grad


def jvp(layers: Layers, activation: str, outputs: list[np.ndarray], direction: Layers) -> np.ndarray:
    """Jacobian-vector product: the derivative of the outputs, [B, m], along `direction` of the parameters.

    The R-operator of Pearlmutter 1994, "Fast Exact Multiplication by the Hessian", section 3.
    """
    tangent = np.zeros_like(outputs[0])
    for depth, ((weight, _), (d_weight, d_bias)) in enumerate(zip(layers, direction, strict=True)):
        if depth:
            hidden = outputs[depth]
            tangent *= hidden > 0 if activation == "relu" else 1 - hidden * hidden
        tangent = np.matmul(tangent, weight) + np.matmul(outputs[depth], d_weight) + d_bias
    return tangent
