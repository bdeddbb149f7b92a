"""Masks of actions while training: rollouts, replay, targets and exploration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from marina.core.errors import CallError
from tests.support.doors import DOORS, DQN_OPTIONS, PLACES, Doors, DoorsAlone, allowed_at, spaces_of
from tests.support.levers import Levers, StuckLevers
from tests.support.toy_environments import registered
from training.policies.buffers.sequences import ReplayBatch
from training.policies.envs.make import ActionMasks, make
from training.policies.loops.on_policy import RolloutCollector
from training.policies.networks.distributions import apply_mask
from training.policies.networks.optim import seeded_single_thread
from training.policies.networks.q_network import project_distribution
from training.recipes import dqn, mpc, ppo, sac, trpo
from training.runs.run import Run


class Wrong(Doors):
    """Gives what it is told to as a mask, after the first step."""

    mask: ClassVar[Any] = None
    ends: ClassVar[bool] = False

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 0.0, False, self.ends, {"action_mask": self.mask} if self.mask is not None else {}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with registered(Levers, StuckLevers, Doors, DoorsAlone, Wrong):
        yield


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "is missing"),
        (np.ones(3, np.int8), "not 10 values 0 or 1"),
        (np.full(DOORS, 2), "not 10 values 0 or 1"),
        (np.zeros(DOORS, bool), "has no valid action"),
    ],
)
def test_unusable_mask_is_refused_but_allows_all_at_an_episodes_end(
    mask: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask that cannot be used is refused, but at an episode's end it allows every action."""
    monkeypatch.setattr(Wrong, "mask", mask)
    env = make("Wrong-v0", {"action_masks": True})
    assert env.reset()[1]["action_mask"].tolist() == allowed_at(0).tolist()

    with pytest.raises(CallError, match=f"(?s)action_masks: Wrong-v0.*{message}"):
        env.step(0)

    if mask is None or not mask.any():
        monkeypatch.setattr(Wrong, "ends", True)
        assert env.step(0)[4]["action_mask"].tolist() == [True] * DOORS


def test_a_lever_without_any_position_leaves_nothing_to_do() -> None:
    env = make("StuckLevers-v0", {"action_masks": True})
    assert isinstance(env, ActionMasks)
    mask = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1])

    with pytest.raises(CallError, match="has no valid action"):
        env._check_mask({"action_mask": mask}, False)

    assert env._check_mask({"action_mask": mask}, True).all()


@pytest.mark.parametrize(
    ("recipe", "environment", "message"),
    [
        (ppo, "CartPole-v1", "gives none"),
        (ppo, "Pendulum-v1", "acts by Box"),
        (dqn, "CartPole-v1", "gives none"),
        (sac, "Pendulum-v1", "Box"),
    ],
)
def test_without_masks_to_be_had_the_setting_is_refused(
    recipe: Any, environment: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=f"action_masks: {environment}.*{message}.*leave it out"):
        recipe.train(recipe.Settings(environment=environment, action_masks=True), Run(tmp_path))


def test_plans_take_no_masks() -> None:
    with pytest.raises(ValueError, match="train by dqn or ppo"):
        mpc.Settings(action_masks=True)


def test_rollout_pairs_each_observation_with_its_mask() -> None:
    """A rollout has every observation with its own mask, also after terminations and truncations."""
    settings = ppo.Settings(environment="DoorsAlone-v0", action_masks=True, num_envs=3, n_steps=1500)
    with seeded_single_thread(0):
        learner = ppo.Learner(settings, *spaces_of("DoorsAlone-v0"), 0)
        found = RolloutCollector(learner.policy, settings, 1).collect()
        judged, _ = learner.optimizer.evaluate_actions(found)

    places = found.features.argmax(1)
    assert {*places} == {*range(PLACES)}
    assert found.action_mask is not None
    np.testing.assert_array_equal(found.action_mask, allowed_at(places))
    assert found.action_mask[np.arange(len(found)), found.actions[:, 0]].all()
    # learning starts from ratios of one
    np.testing.assert_allclose(judged, found.log_probs, atol=1e-5)


def test_the_trust_region_is_that_of_what_is_allowed() -> None:
    settings = trpo.Settings(environment="DoorsAlone-v0", action_masks=True, num_envs=4, n_steps=100)
    with seeded_single_thread(0):
        learner = trpo.Learner(settings, *spaces_of("DoorsAlone-v0"), 0)
        gathered = learner.rollouts.collect()
        before, _ = learner.policy.outputs_and_values(gathered.features)
        told = learner.update_actor(gathered)
        after, _ = learner.policy.outputs_and_values(gathered.features)

    old, new = (
        learner.policy.distribution(apply_mask(scores, gathered.action_mask)) for scores in (before, after)
    )
    assert told == pytest.approx(old.kl_divergence(new), rel=1e-3)  # type: ignore[arg-type]
    assert 0.2 * settings.target_kl < told <= settings.target_kl


