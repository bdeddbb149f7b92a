"""The graphs of policies that are served, whoever trained them, and how they are asked in this process.

Observations come in as the environment gives them: they are normalised in float64 and rounded to float32, flattened or
one-hot; continuous actions are clipped to their bounds, or squashed and scaled to them. Where a stochastic policy would
draw, `noise` is taken (decision 0004), so that zeros give the deterministic action.

What is not covered: convolutions, dictionaries, recurrent policies, MultiBinary actions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.policies import rollout
from training.trained import Sample

LOG_STD_BOUNDS = (-20, 2)  # SAC's
GSDE_EPSILON = 1e-6


@dataclass(frozen=True)
class ObservationStatistics:
    """An observation becomes (observation - mean) / sqrt(var + epsilon), clipped to -clip..clip: float64 of its shape."""

    mean: np.ndarray
    var: np.ndarray
    epsilon: float = 1e-8
    clip: float = 10.0


class Features(nn.Module):
    """Observations as an environment gives them to float32 [B, width]: normalised, one-hot, flat.

    Takes float32 or float64 [B, *shape], or states int64 [B].
    """

    def __init__(self, observation: dict[str, Any], statistics: ObservationStatistics | None) -> None:
        super().__init__()
        self.mean: torch.Tensor | None
        self.deviation: torch.Tensor | None
        self.states: torch.Tensor | None
        discrete = observation["dtype"] == "int64"
        self.width = observation["high"] + 1 if discrete else int(np.prod(observation["shape"]))
        self.register_buffer("states", torch.arange(self.width) if discrete else None)
        self.clip = statistics.clip if statistics else 0.0
        self.register_buffer("mean", torch.from_numpy(statistics.mean) if statistics else None)
        self.register_buffer("deviation", torch.from_numpy(np.sqrt(statistics.var + statistics.epsilon)) if statistics else None)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """What the first layer takes."""
        if self.states is not None:
            return (observations.reshape(-1, 1) == self.states).float()
        if self.mean is not None and self.deviation is not None:
            observations = ((observations.double() - self.mean) / self.deviation).clamp(-self.clip, self.clip)
        return observations.float().reshape(-1, self.width)


class Bounds(nn.Module):
    """Raw actions [B, n] to the action space's own units [B, *shape]: clipped, or squashed by tanh and scaled."""

    def __init__(self, action: dict[str, Any], squashed: bool) -> None:
        super().__init__()
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.shape, self.squashed = tuple(action["shape"]), squashed
        for name, infinite in (("low", -torch.inf), ("high", torch.inf)):
            bounds = [infinite if bound is None else bound for bound in np.ravel(np.array(action[name], object))]
            self.register_buffer(name, torch.tensor(bounds, dtype=torch.float32).reshape(self.shape))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """float32 [B, *shape]."""
        raw = raw.reshape(-1, *self.shape)
        if self.squashed:
            return self.low + (0.5 * (raw.tanh() + 1.0) * (self.high - self.low))
        return raw.clamp(self.low, self.high)


class ConstantDeviation(nn.Module):
    """One standard deviation per component, whatever is observed."""

    def __init__(self, log_std: torch.Tensor) -> None:
        super().__init__()
        self.deviation: torch.Tensor
        self.register_buffer("deviation", log_std.exp())

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """[n]."""
        return self.deviation


class LearntDeviation(nn.Module):
    """SAC's: a layer gives the logarithm, which is kept within bounds."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, n]."""
        log_std: torch.Tensor = self.layer(latent)
        return log_std.clamp(*LOG_STD_BOUNDS).exp()


class StateDependentDeviation(nn.Module):
    """Of generalised state-dependent exploration (Raffin et al. 2020, "Smooth Exploration for Robotic Reinforcement Learning").

    There, actions get latent @ matrix with a matrix of normal draws (equation 4); here the matrix is drawn anew for every
    action, which makes the noise normal with variance latent^2 @ std^2.
    """

    def __init__(self, log_std: torch.Tensor, expln: bool) -> None:
        super().__init__()
        self.variance: torch.Tensor
        above = (log_std.clamp(min=0) + GSDE_EPSILON).log1p() + 1.0
        self.register_buffer("variance", (torch.where(log_std > 0, above, log_std.exp()) if expln else log_std.exp()) ** 2)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, n], or [B, 1] where all components have the same."""
        return (latent**2 @ self.variance).sqrt()


class GreedyPolicy(nn.Module):
    """DQN: observations and action_mask (bool [B, n]) to {"action": int64 [B], "q_values": float32 [B, n]}."""

    inputs = ("observation", "action_mask")

    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The action of the highest Q-value among those that are allowed."""
        values = self.scores(observations)
        return {"action": values.masked_fill(~action_mask, -torch.inf).argmax(1), "q_values": values}


