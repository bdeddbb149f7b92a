"""Actor and critic of the policy gradient methods, side by side in one BatchedMLP."""

from typing import Any

import numpy as np
import torch
from torch import nn

from training.policies.graphs.features import ActionBounds, ConstantStd, ObservationFeatures
from training.policies.graphs.policies import (
    CategoricalPolicy,
    GaussianPolicy,
    MultiCategoricalPolicy,
    Policy,
)
from training.policies.networks.distributions import Branches, Categorical, Gaussian, apply_mask
from training.policies.networks.encoders import ObservationEncoder
from training.policies.networks.mlp import BatchedMLP, forward
from training.policies.spaces import ActionSpec, ObservationSpec


class ActorCritic(nn.Module):
    """A categorical policy, or a Gaussian with a state-independent std, and a critic of the same size.

    Raw actions, as the policy draws them, are int64 [B, branches] or unclipped float32 [B, n]; Discrete
    actions have one branch.
    """

    def __init__(
        self,
        observation_spec: ObservationSpec,
        action_spec: ActionSpec,
        hidden: tuple[int, ...],
        activation: str,
        *,
        normalize_observations: bool = False,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.observation_spec, self.action_spec, self.activation = observation_spec, action_spec, activation
        self.encoder = ObservationEncoder(observation_spec, normalize_observations)
        self.action_size = action_spec.size
        sizes = (self.encoder.width, *hidden, self.action_size)
        # the actor's small last gain makes all actions about equally likely at first (Andrychowicz et al.
        # 2021, section 3.2)
        self.networks = BatchedMLP(2, sizes, activation).init_orthogonal((0.01, 1.0))
        is_box = action_spec.type == "box"
        self.branches = None if is_box else Branches(action_spec.branch_sizes)
        self.log_std = nn.Parameter(torch.full((self.action_size,), log_std_init)) if is_box else None
        self.bounds = ActionBounds(action_spec, squash=False) if is_box else None
        self.value_scale = 1.0  # rewards are divided by it in training

    def get_extra_state(self) -> dict[str, Any]:
        """What a state dict holds besides the parameters: statistics of observations, the values' scale."""
        return {"value_scale": self.value_scale, "encoder": self.encoder.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """What `get_extra_state` gave."""
        self.value_scale = state["value_scale"]
        self.encoder.load_state_dict(state["encoder"])

    @torch.no_grad()
    def zero_value_head(self) -> None:
        """Zero the critic's last layer, so that advantages equal returns."""
        self.networks.weights[-1][1].zero_()
        self.networks.biases[-1][1].zero_()

    def distribution(self, outputs: np.ndarray) -> Categorical | Gaussian:
        """Of raw actions, by logits or means [B, n]."""
        if self.log_std is None:
            assert self.branches is not None
            return Categorical(outputs, self.branches)
        return Gaussian(outputs, self.log_std.detach().numpy())

    def outputs_and_values(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [B, w] to (logits or means [B, n], scaled values [B])."""
        outputs, values = forward(self.networks.numpy_layers(slice(None)), self.activation, features)
        return outputs, values[:, 0]

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """The most probable raw actions by logits or means [B, n]; with noise added, a sample."""
        return outputs if self.branches is None else self.branches.argmax(outputs)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Raw actions as the environment takes them: clipped to the bounds, a single choice as a number."""
        if self.bounds is None:
            return actions[:, 0] if self.action_spec.type == "discrete" else actions
        low, high = self.bounds.low.numpy(), self.bounds.high.numpy()
        clipped: np.ndarray = actions.reshape(-1, *self.bounds.shape).clip(low, high)
        return clipped

    def act(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """The most probable valid actions (`action_mask` bool [B, n], None: all are valid)."""
        outputs = forward(self.networks.numpy_layers(), self.activation, self.encoder(obs))
        return self.to_environment(self.mode(apply_mask(outputs, action_mask)))

    def build_graph(self) -> Policy:
        """The served graph, in eval mode, with a copy of the weights."""
        features = ObservationFeatures(self.observation_spec, self.encoder.statistics())
        layers, value_layers = self.networks.to_modules(0), self.networks.to_modules(1, slice(1))
        value_head = value_layers[-1]
        assert isinstance(value_head, nn.Linear)
        with torch.no_grad():
            value_head.weight.mul_(self.value_scale)
            value_head.bias.mul_(self.value_scale)
        critic = nn.Sequential(features, *value_layers)
        if self.action_spec.type == "discrete":
            return CategoricalPolicy(nn.Sequential(features, *layers), critic).eval()
        if self.log_std is None or self.bounds is None:
            branch_sizes = self.action_spec.branch_sizes
            return MultiCategoricalPolicy(nn.Sequential(features, *layers), critic, branch_sizes).eval()
        std = ConstantStd(self.log_std.detach().clone())
        body = nn.Sequential(features, *layers[:-1])
        return GaussianPolicy(body, layers[-1], std, self.bounds, critic).eval()
