"""What the policy gradient methods learn from: the transitions of one rollout, and their advantages."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RolloutBatch:
    """N transitions by one policy; float32, but for discrete actions (int64) and masks (bool)."""

    features: np.ndarray  # [N, w]
    actions: np.ndarray  # [N, branches], or [N, n] unclipped
    log_probs: np.ndarray  # [N], by the policy that acted
    values: np.ndarray  # [N], by the critic at that time
    advantages: np.ndarray  # [N]
    returns: np.ndarray  # [N], the critic's targets
    action_mask: np.ndarray | None = None  # [N, n], the valid choices; None: all

    def __len__(self) -> int:
        return len(self.advantages)

    def take(self, index: np.ndarray | slice) -> "RolloutBatch":
        """Those at int64 [M]."""
        return RolloutBatch(
            self.features[index],
            self.actions[index],
            self.log_probs[index],
            self.values[index],
            self.advantages[index],
            self.returns[index],
            None if self.action_mask is None else self.action_mask[index],
        )

    def normalized_advantages(self) -> np.ndarray:
        """With mean 0 and standard deviation 1, [N]."""
        centered = self.advantages - self.advantages.mean()
        std = np.sqrt(centered @ centered / max(len(centered) - 1, 1))
        normalized: np.ndarray = centered / (std + 1e-8)
        return normalized


def compute_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    terminated: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Advantages [T, num_envs] of rewards, terminated and dones [T, num_envs] and values [T + 1, num_envs].

    Generalized advantage estimation (Schulman et al. 2016, equations 11 to 16): the sum of (gamma lambda)^k
    delta_{t+k} up to the end of the episode, with delta_t = r_t + gamma V(s_{t+1}) - V(s_t), where V is 0
    after a termination; a truncated episode ends with its last delta.
    """
    deltas = rewards + gamma * (values[1:] * ~terminated) - values[:-1]
    decay = (gamma * gae_lambda * ~dones).astype(deltas.dtype)
    advantages: np.ndarray = np.empty_like(deltas)
    next_advantage = np.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        next_advantage = advantages[step] = deltas[step] + decay[step] * next_advantage
    return advantages
