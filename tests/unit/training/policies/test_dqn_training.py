"""Whole trainings by deep Q-learning: what is learned, exported and served, and what Ctrl-C leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from marina.core.errors import CallError
from training.export.trained import Trained
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns
from training.policies.networks.q_network import QNetwork
from training.policies.spaces import ObservationSpec
from training.recipes.dqn import Learner, Settings, train
from training.runs.run import Run

CARTPOLE = ObservationSpec((4,), "float32")


QUICK = Settings(total_timesteps=4000, train_freq=8, evaluation_episodes=20, eval_freq=256, n_eval_episodes=5)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training on CartPole."""
    return train(QUICK, Run(tmp_path_factory.mktemp("report"), seed=1))


def test_a_short_training_does_better_than_chance_and_says_what_it_did(quick: Trained) -> None:
    assert quick.metrics["mean_return"] > 80  # a random policy earns 22
    assert quick.metrics["episodes"] == 20
    assert quick.data["transitions"] == quick.metrics["steps"] <= 4000 + QUICK.num_envs * QUICK.train_freq
    assert quick.preprocess["environment"] == "CartPole-v1"
    assert quick.postprocess["action_space"] == {"type": "discrete", "n": 2}


def test_the_reported_returns_are_those_of_the_module_that_is_handed_over(quick: Trained) -> None:
    torch.set_num_threads(1)  # several are slower for a network this small

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return quick.module(
                torch.from_numpy(observations), torch.ones(len(observations), 2, dtype=torch.bool)
            )["action"].numpy()

    returns = episode_returns(act, "CartPole-v1", 20, EVALUATION_SEED, num_envs=7)

    assert returns.mean() == quick.metrics["mean_return"]


def test_samples_cover_the_actions_and_survive_json(quick: Trained) -> None:
    """Samples take turns among the actions and are answered the same after JSON."""
    names, actions = (
        [sample.name for sample in quick.samples],
        [sample.expect["action"] for sample in quick.samples],
    )

    assert len(set(names)) == len(names) >= 6
    assert actions[:4] in ([0, 1, 0, 1], [1, 0, 1, 0])
    for sample in quick.samples:
        answer = quick.module(torch.tensor([json.loads(sample.body)["observation"]]), quick.example[1][:1])
        assert answer["action"].tolist() == [sample.expect["action"]]
        values = answer["q_values"].detach()
        assert values.diff().abs().item() > 9e-4 * values.abs().max().item()


@pytest.mark.parametrize(("dueling", "states", "num_atoms"), [(False, 0, 1), (True, 0, 51), (False, 16, 1)])
def test_an_exported_policy_equals_the_trained_one_for_any_batch(
    dueling: bool, states: int, num_atoms: int, tmp_path: Path
) -> None:
    observation = ObservationSpec((), "int64", 0, 15) if states else CARTPOLE
    policy = QNetwork(
        observation, 3, (16, 16), dueling=dueling, num_atoms=num_atoms, noisy=num_atoms > 1
    ).build_graph()
    make = (
        (lambda batch: torch.randint(states, (batch,))) if states else (lambda batch: torch.randn(batch, 4))
    )
    batches = {0: torch.export.Dim("batch", min=1, max=256)}
    program = torch.export.export(
        policy, (make(2), torch.ones(2, 3, dtype=torch.bool)), dynamic_shapes=(batches, batches), strict=False
    )
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
    settings = Settings(total_timesteps=1500, evaluation_episodes=2, n_eval_episodes=2)
    torch.manual_seed(0)
    state = torch.get_rng_state()

    first, again, other = (train(settings, Run(tmp_path, seed=seed)) for seed in (3, 3, 4))

    observations = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    values = [
        trained.module(observations, first.example[1][:1].expand(5, -1))["q_values"]
        for trained in (first, again, other)
    ]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert first.data["fingerprint"] == again.data["fingerprint"] != other.data["fingerprint"]
    assert torch.equal(state, torch.get_rng_state())


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C in phase number `after`."""
    phase, calls = Learner.iteration, iter(range(10**6))

    def interrupted(learner: Learner) -> tuple[float, float]:
        if next(calls) == after:
            raise KeyboardInterrupt
        return phase(learner)

    monkeypatch.setattr(Learner, "iteration", interrupted)


def test_early_interrupt_raises_and_restores_torch_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt before there is a policy raises, and leaves torch's settings as they were."""
    interrupt(monkeypatch, 0)
    torch.set_num_threads(2)

    with pytest.raises(KeyboardInterrupt):
        train(QUICK, Run(tmp_path))

    assert torch.get_num_threads() == 2
    assert (torch.full((1,), 1e-40) * 1).item() > 0
    assert list(tmp_path.iterdir()) == []


def test_later_interrupt_returns_the_best_policy_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt later on returns the best policy so far."""
    interrupt(monkeypatch, 12)

    trained = train(QUICK, Run(tmp_path))

    assert trained.training["interrupted"] is True
    assert 1000 < trained.metrics["steps"] < 2000


def test_training_draws_what_happened(quick: Trained, tmp_path: Path) -> None:
    train(Settings(total_timesteps=1500, evaluation_episodes=2, n_eval_episodes=2), Run(tmp_path))

    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "episode.png"}


@pytest.mark.parametrize(
    ("environment", "message"), [("Pendulum-v1", "Discrete actions"), ("Blackjack-v1", "Box with one axis")]
)
def test_spaces_that_do_not_fit_are_refused_with_those_that_do(
    environment: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        train(Settings(environment=environment), Run(tmp_path))
