"""The network of deep Q-learning: its encoder, and heads that are dueling, noisy and distributional, each or together.

Rainbow (Hessel et al. 2018, "Rainbow: Combining Improvements in Deep Reinforcement Learning", section 3) has all three.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.policies.distributions import forbid
from training.policies.graphs import Features, GreedyPolicy, Policy
from training.policies.pixels import Convolutions, is_picture
from training.policies.small_networks import Arrays

FIRST_DEVIATION = 0.5  # of the noise, before it is learned: sigma_0 of Fortunato et al. 2018, section 3.2


class NoisyLinear(nn.Linear):
    """Weights with factorised Gaussian noise of a learned size (Fortunato et al. 2018, "Noisy Networks for Exploration", section 3).

    In training mode it uses the noise that was drawn last; in eval mode none.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)  # uniform within 1 / sqrt(inputs), as there
        first = FIRST_DEVIATION / inputs**0.5
        self.weight_deviation = nn.Parameter(torch.full((outputs, inputs), first))
        self.bias_deviation = nn.Parameter(torch.full((outputs,), first))
        self.input_noise: torch.Tensor
        self.output_noise: torch.Tensor
        self.register_buffer("input_noise", torch.zeros(inputs))
        self.register_buffer("output_noise", torch.zeros(outputs))

    def draw(self) -> None:
        """Draw new noise: sgn(x) sqrt|x| of normal x, per input and per output (equations 10 and 11)."""
        for noise in (self.input_noise, self.output_noise):
            normal = torch.randn_like(noise)
            noise.copy_(normal.sign() * normal.abs().sqrt())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """float32 [B, inputs] to [B, outputs]."""
        if not self.training:
            return functional.linear(rows, self.weight, self.bias)
        weight = torch.addcmul(self.weight, self.weight_deviation, torch.outer(self.output_noise, self.input_noise))
        return functional.linear(rows, weight, torch.addcmul(self.bias, self.bias_deviation, self.output_noise))


class QNetwork(nn.Module):
    """Observations as their configuration has them, [B, ...], to Q-values float32 [B, actions].

    With `atoms` above 1 it gives a distribution of the return over as many values, evenly from `least` to `most`
    (Bellemare et al. 2017, "A Distributional Perspective on Reinforcement Learning", section 4), whose mean is the Q-value.
    """

    def __init__(
        self,
        observation: dict[str, Any],
        actions: int,
        hidden: tuple[int, ...],
        *,
        dueling: bool = False,
        noisy: bool = False,
        atoms: int = 1,
        support: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.arguments: tuple[Any, ...] = (observation, actions, hidden)
        self.options: dict[str, Any] = {"dueling": dueling, "atoms": atoms, "support": support}
        self.actions, self.atoms = actions, atoms
        self.dtype = getattr(torch, observation["dtype"])
        self.encoder = Convolutions(observation) if is_picture(observation) else Features(observation, None)
        layer = NoisyLinear if noisy else nn.Linear
        sizes = (self.encoder.width, *hidden)
        self.body = nn.Sequential(*(part for pair in pairwise(sizes) for part in (layer(*pair), nn.ReLU())))
        self.advantage = layer(sizes[-1], actions * atoms)
        self.value = layer(sizes[-1], atoms) if dueling else None
        self.noisy = [module for module in self.modules() if isinstance(module, NoisyLinear)]
        self.support: torch.Tensor
        self.register_buffer("support", torch.linspace(*support, atoms))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Q-values of every action."""
        return self.means(self.answers(observations))

    def answers(self, observations: torch.Tensor) -> torch.Tensor:
        """What is learned: Q-values [B, actions], or logarithms of probabilities [B, actions, atoms]."""
        features = self.body(self.encoder(observations))
        answers: torch.Tensor = self.advantage(features).unflatten(1, (self.actions, self.atoms))
        if self.value is not None:
            # Wang et al. 2016, equation 9: without the mean, a constant could move between value and advantages
            answers = self.value(features).unsqueeze(1) + answers - answers.mean(1, keepdim=True)
        return answers.log_softmax(2) if self.atoms > 1 else answers.squeeze(2)

    def means(self, answers: torch.Tensor) -> torch.Tensor:
        """Q-values [B, actions] of `answers`."""
        return answers.exp() @ self.support if self.atoms > 1 else answers

    def plain(self) -> list[nn.Linear] | None:
        """The layers of a multilayer perceptron whose outputs are the Q-values; None where it is more than that."""
        more = self.value is not None or self.atoms > 1 or self.noisy or not isinstance(self.encoder, Features)
        return None if more else [module for module in (*self.body, self.advantage) if isinstance(module, nn.Linear)]

    def draw(self) -> None:
        """Draw new noise for every noisy layer."""
        with torch.no_grad():
            for layer in self.noisy:
                layer.draw()

    @torch.no_grad()
    def best(self, observations: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Greedy actions, int64 [B], in the present mode: by the noise that was drawn last, or without.

        Of those that are `allowed`, bool [B, actions]; None allows all.
        """
        rows = torch.from_numpy(observations).to(self.support.device)
        actions: np.ndarray = forbid(self(rows).cpu().numpy(), allowed).argmax(1)
        return actions

    def act(self, observations: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Greedy actions without noise, int64 [B], as `rollout` asks for them."""
        if self.training:
            self.eval()
        return self.best(observations, allowed)

    def served(self) -> Policy:
        """The graph, on the CPU and in eval mode, with weights of its own and nothing of the noise."""
        plain, weights = QNetwork(*self.arguments, **self.options), self.state_dict()
        plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
        return GreedyPolicy(plain).eval()


def arrays_of(layers: list[nn.Linear]) -> Arrays:
    """Weights and biases as `small_networks.passes` takes them; they share memory with the parameters."""
    return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()[None]) for layer in layers]


def gradients_of(layers: list[nn.Linear]) -> Arrays:
    """Memory shared with the parameters' gradients, once `flatten` has made them."""
    return [(layer.weight.grad.numpy().T, layer.bias.grad.numpy()[None]) for layer in layers]  # type: ignore[union-attr]


@torch.no_grad()
def projected(probabilities: torch.Tensor, returns: torch.Tensor, discounts: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """The distribution [B, atoms] of return + discount * value, where value is `support` [atoms] with `probabilities` [B, atoms].

    Bellemare et al. 2017, Algorithm 1: what lies beyond the support counts as its end, and what lies between two atoms is shared
    by how near it is. `returns` and `discounts` are [B].
    """
    atoms, width = len(support), support[1] - support[0]
    moved = (returns[:, None] + discounts[:, None] * support).clamp(support[0], support[-1])
    places = ((moved - support[0]) / width).clamp(0, atoms - 1)
    below = places.floor().clamp(max=atoms - 2)
    share, lower = places - below, below.long()
    found = torch.zeros_like(probabilities)
    found.scatter_add_(1, lower, probabilities * (1 - share))
    found.scatter_add_(1, lower + 1, probabilities * share)
    return found