def dqn_learner(**options: Any) -> dqn.Learner:
    defaults: dict[str, Any] = {
        "hidden": (32,),
        "num_envs": 4,
        "learning_starts": 64,
        "buffer_size": 2000,
        "gamma": 0.9,
    }
    return dqn.Learner(
        dqn.Settings(environment="DoorsAlone-v0", action_masks=True, **{**defaults, **options}),
        *spaces_of("DoorsAlone-v0"),
        0,
    )


@pytest.mark.parametrize("n_step_returns", [1, 3])
def test_what_is_replayed_has_the_mask_of_what_follows(n_step_returns: int) -> None:
    with seeded_single_thread(0):
        learner = dqn_learner(n_step_returns=n_step_returns)
        for _ in range(300):
            learner.collect_step(0.9)
        drawn = learner.buffer.sample(5000, np.random.default_rng(0))

    assert drawn.next_action_mask is not None
    going_on = drawn.next_obs < PLACES
    np.testing.assert_array_equal(drawn.next_action_mask[going_on], allowed_at(drawn.next_obs[going_on]))
    assert (drawn.discounts[~going_on] == 0).all()
    assert (~going_on).any()
    assert allowed_at(drawn.obs)[np.arange(5000), drawn.actions].all()


def test_a_training_that_goes_on_has_the_masks_of_its_new_starts() -> None:
    with seeded_single_thread(0):
        learner = dqn_learner()
        for _ in range(5):
            learner.collect_step(1.0)
        learner.envs.resume()

        assert learner.envs.action_mask is not None
        np.testing.assert_array_equal(learner.envs.action_mask, allowed_at(learner.envs.obs))
        for _ in range(50):
            learner.collect_step(0.5)


def test_exploration_draws_evenly_among_what_is_allowed() -> None:
    with seeded_single_thread(0):
        learner = dqn_learner()
        for _ in range(400):
            learner.collect_step(1.0)
    kept = slice(0, learner.buffer.num_added)
    ways = (learner.buffer.actions[kept] - 3 * learner.buffer.frames[kept])[
        learner.buffer.valid[kept]
    ] % DOORS

    counts = np.bincount(ways.ravel(), minlength=DOORS)
    assert counts[3:].sum() == 0
    np.testing.assert_allclose(counts[:3] / counts.sum(), 1 / 3, atol=0.05)


@pytest.mark.parametrize(
    "options",
    [DQN_OPTIONS[name] for name in ("plain", "double", "distributional")],
    ids=["plain", "double", "distributional"],
)
def test_targets_are_the_best_of_what_is_allowed_afterwards(options: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    with seeded_single_thread(0):
        learner = dqn_learner(**options)
        with torch.no_grad():
            for network in (learner.policy, learner.target):
                for parameter in network.parameters():
                    parameter.copy_(torch.randn_like(parameter))
        places = random.integers(PLACES, size=40)
        rewards, ends = random.normal(size=40).astype(np.float32), random.random(40) < 0.2
        discounts = np.where(ends, 0, 0.9).astype(np.float32)
        batch = ReplayBatch(
            places, places, places, rewards, discounts, np.ones(40, np.float32), places, allowed_at(places)
        )
        learner.policy.eval()
        with torch.no_grad():
            following = learner.target.outputs(torch.from_numpy(places))
            choosing = (learner.policy if options.get("double") else learner.target)(
                torch.from_numpy(places)
            ).numpy()

        found = learner.targets(batch, following)

    for row in range(40):
        best = max(np.flatnonzero(allowed_at(places[row])), key=lambda door: choosing[row, door])
        if learner.settings.num_atoms == 1:
            assert found[row].item() == pytest.approx(
                rewards[row] + discounts[row] * following[row, best].item(), rel=1e-5
            )
        else:
            one = slice(row, row + 1)
            parts = torch.from_numpy(rewards[one]), torch.from_numpy(discounts[one]), learner.target.support
            torch.testing.assert_close(found[one], project_distribution(following[one, best].exp(), *parts))
    assert any(choosing[row].argmax() not in np.flatnonzero(allowed_at(places[row])) for row in range(40))
