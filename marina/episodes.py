"""Episodes of a policy through its requests: all that run take their next step in one request, and every action is kept.

A policy that remembers is asked in both ways that it has: the endpoint with the state that each episode's last answer brought, this
process with whole stacks of frames; a recurrent one always with its state.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marina.errors import WorkError
from marina.spec import Spec

Ask = Callable[[bytes], Any]  # the body of a request -> its answer
MOST_BODY_BYTES = 2_000_000  # TorchServe takes 6,553,500 by default, and the answer carries states
BYTES_OF_REAL, BYTES_OF_WHOLE, BYTES_OF_MASKED = 22, 4, 3
SEED_STRIDE = 1_000_003  # between two steps' seeds, so that no episode's draws are those of another's later step


@dataclass(frozen=True)
class Played:
    """Returns, float64 [episodes], and each episode's actions, as the answers had them."""

    returns: np.ndarray
    actions: list[list[Any]]

    def summary(self) -> dict[str, float]:
        """What an evaluation reports."""
        spread = float(self.returns.std(ddof=1)) if len(self.returns) > 1 else 0.0
        return {"mean_return": float(self.returns.mean()), "std_return": spread, "episodes": len(self.returns)}


class Requests:
    """What a policy is asked, step after step, with the states of its running episodes.

    `stacks` sends whole stacks of frames where the policy takes them. `seed`, if given, draws the actions.
    """

    def __init__(self, config: dict[str, Any], stacks: bool, seed: int | None = None) -> None:
        self.stacked = bool(config.get("wrappers", {}).get("frame_stack")) and "state" not in config.get("inputs", ())
        self.remembers = "state" in config.get("inputs", ()) or (self.stacked and not stacks)
        self.seed = seed
        self.states: dict[int, str] = {}

    def instance(self, episode: int, step: int, observation: Any, allowed: Any = None) -> dict[str, Any]:
        """One instance of a request; `allowed`, bool [n], is the mask of its actions where the environment gives one."""
        array = np.asarray(observation)
        asked: dict[str, Any] = {"observation": (array[-1] if self.stacked and self.remembers else array).tolist()}
        if allowed is not None:
            asked["action_mask"] = np.asarray(allowed, int).tolist()
        if self.remembers and step:
            asked |= {"state": self.states[episode], "step": step}
        if self.seed is not None:
            asked |= {"deterministic": False, "seed": self.seed + SEED_STRIDE * step + episode}
        return asked

    def answered(self, episode: int, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, its state kept for the episode's next step."""
        if self.remembers:
            self.states[episode] = answer["state"]
        return answer


def configuration(spec: Spec) -> dict[str, Any]:
    """preprocess_config.json of an exported policy."""
    config: dict[str, Any] = json.loads((spec.export_dir / "preprocess_config.json").read_text(encoding="utf-8"))
    return config


def _choices(spec: Spec) -> int:
    """How many values a mask of its actions has."""
    action = json.loads((spec.export_dir / "postprocess_config.json").read_text(encoding="utf-8"))["action_space"]
    return sum(action.get("nvec", (action.get("n", 0),)))


def play_episodes(spec: Spec, ask: Ask, episodes: int, stacks: bool = True, seed: int | None = None) -> Played:
    """Episodes 0 to `episodes` - 1 of the evaluation, as training starts them; as many at a time as one request holds.

    With `seed` the actions are draws of the policy's distribution.
    """
    from training.policies.environments import made_with, with_masks
    from training.policies.rollout import EVALUATION_SEED, Moment, played

    config = configuration(spec)
    options = made_with(config)
    requests = Requests(config, stacks, seed)
    actions: list[list[Any]] = [[] for _ in range(episodes)]
    number = BYTES_OF_WHOLE if "int" in config["dtype"] else BYTES_OF_REAL
    size = number * int(np.prod(config["shape"])) + BYTES_OF_MASKED * _choices(spec) * with_masks(options) + 200
    copies = max(1, min(1000, MOST_BODY_BYTES // size))

    def act(moments: Sequence[Moment]) -> list[Any]:
        body = json.dumps({"instances": [requests.instance(*moment) for moment in moments]}).encode()
        answers = ask(body)["predictions"]
        for moment, answer in zip(moments, answers, strict=True):
            actions[moment.episode].append(requests.answered(moment.episode, answer)["action"])
        return [answer["action"] for answer in answers]

    returns = played(act, config["environment"], episodes, EVALUATION_SEED, copies, options=options)
    return Played(returns, actions)


def can_sample(spec: Spec) -> bool:
    """Whether a policy has a distribution to draw from."""
    return "noise" in configuration(spec).get("inputs", ())


def first_difference(one: Played, other: Played) -> str:
    """Where two plays of the same episodes part, in words: the earliest step of all; empty where every action is the same.

    Real numbers may differ by 1e-5 of their size: other machines round otherwise.
    """
    parted = []
    for episode, pair in enumerate(zip(one.actions, other.actions, strict=True)):
        step = next((step for step, both in enumerate(zip(*pair, strict=False)) if not _same(*both)), None)
        if step is not None:
            parted.append((step, episode))
        elif len(pair[0]) != len(pair[1]):
            parted.append((min(map(len, pair)), episode))
    if not parted:
        return ""
    step, episode = min(parted)
    left, right = (played.actions[episode][step : step + 1] for played in (one, other))
    return (
        f"{len(parted)} of {len(one.actions)} episodes; the first at step {step} of episode {episode}: {_words(left)} and {_words(right)}"
    )


def check_same(served: Played, local: Played) -> str:
    """In words how many episodes and steps were the same. Raises WorkError with the first difference."""
    if found := first_difference(served, local):
        raise WorkError(f"the endpoint and this process act differently in {found}")
    return f"{len(served.actions)} episodes, {sum(map(len, served.actions)):,} steps: the same actions, step for step"


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return np.shape(left) == np.shape(right) and bool(np.allclose(left, right, rtol=1e-5, atol=1e-6))


def _words(action: list[Any]) -> str:
    return json.dumps(action[0]) if action else "none, as it had ended"
