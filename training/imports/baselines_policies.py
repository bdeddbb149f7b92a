"""The policies of stable-baselines3 as served graphs, rebuilt from a saved state dict.

They act as `model.predict` does: the weights go into the graphs of training/policies/graphs, which take every
step of `predict` in its order and precision, so that actions are equal, not just close.

Not covered: convolutions, dictionaries, recurrent policies, MultiBinary actions.
"""

from typing import Any

import torch
from torch import nn

from marina.core.errors import CallError
from training.imports.baselines_zip import SavedPolicy
from training.policies.graphs.features import (
    ActionBounds,
    ConstantStd,
    GSDEStd,
    LearnedStd,
    MeanOfQuantiles,
    ObservationFeatures,
    ObservationStatistics,
)
from training.policies.graphs.policies import (
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    GreedyPolicy,
    MultiCategoricalPolicy,
    Policy,
)
from training.policies.spaces import ActionSpec, ObservationSpec

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
DEFAULT_ACTIVATIONS = {
    "ppo": "tanh",
    "a2c": "tanh",
    "dqn": "relu",
    "sac": "relu",
    "td3": "relu",
    "ddpg": "relu",
    "tqc": "relu",
    "qrdqn": "relu",
    "ars": "relu",
}
# PPO and A2C: by all three
ACTS_BY = {
    **dict.fromkeys(("dqn", "qrdqn"), ("discrete",)),
    **dict.fromkeys(("sac", "td3", "ddpg", "tqc"), ("box",)),
    "ars": ("discrete", "box"),
}
# for learning only
IGNORED = ("critic.", "critic_target.", "actor_target.", "q_net_target.", "quantile_net_target.")


def activation_of(saved: SavedPolicy, expected: str | None) -> tuple[str, str]:
    """The hidden layers' activation, one of ACTIVATIONS, and its source: "file", "setting" or "default".

    Raises CallError where the file has another one than `expected`, or one that can't be rebuilt.
    """
    saved_name = saved.options.get("activation_fn")
    if saved_name is None:
        return (expected, "setting") if expected else (DEFAULT_ACTIVATIONS[saved.algorithm], "default")
    name = next((name for name, kind in ACTIVATIONS.items() if str(saved_name) == str(kind)), None)
    if name is None and expected is None:
        raise CallError(
            f"{saved.path}: activation_fn is {saved_name}; "
            f"if it does the same as one of {', '.join(ACTIVATIONS)}, set 'activation'"
        )
    if name is not None and expected not in (None, name):
        raise CallError(
            f"{saved.path}: activation_fn is {saved_name}, not {expected}; leave 'activation' out"
        )
    return (name, "file") if name else (str(expected), "setting")


def rebuild(
    saved: SavedPolicy,
    observations: ObservationSpec,
    actions: ActionSpec,
    activation: str,
    statistics: ObservationStatistics | None,
) -> Policy:
    """The policy in eval mode, for these spaces.

    Raises CallError, naming the weight, where one is missing, doesn't fit the spaces, or has no place.
    """
    if actions.type not in ACTS_BY.get(saved.algorithm, (actions.type,)):
        raise CallError(f"{saved.path}: {saved.algorithm} can't act in a space of type {actions.type}")
    weights = _Weights(saved, activation)
    features = ObservationFeatures(observations, statistics)
    build = BUILDERS.get(saved.algorithm, _actor_critic)
    policy = build(weights, features, actions, saved.options)
    weights.check_used()
    return policy.eval()


class _Weights:
    """A state dict whose entries are taken one by one, and must all find their place."""

    def __init__(self, saved: SavedPolicy, activation: str) -> None:
        self.path, self.activation = saved.path, ACTIVATIONS[activation]
        self.left = {name: value for name, value in saved.weights.items() if not name.startswith(IGNORED)}
        self.may_lack_biases = saved.algorithm == "ars"

    def take(self, name: str) -> torch.Tensor:
        if name not in self.left:
            raise CallError(
                f"{self.path}: the weight {name} is missing; what is there: {', '.join(self.left)}"
            )
        return self.left.pop(name)

    def linear(self, name: str, inputs: int, outputs: int | None = None) -> nn.Linear:
        """A layer of the known size; any number of outputs by default."""
        weight = self.take(f"{name}.weight")
        has_bias = not (self.may_lack_biases and f"{name}.bias" not in self.left)
        bias = self.take(f"{name}.bias") if has_bias else torch.zeros(len(weight))
        expected = (outputs or len(weight), inputs)
        if tuple(weight.shape) != expected or bias.shape != weight.shape[:1]:
            raise CallError(
                f"{self.path}: {name}.weight is {list(weight.shape)}, but the spaces ask for {list(expected)}"
            )
        layer = nn.Linear(inputs, len(weight))
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer

    def hidden(self, prefix: str, width: int) -> tuple[list[nn.Module], int]:
        """(layers `prefix`.0, .2, .4 … up to the last, each followed by its activation; their width)."""
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
            raise CallError(
                f"{self.path}: {name} belongs to no MlpPolicy of stable-baselines3, "
                "so the policy can't be rebuilt"
            )


