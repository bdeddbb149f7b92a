"""The choice of the best policy of a training."""

import copy
from typing import Generic, TypeVar

import numpy as np

from training.policies.envs.evaluate import SELECTION_SEED, vector_returns
from training.policies.envs.make import spec_of
from training.policies.loops.learner import ActingPolicy
from training.policies.loops.settings import PolicySettings
from training.policies.state import Stateful

Snapshot = TypeVar("Snapshot", bound=ActingPolicy)


class Selection(Stateful, Generic[Snapshot]):
    """The best policy so far. Every evaluation has new starts, none of them those of the reported one."""

    state_parts = ("best",)
    state_values = ("best_return", "seed")

    def __init__(self, settings: PolicySettings, policy: Snapshot) -> None:
        self.settings = settings
        self.best, self.best_return = copy.deepcopy(policy), -np.inf
        threshold = spec_of(settings.environment).reward_threshold
        self.target_return = threshold if settings.target_return is None else settings.target_return
        self.seed = SELECTION_SEED

    def evaluate(self, policy: Snapshot) -> tuple[float, bool]:
        """(mean return, whether the target return is confirmed).

        A short evaluation; where it reaches the target a long one, whose mean must lie two standard errors
        above it.
        """
        mean, _ = self._mean_return(policy, self.settings.n_eval_episodes)
        score, is_confirmed = mean, False
        if self.target_return is not None and mean >= self.target_return:
            score, standard_error = self._mean_return(policy, self.settings.evaluation_episodes)
            is_confirmed = score - 2 * standard_error >= self.target_return
        if score > self.best_return or is_confirmed:
            self.best, self.best_return = copy.deepcopy(policy), score
        return mean, is_confirmed

    def _mean_return(self, policy: Snapshot, episodes: int) -> tuple[float, float]:
        """(mean, its standard error)."""
        returns = vector_returns(
            policy.act, self.settings.environment, episodes, self.seed, self.settings.env_kwargs
        )
        self.seed += episodes
        return float(returns.mean()), float(returns.std(ddof=1) / np.sqrt(episodes))
