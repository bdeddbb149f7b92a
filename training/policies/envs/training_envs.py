"""The environments that a learner steps, and what is counted of them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from training.policies.envs.evaluate import SELECTION_SEED
from training.policies.envs.make import uses_action_masks
from training.policies.envs.vectorize import make_vec
from training.policies.state import Stateful, rng_from_json, rng_to_json


class TrainingEnvs(Stateful):
    """`num_envs` environments that keep running from iteration to iteration.

    `obs` are the current observations, `action_mask` (bool [num_envs, n], None for all valid) is of them, and
    `rng` is the generator of everything that the learner draws.
    """

    state_values = ("num_timesteps", "num_episodes", "last_return")

    def __init__(
        self,
        environment: str,
        num_envs: int,
        seed: int,
        env_kwargs: Mapping[str, Any] | None = None,
        envpool: bool = False,
    ) -> None:
        self.vector_env = make_vec(environment, num_envs, env_kwargs, envpool)
        self.rng = np.random.default_rng(seed)
        self.has_masks = uses_action_masks(env_kwargs)
        self.action_mask: np.ndarray | None = None
        self._observe(*self.vector_env.reset(seed=self._draw_seed()))
        # environments whose next step only resets them: the action is ignored, the reward is 0
        self.autoreset = np.zeros(num_envs, bool)
        self.episode_returns = np.zeros(num_envs)
        self.num_timesteps, self.num_episodes, self.last_return = 0, 0, 0.0
        self.was_resumed = False  # until a replay buffer has seen it
        self.digest = hashlib.sha256()

    def reset(self) -> None:
        """Begin a new episode in every environment, whether the last one has ended or not."""
        self._observe(*self.vector_env.reset())
        self.autoreset[:], self.episode_returns[:] = False, 0

    def resume(self) -> None:
        """After an interruption: new episodes, since the environments' own state isn't saved."""
        self.vector_env.reset(seed=self._draw_seed())
        self.reset()
        self.was_resumed = True

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of every environment: (rewards, terminated, dones, valid), [num_envs] each.

        `valid` is false where the step only reset an environment (gymnasium's next-step autoreset).
        """
        obs, rewards, terminated, truncated, infos = self.vector_env.step(actions)
        self._observe(obs, infos)
        self.digest.update(self.obs.tobytes() + rewards.tobytes())
        valid, self.autoreset = ~self.autoreset, terminated | truncated
        # a tenth of what sum() and any() take on a few environments
        self.num_timesteps += int(np.count_nonzero(valid))
        self.episode_returns += rewards
        if num_dones := int(np.count_nonzero(self.autoreset)):
            self.num_episodes += num_dones
            self.last_return = float(self.episode_returns[self.autoreset].mean())
            self.episode_returns[self.autoreset] = 0
        return rewards, terminated, self.autoreset, valid

    def state_dict(self) -> dict[str, Any]:
        """Counters and the generator. The environments' own state can't be saved: see `resume`."""
        return {
            **super().state_dict(),
            "rng": rng_to_json(self.rng),
            "digest": self.digest.hexdigest(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave. The digest of later steps starts from the saved one."""
        super().load_state_dict(state)
        rng_from_json(self.rng, state["rng"])
        self.digest = hashlib.sha256(state["digest"].encode())

    def _draw_seed(self) -> int:
        """Below the seeds of evaluations."""
        return int(self.rng.integers(SELECTION_SEED // 2))

    def _observe(self, obs: np.ndarray, infos: Mapping[str, Any]) -> None:
        self.obs = obs
        # environments reset on the step after an end, so a mask is always of the observation it comes with
        if self.has_masks:
            self.action_mask = infos["action_mask"]
