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
from training.dqn import Learner, Settings, train
from training.policies import rollout
from training.policies.q_network import NoisyLinear, QNetwork, projected
from training.policies.sequences import Batch, SequenceReplay
from training.policies.small_networks import small_network_arithmetic
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


CARTPOLE = {"shape": [4], "dtype": "float32"}


@pytest.fixture(autouse=True)
def _two_states(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("TwoStates-v0", entry_point=TwoStates, max_episode_steps=20)
    monkeypatch.setitem(gymnasium.registry, "TwoStates-v0", spec)


def batch_of(count: int) -> Batch:
    """Made-up draws, some of which terminate."""
    random = np.random.default_rng(0)
    observations, following = random.normal(size=(2, count, 4)).astype(np.float32)
    returns, discounts = random.normal(size=count).astype(np.float32), np.where(np.arange(count) % 3 == 0, 0, 0.9).astype(np.float32)
    rows = np.arange(count)
    return Batch(observations, following, random.integers(2, size=count), returns, discounts, np.ones(count, np.float32), rows)


def learner_of(environment: str = "CartPole-v1", **options: Any) -> Learner:
    """An untrained one, with a target network of its own."""
    settings = Settings(environment=environment, **{"hidden": (16,), **options})
    with small_network_arithmetic(0):
        learner = Learner(settings, rollout.observation_config(environment), rollout.action_config(environment), 0)
        learner.flat_target.data.normal_()
    return learner


@pytest.mark.parametrize("double", [False, True])
def test_targets_equal_the_textbooks_loop(double: bool) -> None:
    learner, batch, expected = learner_of(double=double), batch_of(40), []
    for row in range(40):
        following = torch.from_numpy(batch.following[row : row + 1])
        values = learner.target(following)[0].tolist()
        chosen = int(np.argmax(learner.policy(following)[0].tolist())) if double else int(np.argmax(values))
        expected.append(batch.returns[row] + (0.0 if row % 3 == 0 else 0.9 * values[chosen]))

    wanted = learner.wanted(batch, learner.target.answers(torch.from_numpy(batch.following)))

    assert wanted.tolist() == pytest.approx(expected, rel=1e-5)
    assert not wanted.requires_grad


@pytest.mark.parametrize("options", [{}, {"double": True}, {"atoms": 7, "support": (-3, 3)}, {"prioritised": True, "double": True}])
def test_every_batch_of_a_phase_comes_with_the_targets_of_that_moment(options: dict[str, Any]) -> None:
    learner = learner_of(gradient_steps=20, copies=4, phase_steps=100, warmup_steps=0, **options)  # more rows than go at once
    for _ in range(learner.settings.phase_steps):
        learner.explore(1.0)
    batches = 0

    for batch, wanted in learner.batches():
        with torch.no_grad():
            following = learner.target.answers(torch.from_numpy(batch.following))
        torch.testing.assert_close(wanted, learner.wanted(batch, following))
        learner.step(batch, wanted)  # double targets of the next one are other ones now
        batches += 1

    assert batches == 20


def slow_projection(probabilities: list[float], reward: float, discount: float, support: list[float]) -> list[float]:
    """Bellemare et al. 2017, Algorithm 1, atom by atom."""
    found, width = [0.0] * len(support), support[1] - support[0]
    for probability, atom in zip(probabilities, support, strict=True):
        moved = min(max(reward + discount * atom, support[0]), support[-1])
        place = (moved - support[0]) / width
        below, above = int(np.floor(place)), int(np.ceil(place))
        if below == above:
            found[below] += probability
        else:
            found[below] += probability * (above - place)
            found[above] += probability * (place - below)
    return found


def test_the_projection_equals_the_papers_loop_and_keeps_mass_and_where_nothing_is_cut_off_the_mean() -> None:
    support = torch.linspace(-3, 5, 9, dtype=torch.float64)
    probabilities = torch.rand(200, 9, dtype=torch.float64).softmax(1)
    returns, discounts = torch.randn(200, dtype=torch.float64) * 4, torch.rand(200, dtype=torch.float64)
    returns[:3], discounts[:3] = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 1.0])  # exactly on atoms

    found = projected(probabilities, returns, discounts, support)

    for row in range(200):
        expected = slow_projection(probabilities[row].tolist(), returns[row].item(), discounts[row].item(), support.tolist())
        assert found[row].tolist() == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(found.sum(1), torch.ones(200, dtype=torch.float64))
    inside = (returns + discounts * -3 >= -3) & (returns + discounts * 5 <= 5)
    assert inside.sum() > 20
    torch.testing.assert_close((found @ support)[inside], (returns + discounts * (probabilities @ support))[inside])


