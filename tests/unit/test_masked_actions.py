"""Actions that are not allowed: masks beside the observations that they belong to, targets, and what is learned and served with them."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from marina.episodes import Requests, play_episodes
from marina.errors import CallError
from marina.evaluate import in_process, single
from marina.play import play
from tests.conftest import export_toy
from tests.levers import StuckLevers, registered
from tests.unit.test_on_policy import served
from training import a2c, dqn, mpc, ppo, reinforce, sac, trpo
from training.policies import rollout
from training.policies.distributions import forbid
from training.policies.environments import ActionMasks, make
from training.policies.graphs import acting, example
from training.policies.on_policy import Rollouts
from training.policies.q_network import projected
from training.policies.sequences import Batch
from training.policies.small_networks import small_network_arithmetic

PLACES, DOORS = 6, 10


def allowed_at(place: Any) -> np.ndarray:
    """The three doors of a place, bool [..., DOORS]; the first leads on."""
    found: np.ndarray = (np.arange(DOORS) - np.asarray(place)[..., None] * 3) % DOORS < 3
    return found


class Doors(gymnasium.Env[int, int]):
    """A way of places, each with three of ten doors. One leads on, which earns 1, one back to the start, which costs all that was
    earned; the others are walls.

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


class Wrong(Doors):
    """Gives what it is told to as a mask, after the first step."""

    mask: ClassVar[Any] = None
    ends: ClassVar[bool] = False

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 0.0, False, self.ends, {"action_mask": self.mask} if self.mask is not None else {}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with registered(Doors, DoorsAlone, Wrong):
        yield


MASKED = {"wrappers": {"action_masks": True}}


def spaces_of(environment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return rollout.observation_config(environment, options=MASKED), rollout.action_config(environment, MASKED)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "is missing"),
        (np.ones(3, np.int8), "not 10 values 0 or 1"),
        (np.full(DOORS, 2), "not 10 values 0 or 1"),
        (np.zeros(DOORS, bool), "leaves nothing to do"),
    ],
)
def test_a_mask_that_can_not_be_used_is_refused_but_counts_as_everything_at_an_end(
    mask: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    with pytest.raises(CallError, match="leaves nothing to do"):
        env._checked({"action_mask": mask}, False)

    assert env._checked({"action_mask": mask}, True).all()


@pytest.mark.parametrize(
    ("recipe", "environment", "message"),
    [
        (ppo, "CartPole-v1", "gives none"),
        (ppo, "Pendulum-v1", "acts by Box"),
        (dqn, "CartPole-v1", "gives none"),
        (sac, "Pendulum-v1", "Box"),
    ],
)
def test_without_masks_to_be_had_the_setting_is_refused(recipe: Any, environment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=f"action_masks: {environment}.*{message}.*leave it out"):
        recipe.train(recipe.Settings(environment=environment, action_masks=True), 0, tmp_path)


def test_plans_take_no_masks() -> None:
    with pytest.raises(ValueError, match="train by dqn or ppo"):
        mpc.Settings(action_masks=True)


def test_a_rollout_has_every_observation_with_its_own_mask_also_after_ends_and_cuts() -> None:
    settings = ppo.Settings(environment="DoorsAlone-v0", action_masks=True, copies=3, horizon=1500)
    with small_network_arithmetic(0):
        learner = ppo.Learner(settings, *spaces_of("DoorsAlone-v0"), 0)
        found = Rollouts(learner.policy, settings, 1).collect()
        judged, _ = learner.ascent.judge(found)

    places = found.features.argmax(1)
    assert {*places} == {*range(PLACES)}
    assert found.allowed is not None
    np.testing.assert_array_equal(found.allowed, allowed_at(places))
    assert found.allowed[np.arange(len(found)), found.actions[:, 0]].all()
    np.testing.assert_allclose(judged, found.log_probabilities, atol=1e-5)  # learning starts from ratios of one


def test_the_trust_region_is_that_of_what_is_allowed() -> None:
    settings = trpo.Settings(environment="DoorsAlone-v0", action_masks=True, copies=4, horizon=100)
    with small_network_arithmetic(0):
        learner = trpo.Learner(settings, *spaces_of("DoorsAlone-v0"), 0)
        gathered = learner.rollouts.collect()
        before, _ = learner.policy.judge(gathered.features)
        told = learner.improve(gathered)
        after, _ = learner.policy.judge(gathered.features)

    old, new = (learner.policy.distribution(forbid(scores, gathered.allowed)) for scores in (before, after))
    assert told == pytest.approx(old.divergence(new), rel=1e-3)  # type: ignore[arg-type]
    assert 0.2 * settings.max_divergence < told <= settings.max_divergence


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "distributional": {"atoms": 11, "support": (0.0, 6.0)},
    "rainbow": {"atoms": 11, "support": (0.0, 6.0), "double": True, "dueling": True, "noisy": True, "prioritised": True},
}


