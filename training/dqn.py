"""Deep Q-learning: a policy for environments with few discrete actions.

The algorithm is DQN (Mnih et al. 2015, "Human-level control through deep reinforcement learning", Algorithm 1), optionally
with the Double DQN target (van Hasselt et al. 2016) and the dueling network (Wang et al. 2016). Training alternates phases:
all copies of the environment step epsilon-greedily, then many gradient steps follow; the target network is renewed only
between phases, so that one pass gives the targets of a whole phase. The file reads in that order: what can be set,
the network, the experience, the targets, the loop, what is handed over.

Not covered: pixels, recurrent policies, n-step or distributional targets, prioritised replay.
"""

import copy
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import gymnasium
import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from training.policies import rollout
from training.policies.drawing import History, draw, progress_bar
from training.policies.learning import SELECTION_SEED, LearningSettings, Selection
from training.policies.replay import Replay, Transitions
from training.policies.small_networks import small_network_arithmetic
from training.trained import Sample, Trained


class Settings(LearningSettings):
    """Defaults are tuned for CartPole-v1."""

    hidden: tuple[int, ...] = Field(default=(128, 128), description="units of the hidden layers")
    double: bool = Field(default=False, description="Double DQN: the network in training chooses the target's action")
    dueling: bool = Field(default=False, description="dueling network: state value and advantages apart")
    copies: int = Field(default=16, ge=1, le=1024, description="environments that step together")
    phase_steps: int = Field(default=16, ge=1, description="steps of every copy per phase")
    gradient_steps: int = Field(default=64, ge=1, description="gradient steps per phase")
    target_phases: int = Field(default=1, ge=1, description="the target network is renewed every so many phases")
    batch_size: int = Field(default=64, ge=1, description="transitions per gradient step")
    learning_rate: float = Field(default=2.3e-3, gt=0, description="of Adam")
    gamma: float = Field(default=0.99, ge=0, lt=1, description="discount per step")
    replay: int = Field(default=100_000, ge=1, description="transitions that are remembered")
    warmup_steps: int = Field(default=1000, ge=0, description="environment steps before the first gradient step")
    epsilon_end: float = Field(default=0.1, ge=0, le=1, description="share of random actions in the end; it starts at 1")
    epsilon_steps: int = Field(default=4000, ge=1, description="environment steps over which epsilon falls")


class QNetwork(nn.Module):
    """Observations float32 [B, n], or states int64 [B] when `states` is their number, to Q-values float32 [B, actions]."""

    def __init__(self, inputs: int, actions: int, hidden: tuple[int, ...], dueling: bool = False, states: int = 0) -> None:
        super().__init__()
        self.states: torch.Tensor
        self.register_buffer("states", torch.arange(states))
        sizes = [states or inputs, *hidden]
        layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.body = nn.Sequential(*layers)
        self.advantage = nn.Linear(sizes[-1], actions)
        self.value = nn.Linear(sizes[-1], 1) if dueling else None

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Q-values of every action."""
        if self.states.numel():
            observations = (observations.reshape(-1, 1) == self.states).float()
        features = self.body(observations)
        advantage: torch.Tensor = self.advantage(features)
        if self.value is None:
            return advantage
        # Wang et al. 2016, equation 9: without the mean, a constant could move between value and advantages
        value: torch.Tensor = self.value(features)
        return value + advantage - advantage.mean(1, keepdim=True)


class GreedyPolicy(nn.Module):
    """What is served: observations as QNetwork takes them to {"action": int64 [B], "q_values": float32 [B, actions]}."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The best action of those that `action_mask` (bool [B, actions]) allows, and what decided."""
        values = self.network(observations)
        return {"action": values.masked_fill(~action_mask, -torch.inf).argmax(1), "q_values": values}

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """Greedy actions, int64 [B], as `rollout` asks for them."""
        actions: np.ndarray = self.network(as_tensor(observations)).argmax(1).numpy()
        return actions