@pytest.mark.parametrize("atoms", [1, 7])
def test_the_gradient_is_that_of_the_weighted_loss_and_priorities_are_how_far_each_answer_was_off(atoms: int) -> None:
    learner, batch = learner_of(prioritised=True, atoms=atoms, support=(-3, 3)), batch_of(20)
    batch = batch._replace(weights=np.linspace(0.1, 1, 20, dtype=np.float32))
    assert learner.replay.priorities is not None
    learner.replay.priorities.put(batch.rows, 1.0)
    following = learner.target.answers(torch.from_numpy(batch.following))
    wanted, answers = learner.wanted(batch, following), learner.policy.answers(torch.from_numpy(batch.observations))
    losses, off = [], []
    for row in range(20):
        chosen = answers[row, batch.actions[row]]
        losses.append(-(wanted[row] * chosen).sum() if atoms > 1 else nn.functional.smooth_l1_loss(chosen, wanted[row]))
        divergence = (torch.xlogy(wanted[row], wanted[row]) - wanted[row] * chosen).sum()
        off.append(divergence.item() if atoms > 1 else abs((chosen - wanted[row]).item()))
    loss = sum(weight * one for weight, one in zip(batch.weights.tolist(), losses, strict=True)) / 20
    expected = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(learner.policy.parameters()))])

    found = learner.step(batch, wanted)

    assert found == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(learner.flat.grad, expected, rtol=1e-4, atol=1e-6)
    raised = learner.replay.priorities.raised.reshape(-1)[:20]
    np.testing.assert_allclose(raised, (np.array(off) + 1e-6) ** 0.6, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("atoms", [1, 5])
def test_the_dueling_advantages_have_mean_zero_so_that_the_mean_q_value_is_the_state_value(atoms: int) -> None:
    network, observations = QNetwork(CARTPOLE, 5, (16, 8), dueling=True), torch.randn(10, 4)
    assert network.value is not None

    value = network.value(network.body(observations))

    torch.testing.assert_close(network(observations).mean(1, keepdim=True), value)


def test_noise_is_the_papers_new_with_every_draw_and_absent_from_what_is_served() -> None:
    layer, rows = NoisyLinear(200, 100), torch.randn(50, 200)
    layer.draw()
    signs = lambda noise: noise.sign() * noise.abs().sqrt()  # noqa: E731
    spread = torch.cat([signs(torch.randn(10**6))]).std()
    weight = layer.weight + layer.weight_deviation * layer.output_noise[:, None] * layer.input_noise
    network, observations = QNetwork(CARTPOLE, 3, (16,), noisy=True, dueling=True, atoms=5), torch.randn(10, 4)
    values = []
    for _ in range(2):
        network.draw()
        values.append(network(observations))

    torch.testing.assert_close(layer(rows), rows @ weight.T + layer.bias + layer.bias_deviation * layer.output_noise)
    torch.testing.assert_close(layer.eval()(rows), nn.functional.linear(rows, layer.weight, layer.bias))
    assert layer.weight_deviation[0, 0].item() == pytest.approx(0.5 / 200**0.5)
    assert torch.cat([layer.input_noise, layer.output_noise]).std().item() == pytest.approx(spread.item(), rel=0.15)
    assert not torch.equal(*values)
    served = network.served()
    torch.testing.assert_close(served(observations, torch.ones(10, 3, dtype=torch.bool))["q_values"], network.eval()(observations))
    assert not [name for name, _ in served.named_parameters() if "deviation" in name]


def constant(learner: Learner, action: int) -> None:
    """Let the network prefer one action everywhere."""
    with torch.no_grad():
        learner.policy.advantage.weight.zero_()
        learner.policy.advantage.bias.copy_(torch.eye(2)[action])


def collect(learner: Learner, steps: int, epsilon: float) -> SequenceReplay:
    """Some steps of every copy."""
    for _ in range(steps):
        learner.explore(epsilon)
    return learner.replay


@pytest.mark.parametrize("vector", ["own", "sync"])
def test_rows_that_only_reset_are_never_drawn(vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if vector == "sync":
        sync = lambda name, copies, *_: gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(name)] * copies)  # noqa: E731
        monkeypatch.setattr(rollout, "make_vector", sync)
    learner = learner_of(copies=3)
    constant(learner, 0)

    drawn = collect(learner, 40, 0.0).draw(3000, np.random.default_rng(0))

    assert learner.experience.episodes >= 9
    assert (drawn.returns == 1).all()
    # a fallen pole is the end of its row and the beginning of none
    assert not (np.abs(drawn.observations[:, 2]) > 0.2095).any()
    np.testing.assert_array_equal(np.abs(drawn.following[:, 2]) > 0.2095, drawn.discounts == 0)


