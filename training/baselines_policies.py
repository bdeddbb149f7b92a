"""The policies of stable-baselines3 as graphs to be served, built from a saved state dict: they act as `model.predict` does.

Every step of `predict` is here in its order and precision, so that the actions are equal, not just close: observations are
normalised in float64 and rounded to float32 as VecNormalize does, flattened or one-hot, and run through the same layers;
continuous actions are clipped to their bounds, or squashed and scaled to them. Where `predict(deterministic=False)` would
draw, `noise` is taken (decision 0004).

What is not covered: convolutions, dictionaries, recurrent policies, MultiBinary actions.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from marina.errors import CallError
from training.baselines_zip import ObservationStatistics, SavedPolicy

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
DEFAULT_ACTIVATIONS = {"ppo": "tanh", "a2c": "tanh", "dqn": "relu", "sac": "relu", "td3": "relu", "ddpg": "relu"}
ACTS_BY = {"dqn": ("discrete",), "sac": ("box",), "td3": ("box",), "ddpg": ("box",)}  # PPO and A2C: by all three
IGNORED = ("critic.", "critic_target.", "actor_target.", "q_net_target.")  # for learning only
LOG_STD_BOUNDS = (-20, 2)  # SAC's
GSDE_EPSILON = 1e-6


def activation_of(saved: SavedPolicy, wanted: str | None) -> tuple[str, str]:
    """The hidden layers' activation, one of ACTIVATIONS, and whence it is known: "file", "setting" or "default".

    Raises CallError where the file says another one than `wanted`, or one that can't be built.
    """
    said = saved.options.get("activation_fn")
    if said is None:
        return (wanted, "setting") if wanted else (DEFAULT_ACTIVATIONS[saved.algorithm], "default")
    name = next((name for name, kind in ACTIVATIONS.items() if str(said) == str(kind)), None)
    if name is None and wanted is None:
        raise CallError(f"{saved.path}: activation_fn is {said}; if it does the same as one of {', '.join(ACTIVATIONS)}, set 'activation'")
    if name is not None and wanted not in (None, name):
        raise CallError(f"{saved.path}: activation_fn is {said}, not {wanted}; leave 'activation' out")
    return (name, "file") if name else (str(wanted), "setting")


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
    """PPO and A2C with MultiDiscrete actions; `noise` is Gumbel [B, sum of nvec].

    Gives {"action": int64 [B, branches], "value": float32 [B]}.
    """

    inputs = ("observation", "noise")

    def __init__(self, scores: nn.Module, critic: nn.Module, branches: list[int]) -> None:
        super().__init__()
        self.scores, self.critic, self.ends = scores, critic, np.cumsum(branches).tolist()[:-1]

    def forward(self, observations: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """The most probable action of every branch, or a draw."""
        pairs = zip(*(part.tensor_split(self.ends, 1) for part in (self.scores(observations), noise)), strict=True)
        action = torch.stack([_categorical(logits, draws)[0] for logits, draws in pairs], 1)
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


Policy = GreedyPolicy | CategoricalPolicy | MultiCategoricalPolicy | GaussianPolicy | DeterministicPolicy


def rebuild(
    saved: SavedPolicy, observation: dict[str, Any], action: dict[str, Any], activation: str, statistics: ObservationStatistics | None
) -> Policy:
    """The policy in eval mode, for the spaces that `rollout` describes.

    Raises CallError, naming the weight, where one is missing, doesn't fit the spaces, or has no place.
    """
    if action["type"] not in ACTS_BY.get(saved.algorithm, (action["type"],)):
        raise CallError(f"{saved.path}: {saved.algorithm} can't act in a space of type {action['type']}")
    weights = _Weights(saved, activation)
    features = Features(observation, statistics)
    build = {"dqn": _greedy, "sac": _squashed_gaussian, "td3": _deterministic, "ddpg": _deterministic}.get(saved.algorithm, _actor_critic)
    policy = build(weights, features, action, saved.options)
    weights.check_used()
    return policy.eval()


def action_size(action: dict[str, Any]) -> int:
    """How many numbers the last layer gives: one per choice, or one per component."""
    if action["type"] == "discrete":
        return int(action["n"])
    return sum(action["nvec"]) if action["type"] == "multi_discrete" else int(np.prod(action["shape"]))


class _Weights:
    """A state dict whose entries are taken one by one, and must all find their place."""

    def __init__(self, saved: SavedPolicy, activation: str) -> None:
        self.path, self.activation = saved.path, ACTIVATIONS[activation]
        self.left = {name: value for name, value in saved.weights.items() if not name.startswith(IGNORED)}

    def take(self, name: str) -> torch.Tensor:
        if name not in self.left:
            raise CallError(f"{self.path}: the weight {name} is missing; what is there: {', '.join(self.left)}")
        return self.left.pop(name)

    def linear(self, name: str, inputs: int, outputs: int | None = None) -> nn.Linear:
        """A layer of the known size; any number of outputs by default."""
        weight, bias = self.take(f"{name}.weight"), self.take(f"{name}.bias")
        expected = (outputs or len(weight), inputs)
        if tuple(weight.shape) != expected or bias.shape != weight.shape[:1]:
            raise CallError(f"{self.path}: {name}.weight is {list(weight.shape)}, but the spaces ask for {list(expected)}")
        layer = nn.Linear(inputs, len(weight))
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer

    def hidden(self, prefix: str, width: int) -> tuple[list[nn.Module], int]:
        """Layers `prefix`.0, .2, .4 …, each with its activation behind it, up to the last that is there; and their outputs."""
        layers: list[nn.Module] = []
        while f"{prefix}.{len(layers)}.weight" in self.left:
            layer = self.linear(f"{prefix}.{len(layers)}", width)
            layers, width = [*layers, layer, self.activation()], layer.out_features
        return layers, width

    def network(self, prefix: str, inputs: int, outputs: int) -> nn.Sequential:
        """The same, whose last layer gives `outputs` numbers as they are."""
        layers, width = self.hidden(prefix, inputs)
        if width != outputs or not layers:
            raise CallError(f"{self.path}: {prefix} gives {width} numbers, but the spaces ask for {outputs}")
        return nn.Sequential(*layers[:-1])

    def check_used(self) -> None:
        """Raise CallError for the first entry that was not taken."""
        for name in self.left:
            raise CallError(f"{self.path}: {name} belongs to no MlpPolicy of stable-baselines3, so that the policy can't be built again")


def _greedy(weights: _Weights, features: Features, action: dict[str, Any], _: dict[str, Any]) -> Policy:
    return GreedyPolicy(nn.Sequential(features, weights.network("q_net.q_net", features.width, action_size(action))))


def _deterministic(weights: _Weights, features: Features, action: dict[str, Any], _: dict[str, Any]) -> Policy:
    actor = weights.network("actor.mu", features.width, action_size(action))
    return DeterministicPolicy(nn.Sequential(features, actor, Bounds(action, squashed=True)))


def _squashed_gaussian(weights: _Weights, features: Features, action: dict[str, Any], options: dict[str, Any]) -> Policy:
    layers, width = weights.hidden("actor.latent_pi", features.width)
    body, size = nn.Sequential(features, *layers), action_size(action)
    if "actor.log_std" not in weights.left:
        mean, deviation = weights.linear("actor.mu", width, size), LearntDeviation(weights.linear("actor.log_std", width, size))
        return GaussianPolicy(body, mean, deviation, Bounds(action, squashed=True))
    explored = StateDependentDeviation(weights.take("actor.log_std"), bool(options.get("use_expln")))
    if "actor.mu.weight" in weights.left:
        return GaussianPolicy(body, weights.linear("actor.mu", width, size), explored, Bounds(action, squashed=True))
    most = float(options.get("clip_mean", 2.0))
    clipped = nn.Sequential(weights.linear("actor.mu.0", width, size), nn.Hardtanh(-most, most))
    return GaussianPolicy(body, clipped, explored, Bounds(action, squashed=True))


def _actor_critic(weights: _Weights, features: Features, action: dict[str, Any], options: dict[str, Any]) -> Policy:
    layers, width = weights.hidden("mlp_extractor.policy_net", features.width)
    valuing, value_width = weights.hidden("mlp_extractor.value_net", features.width)
    body, head = nn.Sequential(features, *layers), weights.linear("action_net", width, action_size(action))
    critic = nn.Sequential(features, *valuing, weights.linear("value_net", value_width, 1))
    if action["type"] == "discrete":
        return CategoricalPolicy(nn.Sequential(body, head), critic)
    if action["type"] == "multi_discrete":
        return MultiCategoricalPolicy(nn.Sequential(body, head), critic, action["nvec"])
    log_std = weights.take("log_std")
    explored = StateDependentDeviation(log_std, bool(options.get("use_expln"))) if log_std.ndim > 1 else ConstantDeviation(log_std)
    return GaussianPolicy(body, head, explored, Bounds(action, squashed=bool(options.get("squash_output"))), critic)
