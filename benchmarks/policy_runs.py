"""Trains a policy until it reaches a return, ours or that of stable-baselines3, and takes the time.

Between gradient steps, every so many environment steps, the policy is looked at without exploration: 20
episodes and, if those reach the threshold, 100 others, whose mean decides. The looks don't count. What is
reported is the return of 100 further episodes of the policy at the end.
"""

import importlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import stable_baselines3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.policy_plan import Counterpart
from marina.core.errors import CallError
from marina.core.spec import Spec, validate
from training.policies.envs.evaluate import SELECTION_SEED, Act, vector_returns
from training.policies.envs.observe import action_space, action_spec, observation_spec
from training.policies.loops.history import progress_bar
from training.policies.loops.learning import learn
from training.policies.networks.optim import seeded_single_thread

SHORT, LONG = 20, 100  # episodes


@dataclass(frozen=True)
class Run:
    """One training run, in seconds of processor time.

    `mean_return` is of 100 episodes of the final policy.
    """

    steps: int
    seconds: float
    reached: bool
    mean_return: float


class Watch:
    """A clock of processor time that stops during evaluations, which say when the threshold is reached."""

    def __init__(self, environment: str, options: dict[str, Any], threshold: float, seed: int) -> None:
        self.environment, self.options, self.threshold = environment, options, threshold
        self.seed, self.reached, self.seconds = SELECTION_SEED + 20_000 * seed, False, 0.0
        self.started = time.process_time()

    def look(self, act: Act) -> tuple[float, bool]:
        """(mean return, whether it is enough)."""
        self.seconds = time.process_time() - self.started
        mean = self._mean(act, SHORT)
        if mean >= self.threshold:
            mean = self._mean(act, LONG)
            self.reached = mean >= self.threshold
        self.started = time.process_time() - self.seconds
        return mean, self.reached

    def evaluate(self, policy: Any) -> tuple[float, bool]:
        """As `learning.learn` asks for it."""
        return self.look(policy.act)

    def ended(self, steps: int, act: Act) -> Run:
        """What came out, with the policy at the end."""
        return Run(steps, round(self.seconds, 3), self.reached, round(self._mean(act, LONG), 2))

    def _mean(self, act: Act, episodes: int) -> float:
        self.seed += episodes
        return float(vector_returns(act, self.environment, episodes, self.seed, self.options).mean())


class Looking(BaseCallback):
    """The same looks for stable-baselines3: after a gradient step, before the next experience."""

    def __init__(self, watch: Watch, every: int, show: Any) -> None:
        super().__init__()
        self.watch, self.every, self.next, self.show, self.last = watch, every, every, show, 0.0

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Actions without exploration."""
        normalised = self.model.get_vec_normalize_env()
        rows = observations if normalised is None else normalised.normalize_obs(observations)
        actions: np.ndarray = self.model.predict(rows, deterministic=True)[0]
        return actions

    def _on_rollout_start(self) -> None:
        self.show(self.num_timesteps, 0.0, self.last)
        if self.num_timesteps >= self.next:
            self.next = self.num_timesteps + self.every
            self.last = self.watch.look(self.act)[0]

    def _on_training_end(self) -> None:
        if not self.watch.reached:
            self.watch.look(self.act)

    def _on_step(self) -> bool:
        return not self.watch.reached


def settings_of(spec: Spec) -> Any:
    """The recipe's settings, defaults filled in. Raises CallError for unknown keys."""
    recipe = importlib.import_module(f"training.recipes.{spec.training.recipe}")
    return validate(recipe.Settings, spec.training.settings, f"{spec.name}: training")


def ours(spec: Spec, seed: int) -> Run:
    """One training of `spec`, whose floor is the threshold. Raises KeyboardInterrupt on Ctrl-C."""
    settings = settings_of(spec)
    environment, env_kwargs = settings.environment, settings.env_kwargs
    specs = observation_spec(environment, env_kwargs=env_kwargs), action_spec(environment, env_kwargs)
    with seeded_single_thread(seed):
        watch = Watch(environment, env_kwargs, spec.floor["mean_return"], seed)
        learner = importlib.import_module(f"training.recipes.{spec.training.recipe}").Learner(
            settings, *specs, seed
        )
        if learn(learner, watch, settings).was_interrupted:  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return watch.ended(learner.envs.num_timesteps, learner.policy.act)


def theirs(spec: Spec, counterpart: Counterpart, seed: int) -> Run:
    """Train the counterpart in the environment of `spec`. Raises CallError if its package is missing."""
    settings = settings_of(spec)
    unmasked = settings.model_copy(update={"action_masks": False})  # theirs takes no masks
    watch = Watch(settings.environment, unmasked.env_kwargs, spec.floor["mean_return"], seed)
    options = dict(counterpart.options)
    if counterpart.noise is not None:
        size = int(np.prod(action_space(settings.environment).shape or ()))
        options["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, counterpart.noise))
    vector = make_vec_env(settings.environment, counterpart.num_envs, seed=seed)
    if counterpart.normalised:
        vector = VecNormalize(vector, gamma=options.get("gamma", 0.99))
    model = class_of(counterpart.algorithm)("MlpPolicy", vector, seed=seed, device="cpu", **options)
    model.set_logger(Logger(None, []))  # its own leaves a folder SB3-… in the one for temporary files
    with progress_bar(f"{settings.environment} (stable-baselines3)", counterpart.steps) as show:
        looking = Looking(watch, settings.eval_freq, show)
        model.learn(counterpart.steps, looking)
    return watch.ended(model.num_timesteps, looking.act)


def class_of(algorithm: str) -> Any:
    """The class by its name, in stable-baselines3 or sb3-contrib."""
    if hasattr(stable_baselines3, algorithm):
        return getattr(stable_baselines3, algorithm)
    try:
        import sb3_contrib
    except ImportError as error:
        raise CallError(
            f"{algorithm} is in sb3-contrib, which is missing; run: pip install sb3-contrib"
        ) from error
    return getattr(sb3_contrib, algorithm)
