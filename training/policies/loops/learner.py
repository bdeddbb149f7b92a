"""What the training loop asks of an algorithm and of its policy."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from training.policies.envs.evaluate import Act
from training.policies.envs.training_envs import TrainingEnvs
from training.policies.graphs.policies import Policy
from training.policies.spaces import ActionSpec, ObservationSpec


class ActingPolicy(Protocol):
    """A policy in training; a deep copy of it is a snapshot."""

    @property
    def act(self) -> Act:
        """Actions without exploration, as evaluations ask for them."""

    def state_dict(self) -> dict[str, Any]:
        """All that its actions depend on."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any:
        """What `state_dict` gave."""


class LearningPolicy(ActingPolicy, Protocol):
    """One that can be served."""

    def build_graph(self) -> Policy:
        """The served graph, in eval mode, with a copy of the weights."""


class Learner(Protocol):
    """An algorithm with its environments, networks and optimizers."""

    loss_name: str  # of the first number of `iteration`
    exploration_name: str  # and of the second

    @property
    def policy(self) -> LearningPolicy:
        """What learns."""

    @property
    def envs(self) -> TrainingEnvs:
        """Where it learns."""

    def iteration(self) -> tuple[float, float]:
        """Collect some experience and learn from it. Returns (loss, exploration) for the curves."""

    def state_dict(self) -> dict[str, Any]:
        """All that further iterations depend on, but for the environments' own state."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """What `state_dict` gave."""


MakeLearner = Callable[[Any, ObservationSpec, ActionSpec, int], Learner]  # the last is the seed
