"""What an imported agent returns, beside what random actions and its own training did; and the arguments of
its environment.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.base_class import BaseAlgorithm

from marina.core.errors import CallError
from training.export.trained import Trained
from training.imports.baselines_zip import read_policy
from training.policies.spaces import ObservationSpec
from training.recipes.imported_policy import Settings, train
from training.runs.run import Run

Saved = Callable[..., str]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """The zip of an untrained agent, and of what its last training episodes returned."""

    def save(environment: Any, returns: tuple[float, ...] = (), algorithm: Any = sb3.PPO) -> str:
        model: BaseAlgorithm = algorithm("MlpPolicy", environment, policy_kwargs={"net_arch": [8]}, seed=0)
        model._setup_learn(1)
        assert model.ep_info_buffer is not None
        model.ep_info_buffer.extend({"r": value, "l": 9, "t": 0.5} for value in returns)
        model.save(tmp_path / "agent")
        return str(tmp_path / "agent.zip")

    return save


def imported(tmp_path: Path, **settings: Any) -> tuple[Trained, str]:
    """What is imported, and what was found amiss."""
    run = Run(tmp_path)
    trained = train(Settings(**{"evaluation_episodes": 20, **settings}), run)
    return trained, "\n".join(map(str, run.findings))


def test_an_agent_no_better_than_random_actions_is_named(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "vecnormalize.pkl").write_bytes(b"")

    trained, words = imported(
        tmp_path, source=saved("Pendulum-v1", algorithm=sb3.SAC), environment="Pendulum-v1"
    )

    assert trained.metrics["random_return"] < -900
    assert "in Pendulum-v1, random actions -1" in words
    assert f"set training.statistics to {tmp_path / 'vecnormalize.pkl'}" in words
    assert "set training.environment_options" in words


@pytest.mark.parametrize(("returns", "is_weak"), [((480.0, 500.0, 490.5), True), ((9.0, 11.0, 10.0), False)])
def test_an_agent_far_below_its_training_is_named(
    returns: tuple[float, ...],
    is_weak: bool,
    saved: Saved,
    tmp_path: Path,
) -> None:
    source = saved("CartPole-v1", returns)

    trained, words = imported(tmp_path, source=source, environment="CartPole-v1")

    assert read_policy(Path(source)).returns == list(returns)
    assert trained.metrics["training_return"] == pytest.approx(sum(returns) / 3)
    assert ("the last 3 episodes of its training 490.2" in words) is is_weak


def test_observations_with_other_bounds_were_wrapped(saved: Saved, tmp_path: Path) -> None:
    """NormalizeObservation leaves no statistics in the file, but unbounded observations."""
    wrapped = gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1"))

    _, words = imported(tmp_path, source=saved(wrapped), environment="CartPole-v1")

    assert "NormalizeObservation" in words
    assert "observations of the training bounded by [-inf, -inf, -inf, -inf]" in words


def test_an_agent_without_a_fault_is_imported_without_a_word(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "mean.json").write_text(json.dumps({"mean": [0.0] * 4, "var": [1.0] * 4}))
    settings = {"source": saved("CartPole-v1"), "environment": "CartPole-v1"}

    _, words = imported(tmp_path, **settings, statistics=str(tmp_path / "mean.json"))

    assert "observations of" not in words
    assert "training.statistics" not in words


def test_the_environments_arguments_are_used_and_recorded(saved: Saved, tmp_path: Path) -> None:
    options = {"is_slippery": False, "map_name": "8x8"}
    made = gymnasium.make("FrozenLake-v1", **options)

    trained, _ = imported(
        tmp_path, source=saved(made), environment="FrozenLake-v1", environment_options=options
    )

    assert ObservationSpec.from_json(trained.preprocess).env_kwargs == options
    with pytest.raises(CallError, match=r"Discrete \[64\], but .* Discrete\(16\).*environment_opt"):
        imported(tmp_path, source=saved(made), environment="FrozenLake-v1")
    with pytest.raises(CallError, match="unexpected keyword argument 'slippy'"):
        imported(
            tmp_path,
            source=saved(made),
            environment="FrozenLake-v1",
            environment_options={"slippy": False},
        )