def dqn_learner(**options: Any) -> dqn.Learner:
    defaults: dict[str, Any] = {"hidden": (32,), "copies": 4, "warmup_steps": 64, "replay": 2000, "gamma": 0.9}
    return dqn.Learner(
        dqn.Settings(environment="DoorsAlone-v0", action_masks=True, **{**defaults, **options}), *spaces_of("DoorsAlone-v0"), 0
    )


@pytest.mark.parametrize("n_steps", [1, 3])
def test_what_is_replayed_has_the_mask_of_what_follows(n_steps: int) -> None:
    with small_network_arithmetic(0):
        learner = dqn_learner(n_steps=n_steps)
        for _ in range(300):
            learner.explore(0.9)
        drawn = learner.replay.draw(5000, np.random.default_rng(0))

    assert drawn.allowed is not None
    going_on = drawn.following < PLACES
    np.testing.assert_array_equal(drawn.allowed[going_on], allowed_at(drawn.following[going_on]))
    assert (drawn.discounts[~going_on] == 0).all()
    assert (~going_on).any()
    assert allowed_at(drawn.observations)[np.arange(5000), drawn.actions].all()


def test_a_training_that_goes_on_has_the_masks_of_its_new_starts() -> None:
    with small_network_arithmetic(0):
        learner = dqn_learner()
        for _ in range(5):
            learner.explore(1.0)
        learner.experience.go_on()

        assert learner.experience.allowed is not None
        np.testing.assert_array_equal(learner.experience.allowed, allowed_at(learner.experience.observations))
        for _ in range(50):
            learner.explore(0.5)


def test_exploration_draws_evenly_among_what_is_allowed() -> None:
    with small_network_arithmetic(0):
        learner = dqn_learner()
        for _ in range(400):
            learner.explore(1.0)
    kept = slice(0, learner.replay.added)
    ways = (learner.replay.actions[kept] - 3 * learner.replay.frames[kept])[learner.replay.real[kept]] % DOORS

    counts = np.bincount(ways.ravel(), minlength=DOORS)
    assert counts[3:].sum() == 0
    np.testing.assert_allclose(counts[:3] / counts.sum(), 1 / 3, atol=0.05)