class CategoricalPolicy(nn.Module):
    """PPO and A2C with Discrete actions; `noise` is Gumbel [B, n].

    Gives {"action": int64 [B], "probabilities": float32 [B, n] of the allowed actions, "value": float32 [B]}.
    """

    inputs = ("observation", "action_mask", "noise")

    def __init__(self, scores: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.scores, self.critic = scores, critic

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """The most probable action, or a draw."""
        logits = self.scores(observations).masked_fill(~action_mask, -torch.inf)
        action, probabilities = _categorical(logits, noise)
        return {"action": action, "probabilities": probabilities, "value": self.critic(observations).squeeze(1)}


class MultiCategoricalPolicy(nn.Module):
    """PPO and A2C with MultiDiscrete actions; `action_mask` (bool) and `noise` (Gumbel) are [B, sum of nvec], branch after branch.

    Gives {"action": int64 [B, branches], "value": float32 [B]}.
    """

    inputs = ("observation", "action_mask", "noise")

    def __init__(self, scores: nn.Module, critic: nn.Module, branches: list[int]) -> None:
        super().__init__()
        self.scores, self.critic, self.ends = scores, critic, np.cumsum(branches).tolist()[:-1]

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """The most probable action of every branch, or a draw, of those that are allowed."""
        logits = self.scores(observations).masked_fill(~action_mask, -torch.inf)
        pairs = zip(*(part.tensor_split(self.ends, 1) for part in (logits, noise)), strict=True)
        action = torch.stack([_categorical(part, draws)[0] for part, draws in pairs], 1)
        return {"action": action, "value": self.critic(observations).squeeze(1)}


def _categorical(logits: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(action, probabilities): where there is no noise the first of the most probable, as torch's Categorical gives it.

    Among probabilities that round to the same, the largest logit would be another action.
    """
    probabilities = (logits - logits.logsumexp(1, keepdim=True)).softmax(1)
    return torch.where(noise.any(1), (logits + noise).argmax(1), probabilities.argmax(1)), probabilities


class GaussianPolicy(nn.Module):
    """PPO, A2C and SAC with Box actions; `noise` is standard normal [B, n].

    Gives {"action": float32 [B, *shape]} and, where there is a critic of states, "value" float32 [B].
    """

    inputs = ("observation", "noise")

    def __init__(self, body: nn.Module, mean: nn.Module, deviation: nn.Module, bounds: Bounds, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.mean, self.deviation, self.bounds, self.critic = body, mean, deviation, bounds, critic

    def forward(self, observations: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean plus deviation times noise, within the bounds."""
        latent = self.body(observations)
        action = self.bounds(self.mean(latent) + self.deviation(latent) * noise)
        return {"action": action, **({"value": self.critic(observations).squeeze(1)} if self.critic else {})}


class DeterministicPolicy(nn.Module):
    """TD3 and DDPG: observations to {"action": float32 [B, *shape]}."""

    inputs = ("observation",)

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        """The actor's output, squashed and scaled."""
        return {"action": self.actor(observations)}


class PlanningPolicy(nn.Module):
    """Model predictive control: the first step of a plan, made anew at every observation.

    `planner` takes float32 [B, w] and gives (that step [B, n], the return of the plan [B]). Answers are {"action": float32 [B, *shape],
    "value": float32 [B]} of a Box, {"action": int64 [B], "probabilities": float32 [B, n], "value"} of Discrete actions.
    """

    inputs = ("observation",)

    def __init__(self, features: nn.Module, planner: nn.Module, action: dict[str, Any]) -> None:
        super().__init__()
        self.features, self.planner, self.shape = features, planner, action.get("shape")

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        """The plan's first step and what the plan is expected to earn."""
        first, value = self.planner(self.features(observations))
        if self.shape is None:
            return {"action": first.argmax(1), "probabilities": first, "value": value}
        return {"action": first.reshape(-1, *self.shape), "value": value}

    def scores(self, observations: torch.Tensor) -> torch.Tensor:
        """The shares of discrete actions among the best plans, [B, n]."""
        shares: torch.Tensor = self.planner(self.features(observations))[0]
        return shares


Policy = GreedyPolicy | CategoricalPolicy | MultiCategoricalPolicy | GaussianPolicy | DeterministicPolicy | PlanningPolicy


def branch_sizes(action: dict[str, Any]) -> list[int]:
    """How many choices each number of an action has: one number of Discrete actions; none of a Box."""
    if action["type"] == "discrete":
        return [int(action["n"])]
    return [*action.get("nvec", [])]


def action_size(action: dict[str, Any]) -> int:
    """How many numbers the last layer gives: one per choice, or one per component."""
    return sum(branch_sizes(action)) or int(np.prod(action["shape"]))


def example(policy: Policy, observation: dict[str, Any], action: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """The graph's inputs for a batch of two: observations of zeros, everything allowed, no noise."""
    parts = {
        "observation": torch.zeros(2, *observation["shape"], dtype=getattr(torch, observation["dtype"])),
        "action_mask": torch.ones(2, action_size(action), dtype=torch.bool),
        "noise": torch.zeros(2, action_size(action)),
    }
    return tuple(parts[name] for name in policy.inputs)


def described(policy: Policy, inputs: tuple[torch.Tensor, ...], observation: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    """What `Trained` takes of a policy's graph: the module, its example, and what the handler has to know of inputs and outputs."""
    noise = {"noise": "normal" if action["type"] == "box" else "gumbel"} if "noise" in policy.inputs else {}
    outputs = [name for name in policy(*inputs) if name != "action"]
    return {
        "kind": "policy",
        "module": policy,
        "example": inputs,
        "preprocess": {**observation, "inputs": [*policy.inputs]},
        "postprocess": {"type": "policy", "action_space": action, **noise, "deterministic": True, "outputs": outputs},
    }


def acting(policy: Policy, inputs: tuple[torch.Tensor, ...]) -> rollout.Act:
    """Deterministic actions of observations [n, ...] and, if they are given, masks, as `rollout` asks for them."""
    return lambda observations, allowed=None: answered(policy, inputs, observations, "action", allowed)


@torch.no_grad()
def answered(
    policy: Policy, inputs: tuple[torch.Tensor, ...], observations: np.ndarray, name: str, allowed: np.ndarray | None = None
) -> np.ndarray:
    """What the policy answers under `name` at observations [n, ...], some at a time: an episode of pictures would fill the memory.

    `allowed` is bool [n, choices]; None allows all.
    """
    found, at_rest = [], dict(zip(policy.inputs[1:], inputs[1:], strict=True))
    for start in range(0, len(observations), 256):
        rows = torch.from_numpy(observations[start : start + 256]).to(inputs[0].dtype)
        rest = {key: part[:1].expand(len(rows), -1) for key, part in at_rest.items()}
        if allowed is not None:
            rest["action_mask"] = torch.from_numpy(allowed[start : start + 256])
        found.append(policy(rows, *rest.values())[name].numpy())
    return np.concatenate(found)


def golden(
    policy: Policy,
    inputs: tuple[torch.Tensor, ...],
    observations: np.ndarray,
    action: dict[str, Any],
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Sample]]:
    """The actions [T, ...] at the observations [T, ...] of an episode, and its clearest steps as sample requests.

    `allowed`, bool [T, choices], are the masks of the episode, if it had any.
    """
    actions, branches = acting(policy, inputs)(observations, allowed), branch_sizes(action)
    if not branches:
        return actions, rollout.golden_samples(observations, actions, np.ones(len(actions), bool))
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(observations).to(inputs[0].dtype), 256)
        scores = torch.cat([policy.scores(part) for part in parts])  # type: ignore[operator,union-attr]
    most = scores.abs().max()
    if allowed is not None:
        scores = scores.masked_fill(~torch.from_numpy(allowed), -torch.inf)
    best = [functional.pad(part, (0, 1), value=-torch.inf).topk(2).values for part in torch.split(scores, branches, 1)]
    leads = torch.stack([part[:, 0] - part[:, 1] for part in best]).amin(0)
    clear = leads >= torch.maximum(leads.median(), 1e-3 * most)  # other arithmetic can't turn these
    return actions, rollout.golden_samples(observations, actions, clear.numpy(), allowed)
