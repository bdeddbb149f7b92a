"""How a policy learns, whatever the algorithm: phases of experience and learning, looks at the policy between them, the report.

A look plays a few episodes without exploration. The best policy of all looks is kept, and learning ends as soon as a long look
confirms the target return. Ctrl-C ends it too: then the best so far is measured and handed over, if there is one. The next training of
the same model goes on from there.
"""

import copy
import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import gymnasium
import numpy as np
from pydantic import Field, field_validator

from marina.spec import Section
from training.policies import checkpoints, environments, rollout
from training.policies.checkpoints import Checkpoint
from training.policies.drawing import History, draw, progress_bar
from training.policies.graphs import GreedyPolicy, Policy, acting, answered, described, example, golden
from training.policies.small_networks import small_network_arithmetic
from training.trained import Trained

SELECTION_SEED = rollout.EVALUATION_SEED // 2  # training starts below, the reported evaluation above


class LearningSettings(Section):
    """What every recipe that learns in an environment has."""

    environment: str = Field(default="CartPole-v1", description="a gymnasium environment's id")
    environment_options: dict[str, Any] = Field(default={}, description="what it is made with, like {sutton_barto_reward: true}")
    atari: bool = Field(default=False, description="84 x 84 in grey, 4 frames per step: for games of the Arcade Learning Environment")
    frame_stack: int = Field(default=0, ge=0, le=64, description="the last so many observations are observed together; 0: the last alone")
    action_masks: bool = Field(default=False, description="only what the environment's info['action_mask'] allows is done and learned")
    envpool: bool = Field(default=False, description="learn in EnvPool's copies of the environment, which step faster; needs envpool")
    steps: int = Field(default=100_000, ge=1, description="environment steps at most; fewer when the target is confirmed")
    target_return: float | None = Field(default=None, description="stop once confirmed; default: the environment's own threshold")
    screening_every: int = Field(default=256, ge=1, description="environment steps between two looks at the policy")
    screening_episodes: int = Field(default=20, ge=2, description="episodes of such a look")
    evaluation_episodes: int = Field(default=100, ge=2, description="episodes that confirm the target, and that are reported")

    @field_validator("environment_options")
    @classmethod
    def _undrawn(cls, options: dict[str, Any]) -> dict[str, Any]:
        if reserved := {"render_mode", "wrappers"} & options.keys():
            raise ValueError(f"{', '.join(sorted(reserved))} can't be set here; pictures: marina play --gif, wrappers: atari, frame_stack")
        return options

    @property
    def made_with(self) -> dict[str, Any]:
        """What the environment is made with besides its id."""
        wrappers = {"atari_preprocessing": self.atari, "frame_stack": self.frame_stack, "action_masks": self.action_masks}
        chosen = {name: value for name, value in wrappers.items() if value}
        return {**self.environment_options, **({"wrappers": chosen} if chosen else {})}


class Acting(Protocol):
    """A policy while it learns; a deep copy of it is a snapshot."""

    @property
    def act(self) -> rollout.Act:
        """Actions without exploration, as `rollout` asks for them."""


class LearningPolicy(Acting, Protocol):
    """One that can be served."""

    def served(self) -> Policy:
        """The graph, in eval mode, with weights of its own."""


class Learner(Protocol):
    """An algorithm at work: its environments, networks and optimisers."""

    loss: str  # what the first number of `phase` is
    exploration: str  # and the second

    @property
    def policy(self) -> LearningPolicy:
        """What learns."""

    @property
    def experience(self) -> "Experience":
        """Where it learns."""

    def phase(self) -> tuple[float, float]:
        """Gather some experience and learn from it. Returns what the curves show."""


MakesLearner = Callable[[Any, dict[str, Any], dict[str, Any], int], Learner]  # settings, observation, action, seed


