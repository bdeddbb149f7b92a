"""What is put around a user's module: standardized inputs, a loss per head, and the graph that serves."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from training.tensors.signatures import Signature

LossName = Literal["mse", "mae", "huber", "cross_entropy", "bce"]
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}
Tensors = tuple[torch.Tensor, ...]


class MLP(nn.Module):
    """A multilayer perceptron over all inputs, flattened and joined: one output per head."""

    def __init__(
        self, size: int, heads: Mapping[str, tuple[int, ...]], hidden: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(size, width), ACTIVATIONS[activation]()]
            size = width
        self.body = nn.Sequential(*layers)
        self.shapes = dict(heads)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(size, int(torch.Size(shape).numel())) for name, shape in heads.items()}
        )

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, ...] each -> {head: [B, *shape]}."""
        joined = torch.cat([one.reshape(one.shape[0], -1).float() for one in inputs], 1)
        features = self.body(joined)
        return {name: head(features).reshape(-1, *self.shapes[name]) for name, head in self.heads.items()}


class Standardized(nn.Module):
    """A module behind inputs that were brought to mean 0 and deviation 1, as the training split has them.

    `statistics` holds mean and deviation for each input of floats, None for others.
    """

    def __init__(
        self, module: nn.Module, statistics: Sequence[tuple[torch.Tensor, torch.Tensor] | None]
    ) -> None:
        super().__init__()
        self.module, self.known = module, [one is not None for one in statistics]
        for index, one in enumerate(statistics):
            if one is not None:
                self.register_buffer(f"mean_{index}", one[0])
                self.register_buffer(f"deviation_{index}", one[1])

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, ...] each."""
        scaled = [
            (one - getattr(self, f"mean_{index}")) / getattr(self, f"deviation_{index}") if known else one
            for index, (one, known) in enumerate(zip(inputs, self.known, strict=True))
        ]
        return self.module(*scaled)  # type: ignore[no-any-return]


class ServedHeads(nn.Module):
    """The graph that serves: class probabilities instead of logits where a head learned by cross-entropy."""

    def __init__(self, module: nn.Module, losses: Mapping[str, LossName]) -> None:
        super().__init__()
        self.module, self.losses = module, dict(losses)

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, ...] each -> {head: [B, ...]}."""
        outputs = self.module(*inputs)
        served = {}
        for name, loss in self.losses.items():
            values = outputs[name]
            if loss == "cross_entropy":
                values = values.softmax(1)
            elif loss == "bce":
                values = values.sigmoid()
            served[name] = values
        return served


def statistics_of(inputs: Tensors, signature: Signature) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Mean and deviation of each input over the rows, per value where its shape is fixed; None for whole
    numbers. A value that never changes keeps its scale.
    """
    found: list[tuple[torch.Tensor, torch.Tensor] | None] = []
    for field, values in zip(signature.inputs, inputs, strict=True):
        if not values.is_floating_point():
            found.append(None)
            continue
        named = [place for place, size in enumerate(field.shape, 1) if isinstance(size, str)]
        mean, deviation = values.mean((0, *named)), values.std((0, *named), correction=0)
        for place in named:
            mean, deviation = mean.unsqueeze(place - 1), deviation.unsqueeze(place - 1)
        found.append((mean, torch.where(deviation > 0, deviation, 1.0)))
    return found


def loss_of(name: LossName, found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean loss of a head over the batch: `found` [B, ...] of any reals, for cross_entropy logits
    [B, classes, ...] beside whole numbers [B, ...].
    """
    if name == "cross_entropy":
        return functional.cross_entropy(found, truth.long())
    truth = truth.to(found.dtype)
    if name == "bce":
        return functional.binary_cross_entropy_with_logits(found, truth)
    if name == "mse":
        return functional.mse_loss(found, truth)
    return functional.l1_loss(found, truth) if name == "mae" else functional.huber_loss(found, truth)