def _greedy(
    weights: _Weights, features: ObservationFeatures, actions: ActionSpec, _: dict[str, Any]
) -> Policy:
    return GreedyPolicy(nn.Sequential(features, weights.network("q_net.q_net", features.width, actions.size)))


def _greedy_by_quantiles(
    weights: _Weights, features: ObservationFeatures, actions: ActionSpec, _: dict[str, Any]
) -> Policy:
    layers, width = weights.hidden("quantile_net.quantile_net", features.width)
    if width % actions.size or not layers:
        raise CallError(
            f"{weights.path}: quantile_net gives {width} numbers, not as many for each of "
            f"{actions.size} actions"
        )
    means = MeanOfQuantiles(width // actions.size, actions.size)
    return GreedyPolicy(nn.Sequential(features, *layers[:-1], means))


def _random_search(
    weights: _Weights, features: ObservationFeatures, actions: ActionSpec, options: dict[str, Any]
) -> Policy:
    if "action_net.weight" in weights.left:  # of an older sb3-contrib's linear policy
        network: nn.Module = weights.linear("action_net", features.width, actions.size)
    else:
        network = weights.network("action_net", features.width, actions.size)
    scores = nn.Sequential(features, network)
    if actions.type == "discrete":
        return GreedyPolicy(scores, "logits")
    return DeterministicPolicy(
        nn.Sequential(scores, ActionBounds(actions, squash=bool(options["squash_output"])))
    )


def _deterministic(
    weights: _Weights, features: ObservationFeatures, actions: ActionSpec, _: dict[str, Any]
) -> Policy:
    actor = weights.network("actor.mu", features.width, actions.size)
    return DeterministicPolicy(nn.Sequential(features, actor, ActionBounds(actions, squash=True)))


def _squashed_gaussian(
    weights: _Weights, features: ObservationFeatures, actions: ActionSpec, options: dict[str, Any]
) -> Policy:
    layers, width = weights.hidden("actor.latent_pi", features.width)
    body, size = nn.Sequential(features, *layers), actions.size
    if "actor.log_std" not in weights.left:
        mean, deviation = (
            weights.linear("actor.mu", width, size),
            LearnedStd(weights.linear("actor.log_std", width, size)),
        )
        return GaussianPolicy(body, mean, deviation, ActionBounds(actions, squash=True))
    std = GSDEStd(weights.take("actor.log_std"), bool(options.get("use_expln")))
    if "actor.mu.weight" in weights.left:
        return GaussianPolicy(
            body, weights.linear("actor.mu", width, size), std, ActionBounds(actions, squash=True)
        )
    most = float(options.get("clip_mean", 2.0))
    clipped = nn.Sequential(weights.linear("actor.mu.0", width, size), nn.Hardtanh(-most, most))
    return GaussianPolicy(body, clipped, std, ActionBounds(actions, squash=True))


def _actor_critic(
    weights: _Weights, features: ObservationFeatures, actions: ActionSpec, options: dict[str, Any]
) -> Policy:
    layers, width = weights.hidden("mlp_extractor.policy_net", features.width)
    value_layers, value_width = weights.hidden("mlp_extractor.value_net", features.width)
    body, head = nn.Sequential(features, *layers), weights.linear("action_net", width, actions.size)
    critic = nn.Sequential(features, *value_layers, weights.linear("value_net", value_width, 1))
    if actions.type == "discrete":
        return CategoricalPolicy(nn.Sequential(body, head), critic)
    if actions.type == "multi_discrete":
        return MultiCategoricalPolicy(nn.Sequential(body, head), critic, actions.branch_sizes)
    log_std = weights.take("log_std")
    std = GSDEStd(log_std, bool(options.get("use_expln"))) if log_std.ndim > 1 else ConstantStd(log_std)
    return GaussianPolicy(
        body, head, std, ActionBounds(actions, squash=bool(options.get("squash_output"))), critic
    )


BUILDERS = {
    "dqn": _greedy,
    "qrdqn": _greedy_by_quantiles,
    "sac": _squashed_gaussian,
    "tqc": _squashed_gaussian,
    "td3": _deterministic,
    "ddpg": _deterministic,
    "ars": _random_search,
}
