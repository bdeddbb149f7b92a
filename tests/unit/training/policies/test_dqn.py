"""Deep Q-learning: targets, gradients and replay against slow references and exact values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from tests.support.toy_environments import registered
from training.policies.buffers.sequences import ReplayBatch, SequenceReplayBuffer
from training.policies.envs import training_envs
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.networks.optim import seeded_single_thread
from training.policies.networks.q_network import NoisyLinear, QNetwork, project_distribution
from training.policies.networks.reference_losses import (
    c51_loss,
    double_dqn_targets,
    dqn_loss,
    dqn_targets,
    project_distribution_loop,
)
from training.policies.spaces import ObservationSpec
from training.recipes.dqn import Learner, Settings, train
from training.runs.run import Run


class TwoStates(gymnasium.Env[int, int]):
    """From state 0, action 0 stays and earns 0.5, action 1 goes to state 1 and earns 0. There, action 0 ends
    with 10, action 1 goes back and earns 2. Cut after 20 steps.
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


CARTPOLE = ObservationSpec((4,), "float32")


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with registered(TwoStates, max_episode_steps=20):
        yield


def batch_of(count: int) -> ReplayBatch:
    """Made-up draws, some of which terminate."""
    random = np.random.default_rng(0)
    observations, following = random.normal(size=(2, count, 4)).astype(np.float32)
    returns, discounts = (
        random.normal(size=count).astype(np.float32),
        np.where(np.arange(count) % 3 == 0, 0, 0.9).astype(np.float32),
    )
    rows = np.arange(count)
    return ReplayBatch(
        observations,
        following,
        random.integers(2, size=count),
        returns,
        discounts,
        np.ones(count, np.float32),
        rows,
    )


def learner_of(environment: str = "CartPole-v1", **options: Any) -> Learner:
    """An untrained one, with a target network of its own."""
    settings = Settings(environment=environment, **{"hidden": (16,), **options})
    with seeded_single_thread(0):
        learner = Learner(settings, observation_spec(environment), action_spec(environment), 0)
        learner.flat_target.data.normal_()
    return learner


@pytest.mark.parametrize("double", [False, True])
def test_targets_are_those_of_the_reference(double: bool) -> None:
    learner, batch = learner_of(double=double), batch_of(40)
    next_obs = torch.from_numpy(batch.next_obs)
    returns, discounts = torch.from_numpy(batch.returns), torch.from_numpy(batch.discounts)
    expected = dqn_targets(returns, discounts, learner.target(next_obs))
    if double:
        expected = double_dqn_targets(returns, discounts, learner.policy(next_obs), learner.target(next_obs))

    targets = learner.targets(batch, learner.target.outputs(next_obs))

    torch.testing.assert_close(targets, expected.detach())
    assert not targets.requires_grad


@pytest.mark.parametrize(
    "options",
    [{}, {"double": True}, {"num_atoms": 7, "v_min": -3, "v_max": 3}, {"prioritized": True, "double": True}],
)
def test_every_batch_of_a_phase_comes_with_the_targets_of_that_moment(options: dict[str, Any]) -> None:
    # more rows than go at once
    learner = learner_of(gradient_steps=20, num_envs=4, train_freq=100, learning_starts=0, **options)
    for _ in range(learner.settings.train_freq):
        learner.collect_step(1.0)
    batches = 0

    for batch, wanted in learner.batches():
        with torch.no_grad():
            following = learner.target.outputs(torch.from_numpy(batch.next_obs))
        torch.testing.assert_close(wanted, learner.targets(batch, following))
        learner.step(batch, wanted)  # double targets of the next one are other ones now
        batches += 1

    assert batches == 20


def test_projection_equals_the_papers_loop_and_keeps_mass_and_mean() -> None:
    """The projection equals the paper's loop; it keeps the mass and, where nothing is clipped, the mean."""
    support = torch.linspace(-3, 5, 9, dtype=torch.float64)
    probabilities = torch.rand(200, 9, dtype=torch.float64).softmax(1)
    returns, discounts = torch.randn(200, dtype=torch.float64) * 4, torch.rand(200, dtype=torch.float64)
    # exactly on atoms
    returns[:3], discounts[:3] = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 1.0])

    found = project_distribution(probabilities, returns, discounts, support)

    for row in range(200):
        expected = project_distribution_loop(
            probabilities[row], returns[row].item(), discounts[row].item(), support
        )
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.sum(1), torch.ones(200, dtype=torch.float64))
    inside = (returns + discounts * -3 >= -3) & (returns + discounts * 5 <= 5)
    assert inside.sum() > 20
    torch.testing.assert_close(
        (found @ support)[inside], (returns + discounts * (probabilities @ support))[inside]
    )


