"""What an imported classifier's graph gives: finite logits, one per class."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from marina.core.errors import CallError
from training.imports.user_code import called

Key = int | str
AT_RANDOM = (
    "{} answers at random: two equal calls differ. Dropout or noise is active in eval mode, as "
    "F.dropout(x) is without training=self.training; switch it off"
)


class Output(nn.Module):
    """One of several outputs of a network, by its key, its attribute or its position."""

    def __init__(self, network: nn.Module, key: Key) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """That output for a batch."""
        return outputs_by_key(self.network(images))[self.key]  # type: ignore[no-any-return]


class Logarithm(nn.Module):
    """Probabilities become the logits that softmax turns into them again."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        return self.network(images).clamp(min=1e-12).log()  # type: ignore[no-any-return]


def outputs_by_key(given: Any) -> dict[Key, Any]:
    """What a network gives, by key: a dict, a named or plain tuple, a list, or an object with attributes."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, tuple | list):
        names = getattr(given, "_fields", range(len(given)))
        return dict(zip(names, given, strict=True))
    if dataclasses.is_dataclass(given):
        return {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return {name: value for name, value in getattr(given, "__dict__", {}).items() if name[0] != "_"}


def with_logits(graph: nn.Module, batch: torch.Tensor, source: str, key: Key | None) -> nn.Module:
    """`graph`, or the output of it that holds the logits: the one called `key`, else the only one that can
    be, else the one called "logits".

    Raises CallError, with all outputs, where none or several could be.
    """
    with torch.inference_mode():
        given = called(lambda: graph(batch), f"{source}, called with {tuple(batch.shape)},")
    if isinstance(given, torch.Tensor):
        if key is not None:
            raise CallError(f"output_key {key!r}: {source} gives a single tensor; leave it out")
        return graph
    outputs = outputs_by_key(given)
    fits = [name for name, value in outputs.items() if _are_logits(value, len(batch))]
    if key is None:
        key = fits[0] if len(fits) == 1 else "logits" if "logits" in fits else None
    if key not in fits:
        shapes = {
            name: tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            for name, value in outputs.items()
        }
        needed = f"logits [{len(batch)}, classes] of two classes or more"
        remedy = (
            f"say which are the {needed}: --set training.output_key=KEY" if fits else f"{needed} are needed"
        )
        kind = type(given).__name__
        raise CallError(f"{source} gives {kind} {shapes} for {len(batch)} pictures; {remedy}")
    return Output(graph, key)


def _are_logits(value: Any, many: int) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.ndim == 2
        and len(value) == many
        and value.shape[1] > 1
    )


def count_classes(
    graph: nn.Module, batch: torch.Tensor, source: str, outputs: Literal["logits", "probabilities"]
) -> int:
    """How many classes the graph knows, tried on a `batch` of four pictures.

    Raises CallError unless it gives finite logits, the same each time, and for a picture alone as in a batch.
    """
    with torch.inference_mode():
        together, again, alone = (
            called(lambda: graph(part), f"{source}, called with {tuple(part.shape)},")  # noqa: B023
            for part in (batch, batch, batch[:1])
        )
    if not isinstance(together, torch.Tensor) or not _are_logits(together, len(batch)):
        shape = tuple(together.shape) if isinstance(together, torch.Tensor) else type(together).__name__
        raise CallError(
            f"{source} gives {shape} for 4 pictures; logits [4, classes] of two classes or more are needed"
        )
    if not torch.allclose(together, again, rtol=1e-5, atol=1e-5, equal_nan=True):
        raise CallError(AT_RANDOM.format(source))
    if not torch.isfinite(together).all():
        raise CallError(
            f"{source} gives values that are no finite numbers; look at its weights and its mean and std"
        )
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-3):
        raise CallError(
            f"{source} answers a picture otherwise in company than alone; it mixes the pictures of a batch"
        )
    if outputs == "logits" and (together >= 0).all() and ((together.sum(1) - 1).abs() < 1e-4).all():
        raise CallError(
            f"{source} gives probabilities; take its softmax out, or say --set training.outputs=probabilities"
        )
    return int(together.shape[1])