@pytest.mark.parametrize(
    "options", [OPTIONS[name] for name in ("plain", "double", "distributional")], ids=["plain", "double", "distributional"]
)
def test_targets_are_the_best_of_what_is_allowed_afterwards(options: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    with small_network_arithmetic(0):
        learner = dqn_learner(**options)
        with torch.no_grad():
            for network in (learner.policy, learner.target):
                for parameter in network.parameters():
                    parameter.copy_(torch.randn_like(parameter))
        places = random.integers(PLACES, size=40)
        rewards, ends = random.normal(size=40).astype(np.float32), random.random(40) < 0.2
        discounts = np.where(ends, 0, 0.9).astype(np.float32)
        batch = Batch(places, places, places, rewards, discounts, np.ones(40, np.float32), places, allowed_at(places))
        learner.policy.eval()
        with torch.no_grad():
            following = learner.target.answers(torch.from_numpy(places))
            choosing = (learner.policy if options.get("double") else learner.target)(torch.from_numpy(places)).numpy()

        found = learner.wanted(batch, following)

    for row in range(40):
        best = max(np.flatnonzero(allowed_at(places[row])), key=lambda door: choosing[row, door])
        if learner.settings.atoms == 1:
            assert found[row].item() == pytest.approx(rewards[row] + discounts[row] * following[row, best].item(), rel=1e-5)
        else:
            one = slice(row, row + 1)
            parts = torch.from_numpy(rewards[one]), torch.from_numpy(discounts[one]), learner.target.support
            torch.testing.assert_close(found[one], projected(following[one, best].exp(), *parts))
    assert any(choosing[row].argmax() not in np.flatnonzero(allowed_at(places[row])) for row in range(40))


@pytest.mark.parametrize("name", OPTIONS)
def test_deep_q_learning_finds_the_way_without_touching_a_wall(name: str, tmp_path: Path) -> None:
    options = {"epsilon_steps": 1500, "learning_rate": 3e-3, **OPTIONS[name]}
    settings = dqn.Settings(
        **{"environment": "DoorsAlone-v0", "action_masks": True, "hidden": (32,), "gamma": 0.9},
        **{"steps": 20_000, "screening_every": 500, "screening_episodes": 2, "evaluation_episodes": 5, "target_return": PLACES},
        **options,
    )

    trained = dqn.train(settings, 0, tmp_path)

    assert trained.metrics["mean_return"] == PLACES


@pytest.mark.parametrize("recipe", [ppo, a2c, reinforce, trpo])
def test_policy_gradients_learn_levers_and_never_try_one_that_is_stuck(recipe: Any, tmp_path: Path) -> None:
    most, options = float(StuckLevers.steps), {"learning_rate": 1e-2, "horizon": 10} if recipe is reinforce else {}
    settings = recipe.Settings(
        environment="StuckLevers-v0", action_masks=True, steps=60_000, target_return=most, gamma=0.5, screening_every=2048, **options
    )

    trained = recipe.train(settings, 0, tmp_path)

    assert trained.metrics["mean_return"] == most
    assert trained.preprocess["wrappers"] == {"action_masks": True}


@pytest.fixture(scope="module")
def steps_needed(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, float]:
    """Of PPO until it walks the way, with masks and without, on average of some seeds."""
    common = {
        "target_return": PLACES,
        "screening_every": 256,
        "screening_episodes": 2,
        "evaluation_episodes": 2,
        "copies": 8,
        "horizon": 32,
    }
    report = tmp_path_factory.mktemp("report")
    found = {}
    for masked in (True, False):
        settings = ppo.Settings(environment="Doors-v0", action_masks=masked, steps=40_000, batch_size=64, gamma=0.9, **common)
        found[masked] = float(np.mean([ppo.train(settings, seed, report).metrics["steps"] for seed in range(3)]))
    return found


def test_with_masks_the_way_is_found_in_a_fraction_of_the_steps(steps_needed: dict[bool, float]) -> None:
    assert steps_needed[True] < 0.5 * steps_needed[False]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A policy that learned with masks, for a moment: the walls of its environment are errors."""
    settings = ppo.Settings(environment="DoorsAlone-v0", action_masks=True, steps=600, evaluation_episodes=20, screening_episodes=2)
    return ppo.train(settings, 0, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("recipe", [ppo, dqn])
def test_what_acts_in_training_and_what_is_served_take_the_same_masks(recipe: Any) -> None:
    settings = recipe.Settings(environment="DoorsAlone-v0", action_masks=True)
    observation, action = spaces_of("DoorsAlone-v0")
    with small_network_arithmetic(0):
        policy = recipe.Learner(settings, observation, action, 0).policy
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(torch.randn_like(parameter))
        graph = policy.served()
        places = np.arange(600) % PLACES
        allowed = np.random.default_rng(0).random((600, DOORS)) < 0.3
        allowed[:, 0] |= ~allowed.any(1)
        act = acting(graph, example(graph, observation, action))

        inside, outside, free = policy.act(places, allowed), act(places, allowed), act(places)

    assert allowed[np.arange(600), outside].all()
    assert not allowed[np.arange(600), free].all()
    np.testing.assert_array_equal(inside, outside)


def test_samples_carry_masks_and_are_answered_so(trained: Any, tmp_path: Path) -> None:
    handler = served(trained, tmp_path)

    assert trained.samples
    for sample in trained.samples:
        body = json.loads(sample.body)
        (answer,) = handler.answer_rows([({"body": sample.body}, {})])
        assert body["action_mask"] == allowed_at(body["observation"]).astype(int).tolist()
        assert isinstance(answer, dict)
        assert answer["action"] == sample.expect["action"]
        assert np.flatnonzero(answer["probabilities"]).tolist() == np.flatnonzero(body["action_mask"]).tolist()


def test_whoever_asks_is_told_that_masks_belong_to_every_request(trained: Any, tmp_path: Path) -> None:
    handler = served(trained, tmp_path)

    assert "send them always" in handler.request_schema()["anyOf"][0]["properties"]["action_mask"]["description"]
    assert trained.preprocess["wrappers"] == {"action_masks": True}


def test_an_evaluation_sends_masks_and_earns_what_the_training_reported(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    above_the_floor = dataclasses.replace(trained, metrics={**trained.metrics, "mean_return": 100.0})
    spec, bodies = export_toy(tmp_path, "doors", "export: {runtimes: [], max_batch: 64}\n", above_the_floor), []
    ask = single(in_process(spec))

    def watched(body: bytes) -> Any:
        bodies.append(json.loads(body))
        return ask(body)

    played = play_episodes(spec, watched, 20)

    assert played.returns.mean() == trained.metrics["mean_return"]
    for instance in bodies[0]["instances"]:
        assert instance["action_mask"] == allowed_at(instance["observation"]).astype(int).tolist()


def test_playing_hands_over_the_mask_of_every_step(trained: Any) -> None:
    requests, asked = Requests(trained.preprocess, stacks=False), []

    def act(observation: np.ndarray, allowed: np.ndarray) -> tuple[int, dict[str, Any]]:
        asked.append(requests.instance(0, len(asked), observation[0], allowed))
        action = int(np.flatnonzero(allowed)[-1 if len(asked) % 2 else 0])
        return action, {"action": action}

    play(act, "DoorsAlone-v0", 2, 0, None, MASKED)

    assert len(asked) > 10
    assert all(one["action_mask"] == allowed_at(one["observation"]).astype(int).tolist() for one in asked)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_a_taxi_is_learned_within_60_000_steps_with_masks_alone(masked: bool, tmp_path: Path) -> None:
    settings = dqn.Settings(
        **{"environment": "Taxi-v4", "action_masks": masked, "steps": 60_000, "target_return": 7.0, "screening_every": 5000},
        **{"double": True, "epsilon_steps": 30_000, "epsilon_end": 0.05, "learning_rate": 1e-3, "evaluation_episodes": 300},
    )

    trained = dqn.train(settings, 0, tmp_path)

    assert (trained.metrics["mean_return"] > 7) == masked
