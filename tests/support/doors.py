"""An environment most of whose actions are walls, with masks that say so."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from training.policies.envs.observe import action_spec, observation_spec

PLACES, DOORS = 6, 10


def allowed_at(place: Any) -> np.ndarray:
    """The three doors of a place, bool [..., DOORS]; the first leads on."""
    found: np.ndarray = (np.arange(DOORS) - np.asarray(place)[..., None] * 3) % DOORS < 3
    return found


class Doors(gymnasium.Env[int, int]):
    """A way of places, each with three of ten doors. One leads on, which earns 1, one back to the start,
    which costs all that was earned; the others are walls.

    After the last place it ends, and has no mask any more; after 20 steps it is cut off.
    """

    observation_space: spaces.Space[Any] = spaces.Discrete(PLACES + 1)
    action_space: spaces.Space[Any] = spaces.Discrete(DOORS)
    walls = True  # can be run against

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = 0, 0
        return 0, {"action_mask": allowed_at(0).astype(np.int8)}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert self.walls or allowed_at(self.place)[action], f"door {action} at place {self.place}"
        way = (action - 3 * self.place) % DOORS
        before, self.steps = self.place, self.steps + 1
        self.place = {0: self.place + 1, 1: 0}.get(way, self.place)
        done = self.place == PLACES
        info = {} if done else {"action_mask": allowed_at(self.place).astype(np.int8)}
        return self.place, float(self.place - before), done, not done and self.steps == 20, info


class DoorsAlone(Doors):
    """To run against a wall is an error."""

    walls = False


MASKED = {"wrappers": {"action_masks": True}}


def spaces_of(environment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return observation_spec(environment, env_kwargs=MASKED), action_spec(environment, MASKED)


# variants of deep Q-learning that learn the way
DQN_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "distributional": {"num_atoms": 11, "v_min": 0.0, "v_max": 6.0},
    "rainbow": {
        "num_atoms": 11,
        "v_min": 0.0,
        "v_max": 6.0,
        "double": True,
        "dueling": True,
        "noisy": True,
        "prioritized": True,
    },
}
