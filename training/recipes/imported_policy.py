"""Imports a policy of stable-baselines3: the zip of `model.save(...)`, with VecNormalize's statistics.

Nothing is trained and stable-baselines3 isn't needed: the policy is rebuilt from its weights and from the
readable part of the file, and plays evaluation episodes in the environment that is named. Its served actions
are those of `model.predict(observation, deterministic=True)`.

The whole story is in this file (settings, checks, the report), imports/baselines_zip.py (reads the files) and
imports/baselines_policies.py (rebuilds the graph from policies/graphs).

Not covered: environments wrapped in other ways than `gymnasium.make` does (frame stacks, rescaled actions); a
wrapper that changes a space is noticed, one that only changes numbers shows in the mean return.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from matplotlib.figure import Figure
from pydantic import Field

from marina.core import paths
from marina.core.errors import CallError
from training.export.trained import Trained
from training.findings import Findings
from training.imports.baselines_policies import ACTIVATIONS, activation_of, rebuild
from training.imports.baselines_statistics import read_statistics
from training.imports.baselines_zip import SavedPolicy, printed_bounds, printed_space, read_policy
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns, random_returns, record_episode
from training.policies.envs.observe import action_space, action_spec, observation_space, observation_spec
from training.policies.graphs.export import describe_policy, example_inputs, golden_episode, make_act
from training.policies.graphs.features import ObservationStatistics
from training.policies.loops.learning import RETURN_METRICS, returns_summary
from training.policies.loops.settings import EnvironmentSettings
from training.policies.plots import plot_episode
from training.policies.spaces import ObservationSpec
from training.runs.run import Run
from training.runs.threads import torch_threads

IS_IMPORT = True
METRICS = (*RETURN_METRICS, "random_return", "training_return")


class Settings(EnvironmentSettings):
    """What is imported, and where it comes from: the environment is the one that it was trained in."""

    source: str = Field(description="the zip that model.save(...) of stable-baselines3 wrote")
    algorithm: Literal["ppo", "a2c", "dqn", "sac", "td3", "ddpg", "tqc", "qrdqn", "ars"] | None = Field(
        default=None, description="what it must be; default: as the file says"
    )
    activation: Literal[tuple(ACTIVATIONS)] | None = Field(  # type: ignore[valid-type]
        default=None,
        description="of the hidden layers; default: as the file says, else the algorithm's own default",
    )
    statistics: str | None = Field(
        default=None,
        description="what VecNormalize.save(...) wrote, or a .npz, .json or .safetensors with mean and var",
    )
    trust_pickle: bool = Field(
        default=False, description="read statistics that are a pickle; only arrays are read from it, once"
    )
    licence: str = Field(default="the owner's", description="of the weights")
    evaluation_episodes: int = Field(default=100, ge=2, description="episodes of the reported return")


def train(settings: Settings, run: Run) -> Trained:
    """Rebuild the policy and measure it over `evaluation_episodes`.

    Raises CallError for a file that can't be used, naming the key at fault, and for spaces that are not the
    environment's.
    """
    started = time.perf_counter()
    saved = read_policy(paths.expanded(settings.source))
    check_algorithm(saved, settings.algorithm)
    environment, options = settings.environment, settings.environment_options
    check_spaces(saved, environment, options)
    observations = observation_spec(environment, any_box=True, env_kwargs=options)
    actions = action_spec(environment, options)
    if settings.statistics is None:
        find_other_bounds(saved, environment, options, run.findings)
    statistics = load_statistics(settings, saved, observations)
    activation, known_by = activation_of(saved, settings.activation)
    policy = rebuild(saved, observations, actions, activation, statistics)
    inputs = example_inputs(policy, observations, actions)
    with torch_threads(1):
        act = make_act(policy, inputs)
        episodes = settings.evaluation_episodes
        returns = episode_returns(act, environment, episodes, EVALUATION_SEED, env_kwargs=options)
        obs, _ = record_episode(act, environment, EVALUATION_SEED, options)
        taken, samples = golden_episode(policy, inputs, actions, obs)
    plot_evaluation(returns, taken, run.report)
    references = compare_returns(settings, saved, returns, run.findings)
    return Trained(
        **describe_policy(policy, inputs, observations, actions),
        metrics={**returns_summary(returns), **references},
        samples=samples,
        data=about(saved, settings),
        training={
            "algorithm": saved.algorithm,
            "activation": activation,
            "activation_known_by": known_by,
            "observations_normalised": statistics is not None,
            "gymnasium": gymnasium.__version__,
            "seconds": time.perf_counter() - started,
        },
    )


def about(saved: SavedPolicy, settings: Settings) -> dict[str, Any]:
    """What the export's metadata says of the training."""
    return {
        "name": settings.environment,
        "source": f"{saved.path.name}, saved by stable-baselines3 {saved.version}",
        "licence": settings.licence,
        "fingerprint": saved.fingerprint,
        "transitions": saved.steps,
    }


def check_algorithm(saved: SavedPolicy, algorithm: str | None) -> None:
    """Raise CallError if the file holds a policy of another algorithm than the one that is named."""
    if algorithm not in (None, saved.algorithm):
        raise CallError(
            f"{saved.path} holds {saved.algorithm}, not {algorithm}; leave 'algorithm' out, or name its file"
        )