@pytest.mark.parametrize("num_atoms", [1, 7])
def test_gradient_is_of_the_weighted_loss_and_priorities_are_errors(
    num_atoms: int,
) -> None:
    """The gradient is that of the weighted loss, and priorities are the absolute errors."""
    learner, batch = learner_of(prioritized=True, num_atoms=num_atoms, v_min=-3, v_max=3), batch_of(20)
    batch = batch._replace(weights=np.linspace(0.1, 1, 20, dtype=np.float32))
    assert learner.buffer.priorities is not None
    learner.buffer.priorities.set(batch.rows, 1.0)
    targets = learner.targets(batch, learner.target.outputs(torch.from_numpy(batch.next_obs)))
    outputs = learner.policy.outputs(torch.from_numpy(batch.obs))
    actions, weights = torch.from_numpy(batch.actions), torch.from_numpy(batch.weights)
    loss = (c51_loss if num_atoms > 1 else dqn_loss)(outputs, actions, targets, weights)
    grads = torch.autograd.grad(loss, list(learner.policy.parameters()))
    chosen = outputs[torch.arange(20), actions].detach()
    errors = (chosen - targets).abs()
    if num_atoms > 1:
        errors = (torch.xlogy(targets, targets) - targets * chosen).sum(1)

    found = learner.step(batch, targets)

    assert found == pytest.approx(loss.item(), rel=1e-5)
    expected = torch.cat([grad.flatten() for grad in grads])
    torch.testing.assert_close(learner.flat.grad, expected, rtol=1e-4, atol=1e-6)
    scaled = learner.buffer.priorities.scaled.reshape(-1)[:20]
    np.testing.assert_allclose(scaled, (errors.numpy() + 1e-6) ** 0.6, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("num_atoms", [1, 5])
def test_dueling_advantages_have_mean_zero(
    num_atoms: int,
) -> None:
    """Dueling advantages have mean zero, so that the mean Q-value is the state's value."""
    network, observations = QNetwork(CARTPOLE, 5, (16, 8), dueling=True), torch.randn(10, 4)
    assert network.value is not None

    value = network.value(network.body(observations))

    torch.testing.assert_close(network(observations).mean(1, keepdim=True), value)


def test_noisy_layers_follow_the_paper_and_serve_without_noise() -> None:
    """Noise follows the paper, is new with every draw, and is absent from what is served."""
    layer, rows = NoisyLinear(200, 100), torch.randn(50, 200)
    layer.reset_noise()
    signs = lambda noise: noise.sign() * noise.abs().sqrt()  # noqa: E731
    spread = torch.cat([signs(torch.randn(10**6))]).std()
    weight = layer.weight + layer.weight_sigma * layer.output_noise[:, None] * layer.input_noise
    network, observations = (
        QNetwork(CARTPOLE, 3, (16,), noisy=True, dueling=True, num_atoms=5),
        torch.randn(10, 4),
    )
    values = []
    for _ in range(2):
        network.reset_noise()
        values.append(network(observations))

    torch.testing.assert_close(
        layer(rows), rows @ weight.T + layer.bias + layer.bias_sigma * layer.output_noise
    )
    torch.testing.assert_close(layer.eval()(rows), nn.functional.linear(rows, layer.weight, layer.bias))
    assert layer.weight_sigma[0, 0].item() == pytest.approx(0.5 / 200**0.5)
    assert torch.cat([layer.input_noise, layer.output_noise]).std().item() == pytest.approx(
        spread.item(), rel=0.15
    )
    assert not torch.equal(*values)
    served = network.build_graph()
    torch.testing.assert_close(
        served(observations, torch.ones(10, 3, dtype=torch.bool))["q_values"], network.eval()(observations)
    )
    assert not [name for name, _ in served.named_parameters() if "initial_std" in name]


def constant(learner: Learner, action: int) -> None:
    """Let the network prefer one action everywhere."""
    with torch.no_grad():
        learner.policy.advantage.weight.zero_()
        learner.policy.advantage.bias.copy_(torch.eye(2)[action])


def collect(learner: Learner, steps: int, epsilon: float) -> SequenceReplayBuffer:
    """Some steps of every copy."""
    for _ in range(steps):
        learner.collect_step(epsilon)
    return learner.buffer


@pytest.mark.parametrize("vector", ["own", "sync"])
def test_rows_that_only_reset_are_never_drawn(vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if vector == "sync":

        def sync(name: str, num_envs: int, *_: Any) -> gymnasium.vector.SyncVectorEnv:
            return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(name)] * num_envs)

        monkeypatch.setattr(training_envs, "make_vec", sync)
    learner = learner_of(num_envs=3)
    constant(learner, 0)

    drawn = collect(learner, 40, 0.0).sample(3000, np.random.default_rng(0))

    assert learner.envs.num_episodes >= 9
    assert (drawn.returns == 1).all()
    # a fallen pole is the end of its row and the beginning of none
    assert not (np.abs(drawn.obs[:, 2]) > 0.2095).any()
    np.testing.assert_array_equal(np.abs(drawn.next_obs[:, 2]) > 0.2095, drawn.discounts == 0)


