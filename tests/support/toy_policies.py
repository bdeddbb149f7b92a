"""Policies that need no training: the smallest models that can be exported and served."""

import json
from typing import Any

import torch

from training.export.trained import Sample, Trained

ODDS = (0.5, 0.3, 0.2)


def observed(*shape: int, environment: str = "none", **more: Any) -> dict[str, Any]:
    """What the export of a policy says of its observations."""
    config = {"input": "observation", "shape": list(shape), "dtype": "float32", "environment": environment}
    return {**config, **more}


class Balance(torch.nn.Module):
    """A policy of four observations that pushes to where the pole falls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.0, 0.0], [0.0, 0.0], [-2.0, 2.0], [-1.0, 1.0]]))

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 4] -> action [B], q_values [B, 2]."""
        values = observations @ self.weight
        return {"action": values.argmax(dim=1), "q_values": values}


def balance(mean_return: float = 100.0) -> Trained:
    """A policy that needs no training, as a recipe would hand it over."""
    observations = [[0.0, 0.0, 0.1, 0.2], [0.0, 0.0, -0.1, -0.2], [1.0, 0.0, 0.05, 0.0]]
    bodies = [json.dumps({"observation": row}).encode() for row in observations]
    samples = [
        Sample(f"step-{i}", body, "application/json", {"action": [1, 0, 1][i]})
        for i, body in enumerate(bodies)
    ]
    return Trained(
        kind="policy",
        module=Balance().eval(),
        example=(torch.tensor(observations),),
        metrics={"mean_return": mean_return},
        preprocess=observed(4, environment="CartPole-v1"),
        postprocess={"type": "policy", "action_space": {"type": "discrete", "n": 2}, "outputs": ["q_values"]},
        samples=samples,
        data={"name": "none"},
    )


class Dice(torch.nn.Module):
    """Three actions with fixed odds, whatever is observed beyond a shift of the first action's logit."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(ODDS).log())

    def forward(
        self, observations: torch.Tensor, action_mask: torch.Tensor, noise: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """[B, 2], bool [B, 3], Gumbel noise [B, 3] -> action [B], probabilities [B, 3]."""
        shift = torch.nn.functional.pad(observations[:, :1], (0, 2))
        logits = (self.logits + shift).masked_fill(~action_mask, -torch.inf)
        return {"action": (logits + noise).argmax(1), "probabilities": logits.softmax(1)}


class Throttle(torch.nn.Module):
    """A Gaussian policy of one action in -1..1 about the observation, squashed by tanh."""

    def forward(self, observations: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 1], standard normal noise [B, 1] -> action [B, 1]."""
        return {"action": (observations + 0.5 * noise).tanh()}


def dice() -> Trained:
    """`Dice`, as a recipe would hand it over; deterministic unless a request says otherwise."""
    body = json.dumps({"observation": [0.0, 0.0]}).encode()
    return Trained(
        kind="policy",
        module=Dice().eval(),
        example=(torch.zeros(2, 2), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3)),
        metrics={"mean_return": 100.0},
        preprocess=observed(2, inputs=["observation", "action_mask", "noise"]),
        postprocess={
            "type": "policy",
            "action_space": {"type": "discrete", "n": 3},
            "noise": "gumbel",
            "outputs": ["probabilities"],
        },
        samples=[Sample("start", body, "application/json", {"action": 0})],
        data={"name": "none"},
    )


def throttle() -> Trained:
    """`Throttle`, which samples unless a request says otherwise."""
    body = json.dumps({"observation": [0.5], "deterministic": True}).encode()
    return Trained(
        kind="policy",
        module=Throttle().eval(),
        example=(torch.zeros(2, 1), torch.zeros(2, 1)),
        metrics={"mean_return": 100.0},
        preprocess=observed(1, inputs=["observation", "noise"]),
        postprocess={
            "type": "policy",
            "action_space": {"type": "box", "shape": [1], "low": [-1.0], "high": [1.0]},
            "noise": "normal",
            "deterministic": False,
        },
        samples=[Sample("half", body, "application/json", {"action": [0.4621171]})],
        data={"name": "none"},
    )


class Swing(torch.nn.Module):
    """Pushes by how the pole has moved over the frames that are stacked: float32 [B, 3, 4], oldest first."""

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 3, 4] -> action [B], q_values [B, 2]."""
        lean = (
            observations[:, 2, 2]
            + 3 * (observations[:, 2, 2] - observations[:, 0, 2])
            + 0.3 * observations[:, 1, 3]
        )
        values = torch.stack([-lean, lean], 1)
        return {"action": values.argmax(1), "q_values": values}


class Memory(torch.nn.Module):
    """A recurrent policy: what it remembers, [B, 2], fades and takes in the pole's angle and velocity."""

    def forward(
        self, observations: torch.Tensor, noise: torch.Tensor, state: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """[B, 4], Gumbel noise [B, 2], [B, 2] -> action [B], probabilities [B, 2], value [B], state [B,
        2].
        """
        state = 0.8 * state + observations[:, 2:]
        lean = 10 * state.sum(1)
        logits = torch.stack([-lean, lean], 1)
        action = (logits + noise).argmax(1)
        return {"action": action, "probabilities": logits.softmax(1), "value": lean.abs(), "state": state}


def swing() -> Trained:
    """`Swing`, as a recipe with `frame_stack: 3` would hand it over."""
    stack = [[0.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.1, 0.1], [0.0, 0.0, 0.2, 0.1]]
    return Trained(
        kind="policy",
        module=Swing().eval(),
        example=(torch.zeros(2, 3, 4),),
        metrics={"mean_return": 100.0},
        preprocess=observed(3, 4, environment="CartPole-v1", wrappers={"frame_stack": 3}),
        postprocess={"type": "policy", "action_space": {"type": "discrete", "n": 2}, "outputs": ["q_values"]},
        samples=[
            Sample("falls", json.dumps({"observation": stack}).encode(), "application/json", {"action": 1})
        ],
        data={"name": "none"},
    )


def memory() -> Trained:
    """`Memory`, as a recipe would hand it over."""
    body = json.dumps({"observation": [0.0, 0.0, 0.1, 0.1]}).encode()
    return Trained(
        kind="policy",
        module=Memory().eval(),
        example=(torch.zeros(2, 4), torch.zeros(2, 2), torch.zeros(2, 2)),
        metrics={"mean_return": 100.0},
        preprocess=observed(
            4, environment="CartPole-v1", inputs=["observation", "noise", "state"], state={"shape": [2]}
        ),
        postprocess={
            "type": "policy",
            "action_space": {"type": "discrete", "n": 2},
            "noise": "gumbel",
            "outputs": ["probabilities", "value"],
        },
        samples=[Sample("falls", body, "application/json", {"action": 1})],
        data={"name": "none"},
    )
