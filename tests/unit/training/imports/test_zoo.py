"""Agents of the public zoo of stable-baselines3: all of them are taken, and earn what the zoo says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from training.recipes.imported_policy import Settings, train
from training.runs.run import Run

EPISODES = 40


@dataclass(frozen=True)
class Agent:
    """One of the zoo, with the mean return and its standard deviation that the zoo publishes, if any; its
    environment today, if that has another name.
    """

    algorithm: str
    environment: str
    mean: float | None = None
    deviation: float = 0.0
    today: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self, zoo: Path) -> Settings:
        folder = zoo / self.algorithm / self.environment
        given: dict[str, Any] = {
            "source": str(folder / f"{self.environment}.zip"),
            "environment": self.today or self.environment,
            "environment_options": self.options,
            "evaluation_episodes": EPISODES,
        }
        if (folder / "vecnormalize.pkl").is_file():
            given |= {"statistics": str(folder / "vecnormalize.pkl"), "trust_pickle": True}
        return Settings(**given)


AGENTS = (
    Agent("a2c", "LunarLander-v2", 155.8, 80.4, "LunarLander-v3"),
    Agent("a2c", "MountainCar-v0", -111.3, 24.1),
    Agent("ars", "CartPole-v1", 500.0),
    Agent("ddpg", "Pendulum-v1", -152.1, 94.3),
    Agent("dqn", "CartPole-v1", 500.0),
    Agent("dqn", "MountainCar-v0", -100.8, 9.9),
    Agent("ppo", "Acrobot-v1", -73.5, 18.2),
    Agent("ppo", "LunarLanderContinuous-v2", 270.9, 32.1, "LunarLander-v3", {"continuous": True}),
    Agent("qrdqn", "CartPole-v1", 500.0),
    Agent("sac", "MountainCarContinuous-v0", 94.7, 1.1),
    Agent("sac", "Pendulum-v1", -157.0, 88.7),
    Agent("tqc", "Pendulum-v1"),
    Agent("trpo", "CartPole-v1"),
)


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: f"{agent.algorithm}-{agent.environment}")
def test_an_agent_earns_what_the_zoo_publishes(agent: Agent, shared_data: Path, tmp_path: Path) -> None:
    """Within four standard errors of both means; where it publishes none, far above random actions."""
    if "LunarLander" in agent.environment:
        pytest.importorskip("Box2D", reason="pip install marina[box2d]")

    metrics = train(agent.settings(shared_data / "zoo"), Run(tmp_path)).metrics

    if agent.mean is None:
        assert metrics["mean_return"] > metrics["random_return"] + 400
    else:
        error = agent.deviation / EPISODES**0.5 + metrics["std_return"] / EPISODES**0.5
        assert metrics["mean_return"] == pytest.approx(agent.mean, abs=max(4 * error, 1e-9))
