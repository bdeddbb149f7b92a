"""Deep Q-learning, against slow textbook loops and a decision process whose values are known exactly."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from marina.errors import CallError
from training import dqn
from training.dqn import Experience, GreedyPolicy, QNetwork, Replay, Settings, Transitions, td_targets, train
from training.policies import rollout
from training.trained import Trained


class TwoStates(gymnasium.Env[int, int]):
    """From state 0, action 0 stays and earns 0.5, action 1 goes to state 1 for nothing. There, action 0 ends with 10, action 1
    goes back and earns 2. Cut after 20 steps.
    """

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)
    moves = (((0.5, 0, False), (0.0, 1, False)), ((10.0, 1, True), (2.0, 0, False)))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward, self.state, ended = self.moves[self.state][action]
        return self.state, reward, ended, False, {}


@pytest.fixture(autouse=True)
def _two_states(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("TwoStates-v0", entry_point=TwoStates, max_episode_steps=20)
    monkeypatch.setitem(gymnasium.registry, "TwoStates-v0", spec)


def rows(count: int, start: int = 0) -> Transitions:
    """Transitions that are told apart by their reward: start, start + 1, ..."""
    numbers = torch.arange(start, start + count, dtype=torch.float32).reshape(-1, 1)
    return Transitions(torch.randn(count, 4), torch.randn(count, 4), numbers % 2, numbers, (numbers % 3 == 0).float())


def test_the_replay_overwrites_the_oldest() -> None:
    replay = Replay(capacity=5, width=4)

    for start, count in ((0, 3), (3, 4), (7, 2)):
        replay.add(rows(count, start))

    drawn = replay.sample(500, torch.Generator().manual_seed(0)).rewards
    assert len(replay) == 5
    assert sorted(set(drawn.flatten().tolist())) == [4, 5, 6, 7, 8]


def test_the_replay_keeps_the_newest_of_more_than_it_holds_and_the_parts_of_a_row_together() -> None:
    replay, given = Replay(capacity=4, width=4), rows(11)

    replay.add(given)

    drawn = replay.sample(200, torch.Generator().manual_seed(0))
    numbers = drawn.rewards.flatten().long()
    assert sorted(set(numbers.tolist())) == [7, 8, 9, 10]
    for part, whole in zip(drawn, given, strict=True):
        assert torch.equal(part, whole[numbers])


def test_an_unfilled_replay_never_gives_rows_that_were_not_added() -> None:
    replay = Replay(capacity=1000, width=4)
    replay.add(rows(3, start=5))

    assert set(replay.sample(100, torch.Generator().manual_seed(1)).rewards.flatten().tolist()) == {5, 6, 7}


@pytest.mark.parametrize("double", [False, True])
def test_targets_equal_the_textbooks_loop(double: bool) -> None:
    torch.manual_seed(0)
    online, target, batch = QNetwork(4, 3, (16,)), QNetwork(4, 3, (16,)), rows(40)
    expected = []
    for row in range(40):
        following = batch.next_observations[row : row + 1]
        values = target(following)[0].tolist()
        chosen = int(np.argmax(online(following)[0].tolist())) if double else int(np.argmax(values))
        bootstrap = 0.0 if batch.terminated[row].item() == 1 else 0.9 * values[chosen]
        expected.append(batch.rewards[row].item() + bootstrap)

    targets = td_targets(batch, online, target, 0.9, double)

    assert targets.shape == (40, 1)
    assert targets.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert not targets.requires_grad


def test_the_dueling_advantages_have_mean_zero_so_that_the_mean_q_value_is_the_state_value() -> None:
    torch.manual_seed(0)
    network, observations = QNetwork(4, 5, (16, 8), dueling=True), torch.randn(10, 4)
    assert network.value is not None

    value = network.value(network.body(observations))

    torch.testing.assert_close(network(observations).mean(1, keepdim=True), value)


def constant_policy(action: int, inputs: int = 4, states: int = 0) -> GreedyPolicy:
    """Always the same action."""
    network = QNetwork(inputs, 2, (), states=states)
    nn.init.zeros_(network.advantage.weight)
    with torch.no_grad():
        network.advantage.bias.copy_(torch.eye(2)[action])
    return GreedyPolicy(network)


@pytest.mark.parametrize("vector", ["own", "sync"])
def test_rows_that_only_reset_are_left_out(vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if vector == "sync":
        sync = lambda name, copies: gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(name)] * copies)  # noqa: E731
        monkeypatch.setattr(rollout, "make_vector", sync)
    experience = Experience("CartPole-v1", copies=3, seed=0)

    collected = experience.collect(constant_policy(0), steps=40, epsilon=0.0)

    starts = (collected.observations.abs() <= 0.05).all(1)
    assert experience.episodes == int(collected.terminated.sum()) >= 9
    assert len(collected.rewards) == 120 - experience.episodes + experience.resetting.sum()
    assert (collected.rewards == 1).all()
    assert int(starts.sum()) >= experience.episodes
    # a fallen pole is the end of its row and the beginning of none
    fallen = collected.observations[:, 2].abs() > 0.2095
    assert not fallen.any()
    assert (collected.next_observations[:, 2].abs() > 0.2095).float().tolist() == collected.terminated.flatten().tolist()


def test_a_cut_episode_is_not_an_ended_one_and_its_row_keeps_the_true_last_observation() -> None:
    experience = Experience("TwoStates-v0", copies=1, seed=0)

    collected = experience.collect(constant_policy(0, 1, states=2), steps=50, epsilon=0.0)  # stays in state 0 until it is cut

    assert experience.episodes == 2
    assert experience.last_return == 10
    assert len(collected.rewards) == 48
    assert not collected.terminated.any()


def test_epsilon_is_the_share_of_random_actions() -> None:
    experience = Experience("CartPole-v1", copies=50, seed=0)

    collected = experience.collect(constant_policy(1), steps=100, epsilon=0.4)

    assert float((collected.actions == 0).float().mean()) == pytest.approx(0.2, abs=0.02)


SMALL: dict[str, Any] = {
    "hidden": (32,),
    "phase_steps": 2,
    "gradient_steps": 16,
    "screening_episodes": 2,
    "evaluation_episodes": 2,
    "screening_every": 10**6,
}


@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True, "target_phases": 2}])
def test_q_values_converge_to_the_exact_ones_of_a_two_state_process(options: dict[str, Any], tmp_path: Path) -> None:
    exact, moves = np.zeros((2, 2)), TwoStates.moves
    for _ in range(500):
        exact = np.array([[r + 0.9 * exact[s].max() * (not end) for r, s, end in row] for row in moves])
    settings = Settings(environment="TwoStates-v0", gamma=0.9, steps=8000, epsilon_end=0.5, learning_rate=1e-3, **SMALL, **options)

    trained = train(settings, 0, tmp_path)

    found = trained.module(torch.tensor([0, 1]), torch.ones(2, 2, dtype=torch.bool))
    np.testing.assert_allclose(found["q_values"].detach().numpy(), exact, atol=0.15)
    assert found["action"].tolist() == exact.argmax(1).tolist()


QUICK = Settings(steps=4000, phase_steps=8, evaluation_episodes=20, screening_every=256, screening_episodes=5)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training on CartPole."""
    return train(QUICK, 1, tmp_path_factory.mktemp("report"))


