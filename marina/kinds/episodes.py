"""Plays episodes of a policy through its requests.

All that run take their next step in one request, and every action is kept.

A policy that remembers is asked in both ways that it has: the endpoint with the state that each episode's
last answer returned, this process with whole stacks of frames; a recurrent one always with its state.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.protocol.errors import BrokenArchive
from handlers.runtime.export import AGAIN, Export
from marina.core.errors import WorkError
from marina.core.spec import Spec

Ask = Callable[[bytes], Any]  # the body of a request -> its answer
MOST_BODY_BYTES = 2_000_000  # TorchServe takes 6,553,500 by default, and the answer carries states
BYTES_OF_REAL, BYTES_OF_WHOLE, BYTES_OF_MASKED = 22, 4, 3
# between two steps' seeds, so that no episode's draws are those of another's later step
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Played:
    """Returns, float64 [episodes], and each episode's actions, as the answers had them."""

    returns: np.ndarray
    actions: list[list[Any]]

    def summary(self) -> dict[str, float]:
        """What an evaluation reports."""
        spread = float(self.returns.std(ddof=1)) if len(self.returns) > 1 else 0.0
        return {
            "mean_return": float(self.returns.mean()),
            "std_return": spread,
            "episodes": len(self.returns),
        }


class Requests:
    """What a policy is asked, step after step, with the states of its running episodes.

    `stacks` sends whole stacks of frames where the policy takes them. `seed`, if given, draws the actions.
    """

    def __init__(self, config: dict[str, Any], stacks: bool, seed: int | None = None) -> None:
        self.stacked = bool(config.get("wrappers", {}).get("frame_stack")) and "state" not in config.get(
            "inputs", ()
        )
        self.remembers = "state" in config.get("inputs", ()) or (self.stacked and not stacks)
        self.seed = seed
        self.states: dict[int, str] = {}

    def instance(self, episode: int, step: int, observation: Any, allowed: Any = None) -> dict[str, Any]:
        """One instance of a request; `allowed`, bool [n], is the environment's action mask, if it has one."""
        array = np.asarray(observation)
        instance: dict[str, Any] = {
            "observation": (array[-1] if self.stacked and self.remembers else array).tolist()
        }
        if allowed is not None:
            instance["action_mask"] = np.asarray(allowed, int).tolist()
        if self.remembers and step:
            instance |= {"state": self.states[episode], "step": step}
        if self.seed is not None:
            instance |= {"deterministic": False, "seed": self.seed + SEED_STRIDE * step + episode}
        return instance

    def answered(self, episode: int, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, its state kept for the episode's next step."""
        if self.remembers:
            self.states[episode] = answer["state"]
        return answer


def configuration(spec: Spec) -> dict[str, Any]:
    """preprocess_config.json of an exported policy. Raises BrokenArchive where it names no environment."""
    config = Export.open(spec.export_dir).preprocess
    if not isinstance(config.get("environment"), str):
        raise BrokenArchive(f"preprocess_config.json in {spec.export_dir} names no environment; {AGAIN}")
    return config


def _choices(spec: Spec) -> int:
    """How many values a mask of its actions has."""
    action = Export.open(spec.export_dir).postprocess["action_space"]
    return sum(action.get("nvec", (action.get("n", 0),)))


def play_episodes(
    spec: Spec, ask: Ask, episodes: int, stacks: bool = True, seed: int | None = None
) -> Played:
    """Play episodes 0 to `episodes` - 1 of the evaluation, started as in training.

    As many run at a time as one request holds.

    With `seed` the actions are draws of the policy's distribution.
    """
    from training.policies.envs.evaluate import EVALUATION_SEED, EpisodeStep
    from training.policies.envs.evaluate import play_episodes as play
    from training.policies.envs.make import uses_action_masks
    from training.policies.spaces import ObservationSpec

    config = configuration(spec)
    env_kwargs = ObservationSpec.from_json(config).env_kwargs
    requests = Requests(config, stacks, seed)
    actions: list[list[Any]] = [[] for _ in range(episodes)]
    number = BYTES_OF_WHOLE if "int" in config["dtype"] else BYTES_OF_REAL
    mask_bytes = BYTES_OF_MASKED * _choices(spec) * uses_action_masks(env_kwargs)
    size = number * int(np.prod(config["shape"])) + mask_bytes + 200
    num_envs = max(1, min(1000, MOST_BODY_BYTES // size))

    def act(steps: Sequence[EpisodeStep]) -> list[Any]:
        body = json.dumps({"instances": [requests.instance(*step) for step in steps]}).encode()
        answers = ask(body)["predictions"]
        for step, answer in zip(steps, answers, strict=True):
            actions[step.episode].append(requests.answered(step.episode, answer)["action"])
        return [answer["action"] for answer in answers]

    returns = play(act, config["environment"], episodes, EVALUATION_SEED, num_envs, env_kwargs=env_kwargs)
    return Played(returns, actions)


def can_sample(spec: Spec) -> bool:
    """Whether a policy has a distribution to draw from."""
    return "noise" in configuration(spec).get("inputs", ())


def first_difference(played: Played, other: Played) -> str:
    """The earliest step at which two plays of the same episodes differ, in words; empty if none differs.

    Real numbers may differ by 1e-5 of their size: other machines round otherwise.
    """
    parted = []
    for episode, pair in enumerate(zip(played.actions, other.actions, strict=True)):
        step = next((step for step, both in enumerate(zip(*pair, strict=False)) if not _same(*both)), None)
        if step is not None:
            parted.append((step, episode))
        elif len(pair[0]) != len(pair[1]):
            parted.append((min(map(len, pair)), episode))
    if not parted:
        return ""
    step, episode = min(parted)
    left, right = (run.actions[episode][step : step + 1] for run in (played, other))
    place = f"the first at step {step} of episode {episode}: {_words(left)} and {_words(right)}"
    return f"{len(parted)} of {len(played.actions)} episodes; {place}"


def check_same(served: Played, local: Played) -> str:
    """In words how many episodes and steps were the same. Raises WorkError with the first difference."""
    if place := first_difference(served, local):
        raise WorkError(f"the endpoint and this process act differently in {place}")
    return (
        f"{len(served.actions)} episodes, {sum(map(len, served.actions)):,} steps: the same actions, step "
        "for step"
    )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return np.shape(left) == np.shape(right) and bool(np.allclose(left, right, rtol=1e-5, atol=1e-6))


def _words(action: list[Any]) -> str:
    return json.dumps(action[0]) if action else "none, as it had ended"