def test_truncation_is_not_termination_and_keeps_the_last_observation() -> None:
    """A truncated episode is not a terminated one, and its row keeps the true last observation."""
    learner = learner_of("TwoStates-v0", num_envs=1, n_step_returns=3)
    constant(learner, 0)  # stays in state 0 until it is cut

    drawn = collect(learner, 50, 0.0).sample(500, np.random.default_rng(0))

    assert learner.envs.num_episodes == 2
    assert learner.envs.last_return == 10
    assert learner.envs.num_timesteps == 48
    assert {
        (row, round(float(discount), 6)) for row, discount in zip(drawn.rows, drawn.discounts, strict=True)
    } >= {
        (17, round(0.99**3, 6)),
        (18, round(0.99**2, 6)),
        (19, 0.99),
        (21, round(0.99**3, 6)),
    }
    assert 20 not in drawn.rows
    assert (drawn.discounts > 0).all()


def test_epsilon_is_the_share_of_random_actions() -> None:
    learner = learner_of(num_envs=50)
    constant(learner, 1)

    actions = collect(learner, 100, 0.4).actions[:100]

    assert float((actions == 0).mean()) == pytest.approx(0.2, abs=0.02)


SMALL: dict[str, Any] = {
    "hidden": (32,),
    "train_freq": 2,
    "gradient_steps": 16,
    "n_eval_episodes": 2,
    "evaluation_episodes": 2,
    "eval_freq": 10**6,
}


RAINBOW: dict[str, Any] = {
    "double": True,
    "dueling": True,
    "prioritized": True,
    "n_step_returns": 3,
    "noisy": True,
    "num_atoms": 51,
    "v_min": 0,
    "v_max": 15,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"double": True, "dueling": True, "target_update_interval": 2},
        pytest.param({"prioritized": True}, marks=pytest.mark.slow),
        pytest.param({"noisy": True, "learning_starts": 2000}, marks=pytest.mark.slow),
        pytest.param({"num_atoms": 51, "v_min": 0, "v_max": 15}, marks=pytest.mark.slow),
        pytest.param(RAINBOW | {"n_step_returns": 1, "learning_starts": 2000}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_q_values_converge_to_the_exact_ones_of_a_two_state_process(
    options: dict[str, Any], tmp_path: Path
) -> None:
    exact, moves = np.zeros((2, 2)), TwoStates.moves
    for _ in range(500):
        exact = np.array([[r + 0.9 * exact[s].max() * (not end) for r, s, end in row] for row in moves])
    settings = Settings(
        environment="TwoStates-v0",
        gamma=0.9,
        total_timesteps=8000,
        exploration_final_eps=0.5,
        learning_rate=1e-3,
        **SMALL,
        **options,
    )

    trained = train(settings, Run(tmp_path))

    found = trained.module(torch.tensor([0, 1]), torch.ones(2, 2, dtype=torch.bool))
    np.testing.assert_allclose(found["q_values"].detach().numpy(), exact, atol=0.15)
    assert found["action"].tolist() == exact.argmax(1).tolist()
