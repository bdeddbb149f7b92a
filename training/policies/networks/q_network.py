"""The network of deep Q-learning: its encoder, and heads that are dueling, noisy and distributional.

Rainbow (Hessel et al. 2018, "Rainbow: Combining Improvements in Deep Reinforcement Learning", section 3) has
all three.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.policies.graphs.features import ObservationFeatures
from training.policies.graphs.policies import GreedyPolicy, Policy
from training.policies.networks.convolutions import NatureCNN
from training.policies.networks.distributions import apply_mask
from training.policies.networks.mlp import Layers
from training.policies.spaces import ObservationSpec

INITIAL_NOISE = 0.5  # sigma_0 of Fortunato et al. 2018, section 3.2


class NoisyLinear(nn.Linear):
    """Weights with factorized Gaussian noise of a learned size.

    Fortunato et al. 2018, "Noisy Networks for Exploration", section 3. In training mode it uses the noise of
    the last `reset_noise`; in eval mode none.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)  # uniform within 1 / sqrt(inputs), as there
        sigma = INITIAL_NOISE / inputs**0.5
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma))
        self.input_noise: torch.Tensor
        self.output_noise: torch.Tensor
        self.register_buffer("input_noise", torch.zeros(inputs))
        self.register_buffer("output_noise", torch.zeros(outputs))

    def reset_noise(self) -> None:
        """Draw new noise: sgn(x) sqrt|x| of normal x, per input and per output (equations 10 and 11)."""
        for noise in (self.input_noise, self.output_noise):
            normal = torch.randn_like(noise)
            noise.copy_(normal.sign() * normal.abs().sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [B, inputs] to [B, outputs]."""
        if not self.training:
            return functional.linear(x, self.weight, self.bias)
        noise = torch.outer(self.output_noise, self.input_noise)
        weight = torch.addcmul(self.weight, self.weight_sigma, noise)
        return functional.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, self.output_noise))


class QNetwork(nn.Module):
    """Observations [B, ...] to Q-values float32 [B, n_actions].

    With `num_atoms` above 1 it predicts a distribution of the return over as many values, evenly from `v_min`
    to `v_max` (Bellemare et al. 2017, "A Distributional Perspective on Reinforcement Learning", section 4),
    whose mean is the Q-value.
    """

    def __init__(
        self,
        spec: ObservationSpec,
        n_actions: int,
        hidden: tuple[int, ...],
        *,
        dueling: bool = False,
        noisy: bool = False,
        num_atoms: int = 1,
        v_min: float = 0.0,
        v_max: float = 1.0,
    ) -> None:
        super().__init__()
        self.arguments: tuple[Any, ...] = (spec, n_actions, hidden)
        self.options: dict[str, Any] = {
            "dueling": dueling,
            "num_atoms": num_atoms,
            "v_min": v_min,
            "v_max": v_max,
        }
        self.n_actions, self.num_atoms = n_actions, num_atoms
        self.encoder = NatureCNN(spec) if spec.is_image else ObservationFeatures(spec, None)
        linear = NoisyLinear if noisy else nn.Linear
        sizes = (self.encoder.width, *hidden)
        self.body = nn.Sequential(*(part for pair in pairwise(sizes) for part in (linear(*pair), nn.ReLU())))
        self.advantage = linear(sizes[-1], n_actions * num_atoms)
        self.value = linear(sizes[-1], num_atoms) if dueling else None
        self.noisy_layers = [module for module in self.modules() if isinstance(module, NoisyLinear)]
        self.support: torch.Tensor
        self.register_buffer("support", torch.linspace(v_min, v_max, num_atoms))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Q-values of every action."""
        return self.q_values(self.outputs(obs))

    def outputs(self, obs: torch.Tensor) -> torch.Tensor:
        """What is learned: Q-values [B, n_actions], or log probabilities [B, n_actions, num_atoms]."""
        features = self.body(self.encoder(obs))
        outputs: torch.Tensor = self.advantage(features).unflatten(1, (self.n_actions, self.num_atoms))
        if self.value is not None:
            # Wang et al. 2016, equation 9: without the mean, a constant could move between value and
            # advantages
            outputs = self.value(features).unsqueeze(1) + outputs - outputs.mean(1, keepdim=True)
        return outputs.log_softmax(2) if self.num_atoms > 1 else outputs.squeeze(2)

    def q_values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Q-values [B, n_actions] of `outputs`."""
        return outputs.exp() @ self.support if self.num_atoms > 1 else outputs

    def linear_layers(self) -> list[nn.Linear] | None:
        """The layers of a plain perceptron whose outputs are the Q-values; None for any other network."""
        has_heads = self.value is not None or self.num_atoms > 1
        if has_heads or self.noisy_layers or not isinstance(self.encoder, ObservationFeatures):
            return None
        return [module for module in (*self.body, self.advantage) if isinstance(module, nn.Linear)]

    def reset_noise(self) -> None:
        """Draw new noise for every noisy layer."""
        with torch.no_grad():
            for layer in self.noisy_layers:
                layer.reset_noise()

    @torch.no_grad()
    def greedy_actions(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Actions int64 [B] in the current mode: with the noise that was drawn last, or without.

        `action_mask` is bool [B, n_actions]; None: all are valid.
        """
        x = torch.from_numpy(obs).to(self.support.device)
        actions: np.ndarray = apply_mask(self(x).cpu().numpy(), action_mask).argmax(1)
        return actions

    def act(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Greedy actions without noise, int64 [B], as evaluations ask for them."""
        if self.training:
            self.eval()
        return self.greedy_actions(obs, action_mask)

    def build_graph(self) -> Policy:
        """The served graph, on the CPU and in eval mode, with a copy of the weights and without noise."""
        network, weights = QNetwork(*self.arguments, **self.options), self.state_dict()
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
        return GreedyPolicy(network).eval()


def numpy_layers_of(layers: list[nn.Linear]) -> Layers:
    """Weights and biases as `mlp.forward` takes them; they share memory with the parameters."""
    return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()[None]) for layer in layers]


def numpy_grads_of(layers: list[nn.Linear]) -> Layers:
    """Memory shared with the parameters' gradients, once `flatten` has made them."""
    grads = [(layer.weight.grad, layer.bias.grad) for layer in layers]
    return [(weight.numpy().T, bias.numpy()[None]) for weight, bias in grads]  # type: ignore[union-attr]


def exclude(q_values: torch.Tensor, is_invalid: torch.Tensor | None) -> torch.Tensor:
    """Q-values [B, n] that are minus infinity where `is_invalid`, bool [B, n]; None: all are valid."""
    return q_values if is_invalid is None else q_values.masked_fill(is_invalid, -torch.inf)


def to_single_precision(array: np.ndarray) -> np.ndarray:
    """float64 as float32; integers and pixels stay."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


@torch.no_grad()
def project_distribution(
    probs: torch.Tensor, returns: torch.Tensor, discounts: torch.Tensor, support: torch.Tensor
) -> torch.Tensor:
    """The distribution [B, num_atoms] of return + discount * value, where value is `support` with `probs`.

    Bellemare et al. 2017, Algorithm 1: what lies beyond the support counts at its end, and what lies between
    two atoms is shared by distance. `probs` is [B, num_atoms], `returns` and `discounts` are [B].
    """
    num_atoms, delta_z = len(support), support[1] - support[0]
    moved = (returns[:, None] + discounts[:, None] * support).clamp(support[0], support[-1])
    position = ((moved - support[0]) / delta_z).clamp(0, num_atoms - 1)
    floor = position.floor().clamp(max=num_atoms - 2)
    fraction, lower = position - floor, floor.long()
    projected = torch.zeros_like(probs)
    projected.scatter_add_(1, lower, probs * (1 - fraction))
    projected.scatter_add_(1, lower + 1, probs * fraction)
    return projected
