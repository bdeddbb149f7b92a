"""Twin delayed deep deterministic policy gradient: learns continuous actions with a deterministic actor.

The algorithm is TD3 (Fujimoto, van Hoof and Meger 2018, "Addressing Function Approximation Error in
Actor-Critic Methods", Algorithm 1). With `n_critics: 1, policy_delay: 1, target_policy_noise: 0` it is DDPG
(Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", Algorithm 1), with independent
normal noise for exploration instead of correlated noise. Gradients are written by hand.

The whole story is in this file (settings, actor, targets, gradient steps), policies/loops/off_policy.py (the
replay), policies/networks/critics.py and policies/loops/learning.py (the training loop).
policies/networks/reference_losses.py has the losses as the paper writes them.

Not covered: images; a served policy that explores.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import nn

from training.export.trained import Trained
from training.policies.buffers.replay import Transitions
from training.policies.graphs.features import ObservationFeatures
from training.policies.graphs.policies import DeterministicPolicy, Policy
from training.policies.loops import learning
from training.policies.loops.off_policy import BoundedActor, OffPolicyLearner, OffPolicySettings
from training.policies.networks.critics import Critics
from training.policies.networks.mlp import BatchedMLP, backward, forward, forward_all
from training.policies.networks.optim import flatten
from training.policies.spaces import ActionSpec, ObservationSpec
from training.runs.run import Run

METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(OffPolicySettings):
    """Defaults are tuned for Pendulum-v1."""

    n_critics: Literal[1, 2] = Field(
        default=2, description="2: the smaller Q-value counts, against overestimation; 1 as in DDPG"
    )
    policy_delay: int = Field(
        default=2, ge=1, description="gradient steps of the critics per step of the actor and the targets"
    )
    target_policy_noise: float = Field(
        default=0.2, ge=0, description="std of the noise on the target's action, of actions in -1..1"
    )
    target_noise_clip: float = Field(
        default=0.5, ge=0, description="that noise is clipped to plus and minus this"
    )
    exploration_noise: float = Field(
        default=0.1, ge=0, description="std of the noise on actions in the environment, of actions in -1..1"
    )


class DeterministicActor(BoundedActor):
    """One number per component, then tanh."""

    def __init__(self, settings: Settings, observations: ObservationSpec, actions: ActionSpec) -> None:
        super().__init__(settings, observations, actions, outputs_per_action=1)

    def bounded_actions(self, features: np.ndarray) -> np.ndarray:
        """Features [B, w] to actions in -1..1 [B, n]."""
        actions: np.ndarray = np.tanh(forward(self.networks.numpy_layers(), self.activation, features))
        return actions

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions in the Box's own units."""
        return self.to_environment(self.bounded_actions(self.encoder(obs)))

    def build_graph(self) -> Policy:
        """The served graph, in eval mode, with a copy of the weights."""
        features = ObservationFeatures(self.observation_spec, None)
        actor = nn.Sequential(features, *self.networks.to_modules(0), self.bounds)
        return DeterministicPolicy(actor).eval()


class Learner(OffPolicyLearner[Settings, DeterministicActor]):
    """TD3; an iteration is `train_freq` steps of all environments and the gradient steps for them."""

    exploration_name = "exploration noise"
    state_parts: ClassVar = (*OffPolicyLearner.state_parts, "target")
    state_values: ClassVar = ("num_gradient_steps",)

    def __init__(
        self, settings: Settings, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        super().__init__(settings, DeterministicActor(settings, observations, actions), seed)
        width, size = self.policy.encoder.width, self.policy.action_size
        self.target = BatchedMLP(1, (width, *settings.hidden, size), settings.activation)
        self.flat_target = flatten(self.target)
        self.flat_target.data.copy_(self.flat.data)
        self.target_layers = self.target.numpy_layers()
        self.critics = Critics(
            settings.n_critics, width + size, settings.hidden, settings.activation, settings.learning_rate
        )
        self.num_gradient_steps = 0  # of the critics

    def iteration(self) -> tuple[float, float]:
        """(the critics' loss on the last batch, the std of the exploration noise)."""
        sample_normal, loss = self.envs.rng.standard_normal, float("nan")
        self.collector.collect(self.explore)
        for batch in self.collector.batches():
            loss = self.update_critics(batch, sample_normal(batch.actions.shape, np.float32))
            self.num_gradient_steps += 1
            if self.num_gradient_steps % self.settings.policy_delay == 0:
                self.update_actor(batch)
                self.critics.soft_update(self.settings.tau)
                self.flat_target.data.lerp_(self.flat.data, self.settings.tau)
        return loss, self.settings.exploration_noise

    def explore(self, features: np.ndarray) -> np.ndarray:
        """The actor's actions with noise, within -1..1."""
        noise = self.envs.rng.standard_normal((len(features), self.policy.action_size), np.float32)
        actions = self.policy.bounded_actions(features) + np.float32(self.settings.exploration_noise) * noise
        clipped: np.ndarray = actions.clip(-1, 1)
        return clipped

    def targets(self, batch: Transitions, noise: np.ndarray) -> np.ndarray:
        """Equations 10 and 14, [B]: reward, and unless terminated the discounted value of next_obs.

        `noise` is standard normal [B, n]; scaled and clipped it is added to the target actor's action.
        """
        settings, next_obs = self.settings, batch.next_obs.numpy()
        clip = settings.target_noise_clip
        smoothing = (settings.target_policy_noise * noise).clip(-clip, clip)
        actions = np.tanh(forward(self.target_layers, self.policy.activation, next_obs)) + smoothing
        x = np.column_stack((next_obs, actions.clip(-1, 1))).astype(np.float32)
        not_terminated = 1 - batch.terminated.numpy()[:, 0]
        targets: np.ndarray = batch.rewards.numpy()[
            :, 0
        ] + settings.gamma * not_terminated * self.critics.min_q(x)
        return targets

    def update_actor(self, batch: Transitions) -> None:
        """One step up the first critic's value (Silver et al. 2014, equation 16)."""
        activation, obs = self.policy.activation, batch.obs.numpy()
        outputs = forward_all(self.layers, activation, obs)
        actions, critic = np.tanh(outputs[-1][0]), self.critics.networks.numpy_layers(slice(0, 1))
        q_outputs = forward_all(critic, activation, np.column_stack((obs, actions)))
        grad_q = np.full_like(q_outputs[-1], -1 / len(obs))
        grad_actions = backward(critic, activation, q_outputs, grad_q, None)[0][:, -self.policy.action_size :]
        grad_outputs = (grad_actions * (1 - actions * actions))[None]
        self.step_actor(outputs, grad_outputs)


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