class Experience:
    """Copies of an environment that go on from phase to phase, and what is counted of them."""

    def __init__(self, environment: str, copies: int, seed: int, options: Mapping[str, Any] | None = None, envpool: bool = False) -> None:
        self.vector = rollout.make_vector(environment, copies, options, envpool)
        self.random = np.random.default_rng(seed)
        self.masked = environments.with_masks(options)
        self.allowed: np.ndarray | None = None  # bool [copies, n], at the present observations; None: everything
        self._observe(*self.vector.reset(seed=int(self.random.integers(SELECTION_SEED // 2))))
        self.resetting = np.zeros(copies, bool)  # copies whose next row only resets them: the action is ignored, nothing is earned
        self.returns = np.zeros(copies)
        self.transitions, self.episodes, self.last_return = 0, 0, 0.0
        self.interrupted = False  # since a replay asked
        self.digest = hashlib.sha256()

    def restart(self) -> None:
        """Begin a new episode in every copy, whether the last one has ended or not."""
        self._observe(*self.vector.reset())
        self.resetting[:], self.returns[:] = False, 0

    def go_on(self) -> None:
        """After a stop: new episodes from starts that are drawn anew, since nobody knows where the copies stood."""
        self.vector.reset(seed=int(self.random.integers(SELECTION_SEED // 2)))
        self.restart()
        self.interrupted = True

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of every copy: (rewards, terminated, ended, whether the row is a real transition), [copies] each."""
        observations, rewards, terminated, truncated, infos = self.vector.step(actions)
        self._observe(observations, infos)
        self.digest.update(self.observations.tobytes() + rewards.tobytes())
        real, self.resetting = ~self.resetting, terminated | truncated
        self.transitions += int(np.count_nonzero(real))  # a tenth of what sum() and any() take on a few copies
        self.returns += rewards
        if ended := int(np.count_nonzero(self.resetting)):
            self.episodes += ended
            self.last_return = float(self.returns[self.resetting].mean())
            self.returns[self.resetting] = 0
        return rewards, terminated, self.resetting, real

    def _observe(self, observations: np.ndarray, infos: Mapping[str, Any]) -> None:
        self.observations = observations
        if self.masked:  # the copies reset on the step after an end, so a mask always is of the observation that it comes with
            self.allowed = infos["action_mask"]


Snapshot = TypeVar("Snapshot", bound=Acting)


class Selection(Generic[Snapshot]):
    """The best policy seen. Every look draws other starts, all apart from the evaluation that is reported."""

    def __init__(self, settings: LearningSettings, policy: Snapshot) -> None:
        self.settings = settings
        self.best, self.best_return = copy.deepcopy(policy), -np.inf
        threshold = gymnasium.spec(settings.environment).reward_threshold
        self.wanted = threshold if settings.target_return is None else settings.target_return
        self.seed = SELECTION_SEED

    def confirms(self, policy: Snapshot) -> tuple[float, bool]:
        """(mean return of a short look, whether a long one puts the target two standard errors below the mean)."""
        mean, _ = self._look(policy, self.settings.screening_episodes)
        score, confirmed = mean, False
        if self.wanted is not None and mean >= self.wanted:
            score, error = self._look(policy, self.settings.evaluation_episodes)
            confirmed = score - 2 * error >= self.wanted
        if score > self.best_return or confirmed:
            self.best, self.best_return = copy.deepcopy(policy), score
        return mean, confirmed

    def _look(self, policy: Snapshot, episodes: int) -> tuple[float, float]:
        returns = rollout.quick_returns(policy.act, self.settings.environment, episodes, self.seed, self.settings.made_with)
        self.seed += episodes
        return float(returns.mean()), float(returns.std(ddof=1) / np.sqrt(episodes))


def improve(learner: Learner, selection: Selection[LearningPolicy], settings: LearningSettings) -> History:
    """Phase after phase until `selection` confirms the policy, the steps are used up, or Ctrl-C with a policy to go on with.

    Goes on where a training of the same settings was stopped, if its state was kept.
    """
    history, experience = History(), learner.experience
    checkpoint, confirmed = Checkpoint(learner=learner, selection=selection, history=history), False
    if checkpoint.load():
        history.go_on(experience.transitions)
        experience.go_on()
    bar, saved = progress_bar(settings.environment, settings.steps, learner.exploration), time.monotonic()
    with closing(experience.vector), bar as show:
        try:
            while experience.transitions < settings.steps and not confirmed:
                loss, exploration = learner.phase()
                show(experience.transitions, exploration, experience.last_return)
                history.learned.append((experience.transitions, exploration, loss))
                if experience.transitions >= min(history.next_look(settings.screening_every), settings.steps):
                    mean, confirmed = selection.confirms(learner.policy)
                    history.screened.append((experience.transitions, mean))
                if time.monotonic() - saved > checkpoints.EVERY_SECONDS:
                    history.tick()
                    checkpoint.save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            history.tick()
            checkpoint.save()
            if not history.screened:
                raise
            history.interrupted = True
    history.episodes = experience.episodes
    if not history.interrupted:
        checkpoint.forget()
    return history


def train(settings: LearningSettings, seed: int, report: Path, make_learner: MakesLearner) -> Trained:
    """Learn, and hand over the best policy seen, measured as it will be served.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    environment, options = settings.environment, settings.made_with
    observation, action = rollout.observation_config(environment, options=options), rollout.action_config(environment, options)
    with small_network_arithmetic(seed):
        learner = make_learner(settings, observation, action, seed)
        selection = Selection(settings, learner.policy)
        history = improve(learner, selection, settings)
        policy = selection.best.served()
        inputs = example(policy, observation, action)
        act = acting(policy, inputs)
        returns = rollout.episode_returns(act, environment, settings.evaluation_episodes, rollout.EVALUATION_SEED, options=options)
        observations, allowed = rollout.watched_episode(act, environment, rollout.EVALUATION_SEED, options)
        actions, samples = golden(policy, inputs, observations, action, allowed)
        values = answered(policy, inputs, observations, "q_values") if isinstance(policy, GreedyPolicy) else None
    history.tick()
    spent = {"seconds": history.seconds, "cpu_seconds": history.cpu_seconds, "resumed_at": history.resumed}
    traced, trace = ("action", actions.reshape(len(actions), -1)) if values is None else ("Q-value of action", values)
    draw(history, trace, selection.wanted, report, learner.loss, learner.exploration, traced)
    experience = learner.experience
    return Trained(
        **described(policy, inputs, observation, action),
        metrics={
            "mean_return": float(returns.mean()),
            "std_return": float(returns.std(ddof=1)),
            "episodes": len(returns),
            "steps": experience.transitions,
        },
        samples=samples,
        data={
            "name": settings.environment,
            "source": f"gymnasium {gymnasium.__version__}",
            "licence": "MIT",
            "fingerprint": experience.digest.hexdigest(),
            "transitions": experience.transitions,
            "episodes": experience.episodes,
        },
        training={"steps_done": experience.transitions, "interrupted": history.interrupted, **spent},
    )