def test_a_cut_episode_is_not_an_ended_one_and_its_row_keeps_the_true_last_observation() -> None:
    learner = learner_of("TwoStates-v0", copies=1, n_steps=3)
    constant(learner, 0)  # stays in state 0 until it is cut

    drawn = collect(learner, 50, 0.0).draw(500, np.random.default_rng(0))

    assert learner.experience.episodes == 2
    assert learner.experience.last_return == 10
    assert learner.experience.transitions == 48
    assert {(row, round(float(discount), 6)) for row, discount in zip(drawn.rows, drawn.discounts, strict=True)} >= {
        (17, round(0.99**3, 6)),
        (18, round(0.99**2, 6)),
        (19, 0.99),
        (21, round(0.99**3, 6)),
    }
    assert 20 not in drawn.rows
    assert (drawn.discounts > 0).all()


def test_epsilon_is_the_share_of_random_actions() -> None:
    learner = learner_of(copies=50)
    constant(learner, 1)

    actions = collect(learner, 100, 0.4).actions[:100]

    assert float((actions == 0).mean()) == pytest.approx(0.2, abs=0.02)


SMALL: dict[str, Any] = {
    "hidden": (32,),
    "phase_steps": 2,
    "gradient_steps": 16,
    "screening_episodes": 2,
    "evaluation_episodes": 2,
    "screening_every": 10**6,
}


RAINBOW: dict[str, Any] = {
    "double": True,
    "dueling": True,
    "prioritised": True,
    "n_steps": 3,
    "noisy": True,
    "atoms": 51,
    "support": (0, 15),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"double": True, "dueling": True, "target_phases": 2},
        pytest.param({"prioritised": True}, marks=pytest.mark.slow),
        pytest.param({"noisy": True, "warmup_steps": 2000}, marks=pytest.mark.slow),
        pytest.param({"atoms": 51, "support": (0, 15)}, marks=pytest.mark.slow),
        pytest.param(RAINBOW | {"n_steps": 1, "warmup_steps": 2000}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "+".join(options) or "plain",
)
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


@pytest.mark.parametrize(("dueling", "states", "atoms"), [(False, 0, 1), (True, 0, 51), (False, 16, 1)])
def test_an_exported_policy_equals_the_trained_one_for_any_batch(dueling: bool, states: int, atoms: int, tmp_path: Path) -> None:
    observation = {"shape": [], "dtype": "int64", "high": 15} if states else CARTPOLE
    policy = QNetwork(observation, 3, (16, 16), dueling=dueling, atoms=atoms, noisy=atoms > 1).served()
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


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C in phase number `after`."""
    phase, calls = Learner.phase, iter(range(10**6))

    def interrupted(learner: Learner) -> tuple[float, float]:
        if next(calls) == after:
            raise KeyboardInterrupt
        return phase(learner)

    monkeypatch.setattr(Learner, "phase", interrupted)


def test_a_training_that_is_interrupted_before_it_has_a_policy_raises_and_leaves_arithmetic_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 0)
    torch.set_num_threads(2)

    with pytest.raises(KeyboardInterrupt):
        train(QUICK, 0, tmp_path)

    assert torch.get_num_threads() == 2
    assert (torch.full((1,), 1e-40) * 1).item() > 0
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_is_interrupted_later_hands_over_the_best_policy_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 12)

    trained = train(QUICK, 0, tmp_path)

    assert trained.training["interrupted"] is True
    assert 1000 < trained.metrics["steps"] < 2000


def test_training_draws_what_happened(quick: Trained, tmp_path: Path) -> None:
    train(Settings(steps=1500, evaluation_episodes=2, screening_episodes=2), 0, tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "episode.png"}


@pytest.mark.parametrize(("environment", "message"), [("Pendulum-v1", "Discrete actions"), ("Blackjack-v1", "Box with one axis")])
def test_spaces_that_do_not_fit_are_refused_with_those_that_do(environment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=message):
        train(Settings(environment=environment), 0, tmp_path)