def test_a_short_training_does_better_than_chance_and_says_what_it_did(quick: Trained) -> None:
    assert quick.metrics["mean_return"] > 80  # a random policy earns 22
    assert quick.metrics["episodes"] == 20
    assert quick.data["transitions"] == quick.metrics["steps"] <= 4000 + QUICK.copies * QUICK.phase_steps
    assert quick.preprocess["environment"] == "CartPole-v1"
    assert quick.postprocess["action_space"] == {"type": "discrete", "n": 2}


def test_the_reported_returns_are_those_of_the_module_that_is_handed_over(quick: Trained) -> None:
    torch.set_num_threads(1)  # several are slower for a network this small

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return quick.module(torch.from_numpy(observations), torch.ones(len(observations), 2, dtype=torch.bool))["action"].numpy()

    returns = rollout.episode_returns(act, "CartPole-v1", 20, rollout.EVALUATION_SEED, copies=7)

    assert returns.mean() == quick.metrics["mean_return"]


def test_samples_take_turns_among_the_actions_and_are_answered_so_after_json(quick: Trained) -> None:
    names, actions = [sample.name for sample in quick.samples], [sample.expect["action"] for sample in quick.samples]

    assert len(set(names)) == len(names) >= 6
    assert actions[:4] in ([0, 1, 0, 1], [1, 0, 1, 0])
    for sample in quick.samples:
        answer = quick.module(torch.tensor([json.loads(sample.body)["observation"]]), quick.example[1][:1])
        assert answer["action"].tolist() == [sample.expect["action"]]
        values = answer["q_values"].detach()
        assert values.diff().abs().item() > 9e-4 * values.abs().max().item()


