"""Critics of actions with slowly updated targets, for SAC and TD3."""

import numpy as np
import torch

from training.policies.networks.mlp import BatchedMLP, backward, forward, forward_all
from training.policies.networks.optim import Adam, flatten
from training.policies.state import Stateful


class Critics(Stateful):
    """`count` Q-networks side by side, and their target networks.

    Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", section 3; two of them:
    Fujimoto et al. 2018.
    """

    state_parts = ("networks", "target", "adam")

    def __init__(
        self, count: int, width: int, hidden: tuple[int, ...], activation: str, learning_rate: float
    ) -> None:
        sizes = (width, *hidden, 1)
        self.networks, self.target = (BatchedMLP(count, sizes, activation) for _ in range(2))
        self.flat, self.flat_target = flatten(self.networks), flatten(self.target)
        assert self.flat.grad is not None
        self.activation, self.learning_rate = activation, learning_rate
        # the same memory for NumPy
        self.grad, self.grads = self.flat.grad.numpy(), self.networks.numpy_grads()
        self.layers = self.networks.numpy_layers(slice(None))
        self.target_layers = self.target.numpy_layers(slice(None))
        self.adam = Adam(self.flat.detach().numpy(), eps=1e-8)
        self.soft_update(1.0)

    def __call__(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Q-values [count, B], for autograd."""
        q_values: torch.Tensor = self.networks(torch.cat((features, actions), 1))
        return q_values.squeeze(2)

    def step(self, x: np.ndarray, targets: np.ndarray) -> float:
        """One gradient step at features and actions [B, w + n] towards `targets` [B].

        Returns the loss before: half the mean squared error of each (`reference_losses.critics_loss`).
        """
        outputs = forward_all(self.layers, self.activation, x)
        errors = outputs[-1] - targets[:, None]
        backward(self.layers, self.activation, outputs, errors / np.float32(len(x)), self.grads)
        self.adam.step(self.grad, self.learning_rate)
        return float(0.5 * np.square(errors).sum() / len(x))

    def min_q(self, x: np.ndarray) -> np.ndarray:
        """The smallest target Q-value, [B], against overestimation (Fujimoto et al. 2018, equation 10)."""
        q_values: np.ndarray = forward(self.target_layers, self.activation, x)[:, :, 0].min(0)
        return q_values

    @torch.no_grad()
    def soft_update(self, tau: float) -> None:
        """Move the targets towards the networks: Polyak averaging."""
        self.flat_target.lerp_(self.flat, tau)
