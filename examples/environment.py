"""An environment: steer a boat across a river to a landing place, against the current."""

import gymnasium
import numpy as np
from gymnasium import spaces


class River(gymnasium.Env):
    """Observed are the way left across and along; actions: drift, row upstream, row across."""

    observation_space = spaces.Box(-2, 2, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = np.array([1.0, self.np_random.uniform(-0.5, 0.5)], np.float32)
        return self.left.copy(), {}

    def step(self, action):
        self.left += np.float32(0.05) * np.float32([[0, 1], [0, -1], [-1, 0.5]][action])
        self.left = self.left.clip(-2, 2)
        landed = bool(self.left[0] <= 0)
        reward = 1 - abs(float(self.left[1])) if landed else -0.01
        return self.left.copy(), reward, landed, False, {}


gymnasium.register("River-v0", entry_point=River, max_episode_steps=100, reward_threshold=0.7)
