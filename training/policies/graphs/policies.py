"""The graphs of policies that are served, whoever trained them.

Where a stochastic policy would draw, it takes `noise` as an input (decision 0004): zeros give the
deterministic action.

Not covered: dictionaries, recurrent policies, MultiBinary actions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from training.policies.graphs.features import ActionBounds
from training.policies.spaces import ActionSpec


class GreedyPolicy(nn.Module):
    """DQN: observations and action_mask (bool [B, n]) to an action and its Q-values, or to scores that are
    none.

    Gives {"action": int64 [B], "q_values" or another `name`: float32 [B, n]}.
    """

    inputs = ("observation", "action_mask")

    def __init__(self, scores: nn.Module, name: str = "q_values") -> None:
        super().__init__()
        self.scores, self.name = scores, name

    def forward(self, obs: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The valid action with the highest score."""
        scores = self.scores(obs)
        return {"action": scores.masked_fill(~action_mask, -torch.inf).argmax(1), self.name: scores}


class CategoricalPolicy(nn.Module):
    """PPO and A2C with Discrete actions; `noise` is Gumbel [B, n].

    Gives {"action": int64 [B], "probabilities": float32 [B, n] of valid actions, "value": float32 [B]}.
    """

    inputs = ("observation", "action_mask", "noise")

    def __init__(self, scores: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.scores, self.critic = scores, critic

    def forward(
        self, obs: torch.Tensor, action_mask: torch.Tensor, noise: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The most probable action, or a draw."""
        logits = self.scores(obs).masked_fill(~action_mask, -torch.inf)
        action, probs = _sample_categorical(logits, noise)
        return {"action": action, "probabilities": probs, "value": self.critic(obs).squeeze(1)}


class MultiCategoricalPolicy(nn.Module):
    """PPO and A2C with MultiDiscrete actions.

    `action_mask` (bool) and `noise` (Gumbel) are [B, sum of nvec], branch after branch. Gives {"action":
    int64 [B, branches], "value": float32 [B]}.
    """

    inputs = ("observation", "action_mask", "noise")

    def __init__(self, scores: nn.Module, critic: nn.Module, branch_sizes: Sequence[int]) -> None:
        super().__init__()
        self.scores, self.critic, self.ends = scores, critic, np.cumsum(branch_sizes).tolist()[:-1]

    def forward(
        self, obs: torch.Tensor, action_mask: torch.Tensor, noise: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The most probable valid action of every branch, or a draw."""
        logits = self.scores(obs).masked_fill(~action_mask, -torch.inf)
        pairs = zip(*(tensor.tensor_split(self.ends, 1) for tensor in (logits, noise)), strict=True)
        action = torch.stack([_sample_categorical(part, draws)[0] for part, draws in pairs], 1)
        return {"action": action, "value": self.critic(obs).squeeze(1)}


def _sample_categorical(logits: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(action, probabilities): without noise the first of the most probable, as torch's Categorical gives it.

    Among probabilities that round to the same number, the largest logit would be another action.
    """
    probs = (logits - logits.logsumexp(1, keepdim=True)).softmax(1)
    return torch.where(noise.any(1), (logits + noise).argmax(1), probs.argmax(1)), probs


class GaussianPolicy(nn.Module):
    """PPO, A2C and SAC with Box actions; `noise` is standard normal [B, n].

    Gives {"action": float32 [B, *shape]} and, where there is a critic of states, "value" float32 [B].
    """

    inputs = ("observation", "noise")

    def __init__(
        self,
        body: nn.Module,
        mean: nn.Module,
        std: nn.Module,
        bounds: ActionBounds,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body, self.mean, self.std, self.bounds, self.critic = body, mean, std, bounds, critic

    def forward(self, obs: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean plus std times noise, within the bounds."""
        latent = self.body(obs)
        action = self.bounds(self.mean(latent) + self.std(latent) * noise)
        return {"action": action, **({"value": self.critic(obs).squeeze(1)} if self.critic else {})}


class DeterministicPolicy(nn.Module):
    """TD3 and DDPG: observations to {"action": float32 [B, *shape]}."""

    inputs = ("observation",)

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, obs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The actor's output, squashed and scaled."""
        return {"action": self.actor(obs)}


class PlanningPolicy(nn.Module):
    """Model predictive control: the first step of a plan that is made for every observation.

    `planner` takes float32 [B, w] and gives (that step [B, n], the return of the plan [B]). Answers are
    {"action": float32 [B, *shape], "value": float32 [B]} of a Box, {"action": int64 [B], "probabilities":
    float32 [B, n], "value"} of Discrete actions.
    """

    inputs = ("observation",)

    def __init__(self, features: nn.Module, planner: nn.Module, action_spec: ActionSpec) -> None:
        super().__init__()
        self.features, self.planner = features, planner
        self.shape = action_spec.shape if action_spec.type == "box" else None

    def forward(self, obs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The plan's first step and the return that the model expects of it."""
        first, value = self.planner(self.features(obs))
        if self.shape is None:
            return {"action": first.argmax(1), "probabilities": first, "value": value}
        return {"action": first.reshape(-1, *self.shape), "value": value}

    def scores(self, obs: torch.Tensor) -> torch.Tensor:
        """The shares of discrete actions among the best plans, [B, n]."""
        shares: torch.Tensor = self.planner(self.features(obs))[0]
        return shares


Policy = (
    GreedyPolicy
    | CategoricalPolicy
    | MultiCategoricalPolicy
    | GaussianPolicy
    | DeterministicPolicy
    | PlanningPolicy
)
