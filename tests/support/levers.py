"""An environment whose actions are several choices at once, also with masks of them."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

BRANCHES = [3, 2, 4]


class Levers(gymnasium.Env[np.ndarray, Any]):
    """Observes where each lever should stand, one-hot, and pays the share of levers that are put there; an
    episode has 10 steps.
    """

    observation_space: spaces.Space[Any] = spaces.Box(0, 1, (sum(BRANCHES),), np.float32)
    action_space: spaces.Space[Any] = spaces.MultiDiscrete(BRANCHES)
    steps = 10

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return self.observe(), self.info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        share = float((np.asarray(action) == self.wanted).mean())
        self.step_number += 1
        return self.observe(), share, self.step_number == self.steps, False, self.info()

    def observe(self) -> np.ndarray:
        self.wanted = self.np_random.integers(BRANCHES)
        return np.concatenate(
            [np.eye(size, dtype=np.float32)[place] for size, place in zip(BRANCHES, self.wanted, strict=True)]
        )

    def info(self) -> dict[str, Any]:
        return {}


class StuckLevers(Levers):
    """Of every lever some positions are stuck at times, which its mask says, but never the right one; to
    try them is an error.
    """

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        places = np.asarray(action) + np.cumsum([0, *BRANCHES[:-1]])
        assert self.mask[places].all(), f"{action} is forbidden by {self.mask}"
        return super().step(action)

    def info(self) -> dict[str, Any]:
        self.mask = (self.np_random.random(sum(BRANCHES)) < 0.5).astype(np.int8)
        self.mask[self.wanted + np.cumsum([0, *BRANCHES[:-1]])] = 1
        return {"action_mask": self.mask}