def check_spaces(saved: SavedPolicy, environment: str, options: dict[str, Any]) -> None:
    """Raise CallError unless the environment has the spaces of the training, and its actions' bounds."""
    observations, actions = observation_space(environment, options), action_space(environment, options)
    for name, space in (("observation_space", observations), ("action_space", actions)):
        kind, sizes = printed_space(saved.spaces[name])
        if (kind, sizes) != _sizes(space):
            raise CallError(
                f"{saved.path}: its {name} is {kind} {sizes}, but {environment} has {space}; "
                "name the one it was trained in, with its arguments as environment_options"
            )
    if (
        isinstance(observations, spaces.Box)
        and observations.dtype == np.uint8
        and len(observations.shape) == 3
    ):
        raise CallError(f"{environment} observes images, {observations}; policies of numbers can be imported")
    if isinstance(actions, spaces.Box):
        for bounds, bound in _bounds(saved, "action_space", actions):
            if len(bounds) != bound.size or not np.allclose(bounds, bound, rtol=1e-5):
                raise CallError(
                    f"{saved.path}: its actions are bounded by {bounds}, "
                    f"those of {environment} by {bound.tolist()}"
                )


def find_other_bounds(
    saved: SavedPolicy, environment: str, options: dict[str, Any], findings: Findings
) -> None:
    """A finding where the training observed a Box with other bounds, as NormalizeObservation makes them."""
    space = observation_space(environment, options)
    if not isinstance(space, spaces.Box):
        return
    for bounds, bound in _bounds(saved, "observation_space", space):
        # numpy elides some of a long one
        if len(bounds) == bound.size and not np.allclose(bounds, bound, rtol=1e-4):
            words = (
                f"of the training bounded by {bounds}, those of {environment} by {bound.tolist()}. If they "
                "were normalized (NormalizeObservation), set training.statistics to their mean and var"
            )
            findings.add("observations", words, [saved.path.name])
            return


def _bounds(saved: SavedPolicy, name: str, space: spaces.Box) -> Iterator[tuple[list[float], np.ndarray]]:
    """(printed, the environment's), of low and high."""
    yield from zip(printed_bounds(saved.spaces[name]), (space.low.ravel(), space.high.ravel()), strict=True)


def _sizes(space: spaces.Space[Any]) -> tuple[str, list[int]]:
    """As `printed_space` gives them."""
    if isinstance(space, spaces.Box):
        return "Box", [*space.shape]
    if isinstance(space, spaces.Discrete):
        return "Discrete", [int(space.n)]
    sizes = space.nvec.ravel().tolist() if isinstance(space, spaces.MultiDiscrete) else []
    return type(space).__name__, sizes


def load_statistics(
    settings: Settings, saved: SavedPolicy, observations: ObservationSpec
) -> ObservationStatistics | None:
    """The observation statistics, or None if the policy takes raw observations.

    Raises CallError where it is missing or of another shape.
    """
    if settings.statistics is None:
        if saved.is_normalized:
            raise CallError(
                f"{saved.path} was trained behind VecNormalize; "
                "set 'statistics' to the file that its save(...) wrote"
            )
        return None
    statistics = read_statistics(paths.expanded(settings.statistics), settings.trust_pickle)
    if statistics is not None and (observations.is_discrete or statistics.mean.shape != observations.shape):
        raise CallError(
            f"{settings.statistics}: mean has the shape {[*statistics.mean.shape]}, "
            f"but the observations {[*observations.shape]}; name their own"
        )
    return statistics


def compare_returns(
    settings: Settings, saved: SavedPolicy, returns: np.ndarray, findings: Findings
) -> dict[str, float]:
    """The means beside the measured one: of random actions, and of the last training episodes if the file
    keeps some.

    A finding, with what the import may lack, where the policy is no better than the first or has lost more
    than half of what the second is above it.
    """
    environment, options = settings.environment, settings.environment_options
    chance = random_returns(environment, settings.evaluation_episodes, EVALUATION_SEED, options)
    means, is_weak = {"random_return": float(chance.mean())}, not _is_above(returns, chance)
    words = f"random actions {chance.mean():.4g}"
    if len(saved.returns) > 1:
        training = np.array(saved.returns)
        means["training_return"] = float(training.mean())
        words += f", the last {len(training)} episodes of its training {training.mean():.4g}"
        half = (chance.mean() + training.mean()) / 2
        is_weak |= bool(_is_above(training, returns) and returns.mean() < half)
    if is_weak:
        weak = f"returns {returns.mean():.4g} in {environment}, {words}.{_what_may_lack(settings, saved)}"
        findings.add("policy", weak, [saved.path.name])
    return means


def _what_may_lack(settings: Settings, saved: SavedPolicy) -> str:
    words = ""
    if settings.statistics is None and "Box" in str(saved.spaces["observation_space"].get(":type:")):
        own = [saved.path.with_suffix(".pkl"), saved.path.with_name("vecnormalize.pkl")]
        beside = next((f" to {path}" for path in own if path.is_file()), "")
        words = (
            " If its observations were normalized (VecNormalize, NormalizeObservation), set "
            f"training.statistics{beside}."
        )
    return f"{words} If its environment had arguments, set training.environment_options"


def _is_above(returns: np.ndarray, others: np.ndarray) -> bool:
    """Whether the mean is higher by more than two standard errors."""
    error = np.sqrt(returns.var(ddof=1) / len(returns) + others.var(ddof=1) / len(others))
    return bool(returns.mean() - others.mean() > 2 * error)


def plot_evaluation(returns: np.ndarray, actions: np.ndarray, report: Path) -> None:
    """Write returns.png (of the evaluation episodes) and episode.png (the actions of the first)."""
    report.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(returns, bins=30)
    axes.set(title="Evaluation", xlabel="return of an episode", ylabel="episodes")
    figure.savefig(report / "returns.png", dpi=110)
    plot_episode(actions.reshape(len(actions), -1), "action").savefig(report / "episode.png", dpi=110)
