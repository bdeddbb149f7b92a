"""Brings a policy that stable-baselines3 trained: the zip of `model.save(...)`, with the observation statistics of VecNormalize.

Nothing is learnt and stable-baselines3 isn't needed: the policy is built again from its weights (baselines_policies), with
what the file says in plain words (baselines_zip), and plays evaluation episodes in the environment that is named, as the
floor asks for. Its served actions are those of `model.predict(observation, deterministic=True)`.

What is not covered: environments wrapped in other ways than `gymnasium.make` does (frame stacks, rescaled actions); a wrapper
that changes a space is noticed, one that only changes numbers shows in the mean return.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from matplotlib.figure import Figure
from pydantic import Field

from marina.errors import CallError
from marina.spec import Section
from training.imports.baselines_policies import ACTIVATIONS, activation_of, rebuild
from training.imports.baselines_zip import SavedPolicy, printed_bounds, printed_space, read_policy, read_statistics
from training.policies import rollout
from training.policies.graphs import ObservationStatistics, acting, described, example, golden
from training.trained import Trained


class Settings(Section):
    """What is brought, and from where it came."""

    source: str = Field(description="the zip that model.save(...) of stable-baselines3 wrote")
    environment: str = Field(description="the gymnasium environment's id that it was trained in")
    algorithm: Literal["ppo", "a2c", "dqn", "sac", "td3", "ddpg"] | None = Field(
        default=None, description="what it must be; found in the file by default"
    )
    activation: Literal[tuple(ACTIVATIONS)] | None = Field(  # type: ignore[valid-type]
        default=None, description="of the hidden layers; by default what the file says, else the algorithm's own default"
    )
    statistics: str | None = Field(
        default=None, description="what VecNormalize.save(...) wrote, or a .npz, .json or .safetensors with mean and var"
    )
    trust_pickle: bool = Field(default=False, description="read statistics that are a pickle; only arrays are made of it, once")
    licence: str = Field(default="the owner's", description="of the weights")
    evaluation_episodes: int = Field(default=100, ge=2, description="episodes whose returns are reported")


def train(settings: Settings, seed: int, report: Path) -> Trained:  # noqa: ARG001  # nothing is random here
    """Build the policy again and measure it: mean_return and std_return over `evaluation_episodes`.

    Raises CallError for a file that can't be used, naming the key at fault, and for spaces that are not the environment's.
    """
    started, path = time.perf_counter(), Path(settings.source).expanduser()
    saved = read_policy(path)
    if settings.algorithm not in (None, saved.algorithm):
        raise CallError(f"{path} holds {saved.algorithm}, not {settings.algorithm}; leave 'algorithm' out, or name its file")
    check_spaces(saved, settings.environment)
    observation, action = rollout.observation_config(settings.environment, any_box=True), rollout.action_config(settings.environment)
    statistics = statistics_of(settings, saved, observation)
    activation, known_by = activation_of(saved, settings.activation)
    policy = rebuild(saved, observation, action, activation, statistics)
    inputs = example(policy, observation, action)
    with one_thread():
        act = acting(policy, inputs)
        returns = rollout.episode_returns(act, settings.environment, settings.evaluation_episodes, rollout.EVALUATION_SEED)
        observations = rollout.episode_observations(act, settings.environment, rollout.EVALUATION_SEED)
        actions, samples = golden(policy, inputs, observations, action)
    draw(returns, actions, report)
    return Trained(
        **described(policy, inputs, observation, action),
        metrics={"mean_return": float(returns.mean()), "std_return": float(returns.std(ddof=1)), "episodes": len(returns)},
        samples=samples,
        data={
            "name": settings.environment,
            "source": f"{path.name}, saved by stable-baselines3 {saved.version}",
            "licence": settings.licence,
            "fingerprint": saved.fingerprint,
            "transitions": saved.steps,
        },
        training={
            "algorithm": saved.algorithm,
            "activation": activation,
            "activation_known_by": known_by,
            "observations_normalised": statistics is not None,
            "gymnasium": gymnasium.__version__,
            "seconds": time.perf_counter() - started,
        },
    )


def check_spaces(saved: SavedPolicy, environment: str) -> None:
    """Raise CallError unless the environment has the spaces of the training, and the bounds of its actions."""
    observed, acted = rollout.observation_space(environment), rollout.action_space(environment)
    for name, space in (("observation_space", observed), ("action_space", acted)):
        kind, sizes = printed_space(saved.spaces[name])
        if (kind, sizes) != _sizes(space):
            raise CallError(f"{saved.path}: its {name} is {kind} {sizes}, but {environment} has {space}; name the one it was trained in")
    if isinstance(observed, spaces.Box) and observed.dtype == np.uint8 and len(observed.shape) == 3:
        raise CallError(f"{environment} observes pictures, {observed}; policies of numbers can be brought")
    if isinstance(acted, spaces.Box):
        for printed, bound in zip(printed_bounds(saved.spaces["action_space"]), (acted.low, acted.high), strict=True):
            if len(printed) != bound.size or not np.allclose(printed, bound.ravel(), rtol=1e-5):
                raise CallError(f"{saved.path}: its actions are bounded by {printed}, those of {environment} by {bound.ravel().tolist()}")


def _sizes(space: spaces.Space[Any]) -> tuple[str, list[int]]:
    """As `printed_space` gives them."""
    if isinstance(space, spaces.Box):
        return "Box", [*space.shape]
    if isinstance(space, spaces.Discrete):
        return "Discrete", [int(space.n)]
    return type(space).__name__, space.nvec.ravel().tolist() if isinstance(space, spaces.MultiDiscrete) else []


def statistics_of(settings: Settings, saved: SavedPolicy, observation: dict[str, Any]) -> ObservationStatistics | None:
    """What normalises the observations, None for nothing. Raises CallError where it is missing or of another shape."""
    if settings.statistics is None:
        if saved.normalised:
            raise CallError(f"{saved.path} was trained behind VecNormalize; say 'statistics', the file that its save(...) wrote")
        return None
    statistics = read_statistics(Path(settings.statistics).expanduser(), settings.trust_pickle)
    if statistics is not None and (observation["dtype"] == "int64" or [*statistics.mean.shape] != observation["shape"]):
        shape = [*statistics.mean.shape]
        raise CallError(f"{settings.statistics}: mean has the shape {shape}, but the observations {observation['shape']}; name their own")
    return statistics


@contextmanager
def one_thread() -> Iterator[None]:
    """More only wait for each other on networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def draw(returns: np.ndarray, actions: np.ndarray, report: Path) -> None:
    """returns.png (how the evaluation episodes ended) and episode.png (the actions of the first)."""
    report.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(returns, bins=30)
    axes.set(title="Evaluation", xlabel="return of an episode", ylabel="episodes")
    figure.savefig(report / "returns.png", dpi=110)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(actions.reshape(len(actions), -1), linewidth=1)
    axes.set(title="One evaluation episode", xlabel="step", ylabel="action")
    figure.savefig(report / "episode.png", dpi=110)
