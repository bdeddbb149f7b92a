"""Random network distillation: the intrinsic reward, its normalization, and a goal that random exploration
misses.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from training.policies.buffers.rollout import compute_gae
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.networks.curiosity import Curiosity, IntrinsicSettings, MLPRegressor
from training.policies.networks.optim import seeded_single_thread
from training.policies.networks.reference_losses import regression_loss
from training.policies.spaces import ObservationSpec
from training.recipes import ppo
from training.runs.run import Run

LENGTH = 30


class Corridor(gymnasium.Env[int, Any]):
    """A row of places with the goal at its right end, which alone earns something; half as many steps
    again as the way takes.
    """

    observation_space: spaces.Space[Any] = spaces.Discrete(LENGTH + 1)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.steps = 0
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.place, self.steps = max(self.place + 2 * int(action) - 1, 0), self.steps + 1
        there = self.place == LENGTH
        return self.place, float(there), there, self.steps == LENGTH * 3 // 2 and not there, {}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        spec = gymnasium.envs.registration.EnvSpec("Corridor-v0", entry_point=lambda **_: Corridor())
        patch.setitem(gymnasium.registry, spec.id, spec)
        yield


def curious(num_envs: int = 3, **options: Any) -> Curiosity:
    """Curiosity about two numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Curiosity(
            IntrinsicSettings(**options),
            ObservationSpec((2,), "float32", environment="made up"),
            num_envs,
            0.9,
        )


def test_what_was_seen_often_pays_less_than_what_is_new() -> None:
    curiosity, random = curious(learning_rate=3e-3, update_proportion=1), np.random.default_rng(0)
    known = random.normal([-1, 0], 0.3, (33, 3, 2)).astype(np.float32)
    for _ in range(30):
        curiosity.advantages(known)
        curiosity.train(random, 4, 32)

    angles = np.linspace(0, 2 * np.pi, 20)
    # in deviations of what is known
    new = 4 * np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    assert curiosity.prediction_error(new).mean() > 10 * curiosity.prediction_error(curiosity.x).mean()


def test_intrinsic_advantages_are_those_of_episodes_without_an_end() -> None:
    curiosity = curious()
    observations = np.random.default_rng(1).normal(5, 2, (9, 3, 2)).astype(np.float32)

    found = curiosity.advantages(observations)

    rows = (
        ((observations - curiosity.obs_stats.mean) / np.sqrt(curiosity.obs_stats.var))
        .clip(-5, 5)
        .astype(np.float32)
    )
    never, values = np.zeros((8, 3), bool), curiosity.critic(rows.reshape(-1, 2)).reshape(9, 3)
    rewards = (
        curiosity.prediction_error(rows[1:].reshape(-1, 2)).reshape(8, 3)
        / curiosity.return_stats.var[0] ** 0.5
    )
    np.testing.assert_allclose(
        found, compute_gae(rewards, values, never, never, 0.99, 0.9), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(curiosity.returns.reshape(8, 3), found + values[:-1], rtol=1e-6)


def test_reward_scale_is_over_all_rollouts_and_sums_carry_over() -> None:
    """Scales are over all rewards so far, and discounted sums carry over between rollouts."""
    curiosity, random = curious(num_envs=2), np.random.default_rng(0)
    novelty = random.random((2, 5, 2))
    sums, running = [], np.zeros(2)
    for now in novelty.reshape(10, 2):
        running = 0.99 * running + now
        sums.append(running)

    scales = [curiosity._reward_scale(part) for part in novelty]

    assert scales == pytest.approx([np.std(sums[:5]), np.std(sums)])


def test_a_regression_learns_and_its_gradient_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded_single_thread(0):
        regression, random = MLPRegressor((2, 8, 3), 1e-2), np.random.default_rng(0)
        rows = random.normal(size=(20, 2)).astype(np.float32)
        targets = np.stack([rows[:, 0], rows[:, 1], rows[:, 0] * rows[:, 1]], 1)
        loss = regression_loss(regression.network(torch.from_numpy(rows))[0], torch.from_numpy(targets))
        grads = torch.autograd.grad(loss, list(regression.network.parameters()))
        expected = torch.cat([grad.flatten() for grad in grads])
        with monkeypatch.context() as patch:
            patch.setattr(regression.adam, "step", lambda *_: None)
            regression.step(rows, targets)

        np.testing.assert_allclose(regression.grad, expected.numpy(), rtol=1e-3, atol=1e-5)
        for _ in range(200):
            regression.step(rows, targets)
        assert np.square(regression(rows) - targets).sum(1).mean() < 0.1 * loss.item()


def goals(intrinsic: IntrinsicSettings | None) -> int:
    """How many environments reach the corridor's end in their last rollout."""
    settings = ppo.Settings(
        environment="Corridor-v0", num_envs=8, n_steps=90, n_epochs=4, intrinsic=intrinsic
    )
    with seeded_single_thread(0):
        learner = ppo.Learner(settings, observation_spec("Corridor-v0"), action_spec("Corridor-v0"), 0)
        for _ in range(40):
            learner.iteration()
    learner.envs.vector_env.close()
    return int(learner.rollouts.terminated.any(0).sum())


def test_curiosity_reaches_a_goal_that_nothing_else_leads_to() -> None:
    assert goals(None) == 0
    assert goals(IntrinsicSettings(learning_rate=1e-3)) >= 6


def test_what_is_served_is_the_policy_alone(tmp_path: Path) -> None:
    settings = ppo.Settings(
        total_timesteps=500,
        eval_freq=10**6,
        n_eval_episodes=2,
        evaluation_episodes=2,
        intrinsic=IntrinsicSettings(),
    )

    trained = ppo.train(settings, Run(tmp_path))

    assert trained.preprocess["inputs"] == ["observation", "action_mask", "noise"]
    assert {name.partition(".")[0] for name, _ in trained.module.named_parameters()} == {"scores", "critic"}
