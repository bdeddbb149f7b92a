"""Deep Q-learning: a policy for environments with few discrete actions, from numbers, states or pictures.

The algorithm is DQN (Mnih et al. 2015, "Human-level control through deep reinforcement learning", Algorithm 1). Each on its own
switch come the Double DQN target (van Hasselt et al. 2016), the dueling network (Wang et al. 2016), prioritised replay (Schaul et
al. 2016), returns of several steps (Sutton and Barto 2018, section 7.1), noisy networks (Fortunato et al. 2018) and distributions
of the return, C51 (Bellemare et al. 2017); all together are Rainbow (Hessel et al. 2018). Training alternates phases:
all copies of the environment step, then many gradient steps follow; the target network is renewed only between phases.
The network is in policies/q_network, the replay in policies/sequences. The file reads: what can be set, one phase, exploration, a
gradient step by autograd, and by hand for a plain network on the CPU, which takes a third of the time.

Not covered: recurrent policies, corrections of returns that another policy earned.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from marina.errors import CallError
from training.policies import learning
from training.policies.distributions import forbid
from training.policies.learning import Experience, LearningSettings
from training.policies.observations import ObservationEncoder
from training.policies.q_network import QNetwork, arrays_of, gradients_of, projected
from training.policies.sequences import Batch, SequenceReplay
from training.policies.small_networks import Adam, answer, backward, descend, flatten, passes
from training.trained import Trained

ROWS_AT_ONCE = 512


class Settings(LearningSettings):
    """Defaults are tuned for CartPole-v1."""

    hidden: tuple[int, ...] = Field(default=(128, 128), description="units of the hidden layers; with pictures, of those after the encoder")
    double: bool = Field(default=False, description="Double DQN: the network in training chooses the target's action")
    dueling: bool = Field(default=False, description="dueling network: state value and advantages apart")
    prioritised: bool = Field(default=False, description="draw by how large the error was, not uniformly")
    priority_alpha: float = Field(default=0.6, ge=0, le=1, description="exponent of the priorities: 0 is uniform")
    importance_beta: float = Field(default=0.4, ge=0, le=1, description="exponent of the weights that correct it at first; in the end 1")
    n_steps: int = Field(default=1, ge=1, le=100, description="rewards that a target adds up before it asks the network")
    noisy: bool = Field(default=False, description="explore by learned noise on the weights instead of by epsilon")
    atoms: int = Field(default=1, ge=1, le=1001, description="above 1, as 51, learn the return's distribution over so many values")
    support: tuple[float, float] = Field(default=(0.0, 100.0), description="least and largest return of that distribution")
    copies: int = Field(default=16, ge=1, le=1024, description="environments that step together")
    phase_steps: int = Field(default=16, ge=1, description="steps of every copy per phase")
    gradient_steps: int = Field(default=64, ge=1, description="gradient steps per phase")
    target_phases: int = Field(default=1, ge=1, description="the target network is renewed every so many phases")
    batch_size: int = Field(default=64, ge=1, description="transitions per gradient step")
    learning_rate: float = Field(default=2.3e-3, gt=0, description="of Adam")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="what Adam adds to the deviation")
    gradient_norm: float = Field(default=0.0, ge=0, description="a longer gradient is shortened to this; 0: never")
    gamma: float = Field(default=0.99, ge=0, lt=1, description="discount per step")
    clip_rewards: bool = Field(default=False, description="learn from their sign alone, as is the custom with Atari games")
    replay: int = Field(default=100_000, ge=1, description="steps that are remembered, about")
    warmup_steps: int = Field(default=1000, ge=0, description="environment steps before the first gradient step")
    epsilon_end: float = Field(default=0.1, ge=0, le=1, description="share of random actions in the end; it starts at 1")
    epsilon_steps: int = Field(default=4000, ge=1, description="environment steps over which epsilon falls")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where the network learns")

    @model_validator(mode="after")
    def _support(self) -> "Settings":
        if self.atoms > 1 and not self.support[0] < self.support[1]:
            raise ValueError(f"support {list(self.support)} must be a lower and a higher return")
        return self


class Learner:
    """Deep Q-learning at work; a phase is some steps of all copies and some gradient steps."""

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        if action["type"] != "discrete":
            raise CallError(
                f"{settings.environment} acts by {action['type']}; this recipe takes Discrete actions; others: ppo, trpo, a2c, reinforce"
            )
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise CallError("device: cuda: no such device here; leave it out")
        self.settings, self.phases = settings, 0
        self.loss = "cross-entropy" if settings.atoms > 1 else "Huber loss"
        self.exploration = "noise" if settings.noisy else "epsilon"
        options = settings.model_dump(include={"dueling", "noisy", "atoms", "support"})
        self.policy = QNetwork(observation, int(action["n"]), settings.hidden, **options).to(settings.device)
        self.target = copy.deepcopy(self.policy)
        self.flat, self.flat_target = flatten(self.policy), flatten(self.target)
        self.optimizer = torch.optim.Adam([self.flat], settings.learning_rate, eps=settings.adam_epsilon, fused=True)
        layers = self.policy.plain() if settings.device == "cpu" else None
        self.by_hand = Gradients(layers, self.flat, settings, observation) if layers else None
        self.experience = Experience(settings.environment, settings.copies, seed, settings.made_with, settings.envpool)
        seen = self.experience.observations
        self.replay = SequenceReplay(
            settings.replay,
            settings.copies,
            seen.shape[1:],
            observation["dtype"],
            gamma=settings.gamma,
            n_steps=settings.n_steps,
            stack=settings.frame_stack or 1,
            alpha=settings.priority_alpha if settings.prioritised else None,
            choices=self.policy.actions if settings.action_masks else 0,
        )

    def phase(self) -> tuple[float, float]:
        """(the loss of the last batch, the share of random actions); before there is enough to learn from, the loss is NaN."""
        epsilon, loss = self.epsilon(), float("nan")
        for _ in range(self.settings.phase_steps):
            self.explore(epsilon)
        if len(self.replay) < self.settings.warmup_steps or not self.replay.ready:
            return loss, epsilon
        if self.phases % self.settings.target_phases == 0:
            self.flat_target.data.copy_(self.flat.data)
        self.phases += 1
        self.policy.train()
        for batch, wanted in self.batches():
            loss = self.step(batch, wanted)
        return loss, epsilon

    def epsilon(self) -> float:
        """The present share of random actions: all before the first gradient step, with noise none after it."""
        done, settings = self.experience.transitions, self.settings
        if settings.noisy:
            return float(done < settings.warmup_steps)
        return max(settings.epsilon_end, 1 - (1 - settings.epsilon_end) * done / settings.epsilon_steps)

    def explore(self, epsilon: float) -> None:
        """One step of every copy, by the noise or epsilon-greedily, among what is allowed."""
        experience, observations, allowed = self.experience, self.experience.observations, self.experience.allowed
        if experience.interrupted:
            self.replay.break_off()
            experience.interrupted = False
        self.policy.train()
        self.policy.draw()
        random = experience.random.random(len(observations)) < epsilon
        if allowed is None:
            uniform = experience.random.integers(self.policy.actions, size=len(observations))
        else:
            uniform = np.where(allowed, experience.random.random(allowed.shape), -1).argmax(1)
        actions = uniform if random.all() else np.where(random, uniform, self.best(observations, allowed))
        rewards, terminated, ended, real = experience.step(actions)
        learned = np.sign(rewards) if self.settings.clip_rewards else rewards
        self.replay.add(observations, actions, learned, terminated, ended, real, allowed)

    def best(self, observations: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Greedy actions, int64 [copies], of those that are allowed."""
        if self.by_hand:
            actions: np.ndarray = forbid(self.by_hand.answers(observations), allowed).argmax(1)
            return actions
        return self.policy.best(rows_of(observations), allowed)

    def batches(self) -> Iterator[tuple[Batch, torch.Tensor]]:
        """The batches of a phase with their targets.

        The target network stands still, so one draw is enough for all; but with priorities each draw waits for what the last one
        changed, and with noise each has its own. Targets that ask the network in training wait for its last step.
        """
        settings = self.settings
        draws = settings.gradient_steps if settings.prioritised or settings.noisy else 1
        done = min(self.experience.transitions / settings.steps, 1.0)
        beta = settings.importance_beta + (1 - settings.importance_beta) * done
        for _ in range(draws):
            drawn = self.replay.draw(settings.gradient_steps // draws * settings.batch_size, self.experience.random, beta)
            following = self.following(drawn)
            self.policy.draw()
            wanted = None if settings.double else self.wanted(drawn, following)
            for start in range(0, len(drawn.rows), settings.batch_size):
                part = slice(start, start + settings.batch_size)
                batch = drawn.rows_at(part)
                yield batch, self.wanted(batch, following[part]) if wanted is None else wanted[part]

    @torch.no_grad()
    def following(self, drawn: Batch) -> torch.Tensor:
        """What the target network says of what follows, some rows at a time: so their memory stays in the cache and is used again."""
        self.target.draw()
        return torch.cat([self.target.answers(rows) for rows in torch.split(self.tensor(drawn.following), ROWS_AT_ONCE)])

    def step(self, batch: Batch, wanted: torch.Tensor) -> float:
        """One gradient step towards the targets; returns the loss, weighted by importance, as it was before."""
        loss, off = self.by_hand.step(batch, wanted.numpy()) if self.by_hand else self.by_autograd(batch, wanted)
        if self.replay.priorities is not None:
            self.replay.priorities.learned(batch.rows, off)
        return loss

    def by_autograd(self, batch: Batch, wanted: torch.Tensor) -> tuple[float, np.ndarray]:
        """The step of any network: (the loss as it was before, how far each answer [B] was from `wanted`)."""
        answers = self.policy.answers(self.tensor(batch.observations))
        chosen = answers[torch.arange(len(answers)), self.tensor(batch.actions)]
        if self.settings.atoms > 1:
            losses = -(wanted * chosen).sum(1)
            # what the priorities are made of: the divergence, which unlike the cross-entropy can reach 0 (Hessel et al. 2018, section 3)
            errors = losses.detach() + torch.xlogy(wanted, wanted).sum(1)
        else:
            losses, errors = functional.smooth_l1_loss(chosen, wanted, reduction="none"), (chosen.detach() - wanted).abs()
        loss = (losses * self.tensor(batch.weights)).mean()
        descend(loss, self.flat, self.optimizer, self.policy, self.settings.gradient_norm)
        return loss.item(), errors.clamp(min=0).cpu().numpy()

    @torch.no_grad()
    def wanted(self, batch: Batch, following: torch.Tensor) -> torch.Tensor:
        """Targets: values [B], or distributions [B, atoms]: the return, and the discounted answer for the best action of what follows.

        The best action, of those that are allowed there, is that of the target network (Mnih et al. 2015) or, with `double`, of the
        one in training.
        """
        double, returns, discounts = self.settings.double, self.tensor(batch.returns), self.tensor(batch.discounts)
        forbidden = None if batch.allowed is None else ~self.tensor(batch.allowed)
        if self.settings.atoms == 1 and not double:
            return returns + discounts * without(following, forbidden).amax(1)
        means = self.policy(self.tensor(batch.following)) if double else self.target.means(following)
        best = following[torch.arange(len(following)), without(means, forbidden).argmax(1)]
        if self.settings.atoms > 1:
            return projected(best.exp(), returns, discounts, self.target.support)
        return returns + discounts * best

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """On the device; what is observed as the network takes it."""
        return torch.from_numpy(rows_of(array)).to(self.settings.device)


class Gradients:
    """Gradient steps on the Huber loss of a plain network, [B, n] to Q-values, written by hand in NumPy."""

    def __init__(self, layers: list[nn.Linear], flat: nn.Parameter, settings: Settings, observation: dict[str, Any]) -> None:
        assert flat.grad is not None
        self.settings, self.encoder, self.gradient = settings, ObservationEncoder(observation, normalise=False), flat.grad.numpy()
        self.arrays, self.gradients = arrays_of(layers), gradients_of(layers)
        self.adam = Adam(flat.detach().numpy(), settings.adam_epsilon)

    def answers(self, observations: np.ndarray) -> np.ndarray:
        """Q-values, float32 [B, actions]."""
        return answer(self.arrays, "relu", self.encoder(observations))

    def step(self, batch: Batch, wanted: np.ndarray) -> tuple[float, np.ndarray]:
        """One step: (the loss, weighted by importance, as it was before, how far each answer [B] was from `wanted`)."""
        passed, taken = passes(self.arrays, "relu", self.encoder(batch.observations)), (np.arange(len(wanted)), batch.actions)
        errors = passed[-1][taken] - wanted
        slopes, off = errors.clip(-1, 1), np.abs(errors)
        weighted = slopes * batch.weights
        by_output = np.zeros_like(passed[-1])
        by_output[taken] = weighted / np.float32(len(wanted))
        backward(self.arrays, "relu", passed, by_output, self.gradients)
        if most := self.settings.gradient_norm:
            self.gradient *= min(1.0, most / (np.sqrt(self.gradient @ self.gradient) + 1e-6))
        self.adam.step(self.gradient, self.settings.learning_rate)
        return float(weighted @ (errors - 0.5 * slopes)) / len(wanted), off  # the loss is slope * (error - slope / 2)


def without(values: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """Q-values [B, n] that are minus infinity where `forbidden`, bool [B, n]; None forbids nothing."""
    return values if forbidden is None else values.masked_fill(forbidden, -torch.inf)


def rows_of(array: np.ndarray) -> np.ndarray:
    """float64 as float32; whole numbers and pixels stay."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