def as_tensor(observations: np.ndarray) -> torch.Tensor:
    """An environment's observations as the network takes them: whole numbers stay, the others become float32."""
    tensor = torch.from_numpy(observations)
    return tensor if tensor.dtype == torch.int64 else tensor.float()


class Experience:
    """Copies of the environment that go on from phase to phase."""

    def __init__(self, environment: str, copies: int, seed: int) -> None:
        self.vector = rollout.make_vector(environment, copies)
        self.random = np.random.default_rng(seed)
        self.actions = int(self.vector.single_action_space.n)  # type: ignore[attr-defined]
        self.observations, _ = self.vector.reset(seed=int(self.random.integers(SELECTION_SEED // 2)))
        self.resetting = np.zeros(copies, bool)
        self.returns = np.zeros(copies)
        self.episodes, self.last_return = 0, 0.0

    def collect(self, policy: GreedyPolicy, steps: int, epsilon: float) -> Transitions:
        """Up to steps x copies transitions by the epsilon-greedy policy.

        After an end, a copy's next row only resets it: the action is ignored and nothing was earned. Such rows are left out.
        A truncated step is not marked as terminated, so its target bootstraps from the true last observation.
        """
        parts = []
        for _ in range(steps):
            before, copies = self.observations, len(self.resetting)
            random = self.random.random(copies) < epsilon
            actions = np.where(random, self.random.integers(self.actions, size=copies), policy.act(before))
            self.observations, rewards, terminated, truncated, _ = self.vector.step(actions)
            real, self.resetting = ~self.resetting, terminated | truncated
            columns = (before.reshape(copies, -1), self.observations.reshape(copies, -1), actions, rewards, terminated)
            parts.append(np.column_stack(columns)[real].astype(np.float32))
            self._count(rewards)
        rows, width = torch.from_numpy(np.concatenate(parts)), columns[0].shape[1]
        return Transitions(*torch.split(rows, [width, width, 1, 1, 1], 1))

    def _count(self, rewards: np.ndarray) -> None:
        self.returns += rewards
        if self.resetting.any():
            self.episodes += int(self.resetting.sum())
            self.last_return = float(self.returns[self.resetting].mean())
            self.returns[self.resetting] = 0


@torch.no_grad()
def td_targets(batch: Transitions, online: nn.Module, target: nn.Module, gamma: float, double: bool) -> torch.Tensor:
    """One-step targets, float32 [N, 1]: reward, and unless terminated the discounted value of the next observation.

    That value is max_a Q_target (Mnih et al. 2015) or, when `double`, Q_target at argmax_a Q_online (van Hasselt et al. 2016).
    """
    following = target(batch.next_observations)
    best = (online(batch.next_observations) if double else following).argmax(1, keepdim=True)
    targets: torch.Tensor = batch.rewards + gamma * (1 - batch.terminated) * following.gather(1, best)
    return targets


def learn(
    network: nn.Module, target: nn.Module, optimizer: torch.optim.Optimizer, replay: Replay, settings: Settings, generator: torch.Generator
) -> float:
    """The gradient steps of one phase; returns the last batch's Huber loss."""
    size = settings.batch_size
    phase = replay.sample(settings.gradient_steps * size, generator)
    targets = td_targets(phase, network, target, settings.gamma, double=False)
    batches = (Transitions(*parts) for parts in zip(*(torch.split(part, size) for part in phase), strict=True))
    for batch, once in zip(batches, torch.split(targets, size), strict=True):
        # the target network stands still during a phase, but the one in training, which chooses for Double DQN, does not
        wanted = td_targets(batch, network, target, settings.gamma, double=True) if settings.double else once
        loss = functional.smooth_l1_loss(network(batch.observations).gather(1, batch.actions.long()), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss.item()


def improve(policy: GreedyPolicy, selection: Selection[GreedyPolicy], replay: Replay, settings: Settings, seed: int) -> History:
    """Train `policy` in place, phase after phase, until `selection` confirms it or the steps are used up."""
    history, network, target = History(), policy.network, copy.deepcopy(policy.network)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    experience = Experience(settings.environment, settings.copies, seed)
    next_look, confirmed = settings.screening_every, False
    with closing(experience.vector), progress_bar(settings.environment, settings.steps) as show:
        while replay.added < settings.steps and not confirmed:
            epsilon = max(settings.epsilon_end, 1 - (1 - settings.epsilon_end) * replay.added / settings.epsilon_steps)
            replay.add(experience.collect(policy, settings.phase_steps, epsilon))
            show(replay.added, epsilon, experience.last_return)
            if replay.added < settings.warmup_steps:
                continue
            if len(history.learned) % settings.target_phases == 0:
                target.load_state_dict(network.state_dict())
            loss = learn(network, target, optimizer, replay, settings, generator)
            history.learned.append((replay.added, epsilon, loss))
            if replay.added >= min(next_look, settings.steps):
                next_look = replay.added + settings.screening_every
                mean, confirmed = selection.confirms(policy)
                history.screened.append((replay.added, mean))
    history.episodes = experience.episodes
    return history


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    started, cpu = time.perf_counter(), time.process_time()
    config, actions = rollout.observation_config(settings.environment), rollout.discrete_actions(settings.environment)
    inputs, states = (config["shape"][0], 0) if config["shape"] else (1, config["high"] + 1)
    replay = Replay(settings.replay, inputs)
    with small_network_arithmetic(seed):
        policy = GreedyPolicy(QNetwork(inputs, actions, settings.hidden, settings.dueling, states))
        selection = Selection(settings, policy)
        history = improve(policy, selection, replay, settings, seed)
        best = selection.best.eval()
        values, samples = golden_episode(best, settings.environment)
        returns = rollout.episode_returns(best.act, settings.environment, settings.evaluation_episodes, rollout.EVALUATION_SEED)
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    draw(history, values, selection.wanted, report, exploration="epsilon (random actions)", traced="Q-value of action")
    source = {"name": settings.environment, "source": f"gymnasium {gymnasium.__version__}", "licence": "MIT"}
    counts = {"fingerprint": replay.digest.hexdigest(), "transitions": replay.added, "episodes": history.episodes}
    metrics = {"mean_return": float(returns.mean()), "std_return": float(returns.std(ddof=1))}
    return Trained(
        kind="policy",
        module=best,
        example=(torch.zeros(2, *config["shape"], dtype=getattr(torch, config["dtype"])), torch.ones(2, actions, dtype=torch.bool)),
        metrics={**metrics, "episodes": len(returns), "steps": replay.added},
        preprocess={**config, "inputs": ["observation", "action_mask"]},
        postprocess={
            "type": "policy",
            "action_space": {"type": "discrete", "n": actions},
            "deterministic": True,
            "outputs": ["q_values"],
        },
        samples=samples,
        data={**source, **counts},
        training={"steps_done": replay.added, "gradient_steps_done": len(history.learned) * settings.gradient_steps, **spent},
    )


def golden_episode(policy: GreedyPolicy, environment: str) -> tuple[np.ndarray, list[Sample]]:
    """Q-values [T, actions] along one evaluation episode, and its clearest steps as sample requests."""
    observations = rollout.episode_observations(policy.act, environment, rollout.EVALUATION_SEED)
    with torch.no_grad():
        values = policy.network(as_tensor(observations))
    best = values.topk(min(2, values.shape[1]), dim=1).values
    leads = best[:, 0] - best[:, -1]
    clear = leads >= torch.maximum(leads.median(), 1e-3 * values.abs().max())  # other arithmetic can't turn these
    return values.numpy(), rollout.golden_samples(observations, values.argmax(1).numpy(), clear.numpy())
