"""A policy that needs no training: the smallest model that goes the whole way, for tests."""

import json

import torch

from training.trained import Sample, Trained


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
    samples = [Sample(f"step-{i}", body, "application/json", {"action": [1, 0, 1][i]}) for i, body in enumerate(bodies)]
    return Trained(
        kind="policy",
        module=Balance().eval(),
        example=torch.tensor(observations),
        metrics={"mean_return": mean_return},
        preprocess={"input": "observation", "shape": [4], "dtype": "float32", "environment": "CartPole-v1"},
        postprocess={"type": "policy", "action_space": {"type": "discrete", "n": 2}, "outputs": ["q_values"]},
        samples=samples,
        data={"name": "none"},
    )