@pytest.mark.parametrize(("dueling", "states"), [(False, 0), (True, 0), (False, 16)])
def test_an_exported_policy_equals_the_trained_one_for_any_batch(dueling: bool, states: int, tmp_path: Path) -> None:
    policy = GreedyPolicy(QNetwork(4, 3, (16, 16), dueling, states)).eval()
    make = (lambda batch: torch.randint(states, (batch,))) if states else (lambda batch: torch.randn(batch, 4))
    batches = {0: torch.export.Dim("batch", min=1, max=256)}
    program = torch.export.export(policy, (make(2), torch.ones(2, 3, dtype=torch.bool)), dynamic_shapes=(batches, batches), strict=False)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()

    for batch in (1, 2, 64, 256):
        observations, allowed = make(batch), torch.rand(batch, 3) < 0.7
        allowed[:, 1] = True
        ours, theirs = policy(observations, allowed), loaded(observations, allowed)
        assert bool(allowed.gather(1, ours["action"][:, None]).all())
        assert ours["action"].dtype == torch.int64
        assert ours["q_values"].dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_same_seed_learns_the_same_policy_and_another_seed_another(tmp_path: Path) -> None:
    settings = Settings(steps=1500, evaluation_episodes=2, screening_episodes=2)
    torch.manual_seed(0)
    state = torch.get_rng_state()

    first, again, other = (train(settings, seed, tmp_path) for seed in (3, 3, 4))

    observations = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    values = [trained.module(observations, first.example[1][:1].expand(5, -1))["q_values"] for trained in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert first.data["fingerprint"] == again.data["fingerprint"] != other.data["fingerprint"]
    assert torch.equal(state, torch.get_rng_state())


def test_an_interrupted_training_raises_and_leaves_arithmetic_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(dqn, "learn", interrupted)
    torch.set_num_threads(2)

    with pytest.raises(KeyboardInterrupt):
        train(QUICK, 0, tmp_path)

    assert torch.get_num_threads() == 2
    assert (torch.full((1,), 1e-40) * 1).item() > 0
    assert list(tmp_path.iterdir()) == []


def test_training_draws_what_happened(quick: Trained, tmp_path: Path) -> None:
    train(Settings(steps=1500, evaluation_episodes=2, screening_episodes=2), 0, tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "episode.png"}


@pytest.mark.parametrize(("environment", "message"), [("Pendulum-v1", "Discrete actions"), ("Blackjack-v1", "Box with one axis")])
def test_spaces_that_do_not_fit_are_refused_with_those_that_do(environment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=message):
        train(Settings(environment=environment), 0, tmp_path)
