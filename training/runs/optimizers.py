"""The optimizer that the settings of a fit name."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from marina.core.errors import CallError

Name = Literal["adamw", "adam", "nadam", "rmsprop", "sgd", "muon"]
Groups = list[dict[str, Any]]
WITH_MOMENTUM = {"sgd": 0.9, "muon": 0.95, "rmsprop": 0.0}


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, AdamW for everything else: vectors, convolutions, embeddings.

    Muon's steps are scaled to the size of AdamW's (Liu et al. 2025, section 2.2), so that both take the
    same learning rates and weight decay. Raises CallError for a network without matrices.
    """

    def __init__(self, groups: Groups, model: nn.Module, momentum: float, weight_decay: float) -> None:
        embeddings = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
        matrices, others = [], []
        for group in groups:
            parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
            for weight in group["params"]:
                parts[weight.ndim != 2 or id(weight) in embeddings].append(weight)
            matrices += [{**group, "params": parts[0]}] if parts[0] else []
            others += [{**group, "params": parts[1]}] if parts[1] else []
        if not matrices:
            raise CallError(
                "optimizer muon is for the matrices of linear layers, and this network learns none; say adamw"
            )
        options: dict[str, Any] = {"weight_decay": weight_decay}
        muon = torch.optim.Muon(matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw", **options)
        self.parts: list[torch.optim.Optimizer] = [muon]
        if others:
            self.parts.append(torch.optim.AdamW(others, **options))
        super().__init__(self._groups(), {})

    def _groups(self) -> Groups:
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of both."""
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of both; a schedule then changes their new groups."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()


def make_optimizer(
    name: Name,
    groups: Groups,
    model: nn.Module,
    weight_decay: float,
    momentum: float | None = None,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer `name` over groups of the parameters of `model`; its `momentum` where it has one.

    Raises CallError where it can't be used for this network.
    """
    momentum = WITH_MOMENTUM.get(name, 0.0) if momentum is None else momentum
    options: dict[str, Any] = {"weight_decay": weight_decay}
    if name == "muon":
        return MuonAndAdamW(groups, model, momentum, weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, **options)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=momentum, **options)
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=fused or None, **options)
    if name == "nadam":
        return torch.optim.NAdam(groups, **options)
    return torch.optim.Adam(groups, **options)
