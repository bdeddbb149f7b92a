"""How one value of a graph's output changes with each number that was sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..protocol.errors import BadRequest, ModelError


@dataclass(frozen=True)
class Gradients:
    """The value at `index` (in row order) of an output, and its gradient by input, shaped like each."""

    index: int
    value: float
    by_input: dict[str, np.ndarray]


def gradients(
    module: torch.nn.Module,
    arrays: Sequence[np.ndarray],
    names: Sequence[str],
    output: str,
    index: int | None,
    device: str,
) -> Gradients:
    """Explain one value of `output` for one instance; by default the largest. Inputs that no gradient leads
    to, as those of whole numbers, are left out.

    Raises BadRequest for an index that the output doesn't have, ModelError for a gradient that isn't finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        inputs: list[torch.Tensor] = [torch.from_numpy(array[None].copy()).to(device) for array in arrays]
        leaves = {
            name: tensor.requires_grad_()
            for name, tensor in zip(names, inputs, strict=True)
            if tensor.is_floating_point()
        }
        values: torch.Tensor = module(*inputs)[output].flatten()
        chosen = int(values.argmax()) if index is None else index
        if chosen >= len(values):
            raise BadRequest(f"index must be 0 to {len(values) - 1} for {output!r}, not {chosen}")
        found: tuple[Any, ...] = ()
        if leaves and values.requires_grad:
            found = torch.autograd.grad(values[chosen], list(leaves.values()), allow_unused=True)
    by_input = {
        name: gradient[0].cpu().numpy()
        for name, gradient in zip(leaves, found, strict=False)
        if gradient is not None
    }
    if not all(np.isfinite(gradient).all() for gradient in by_input.values()):
        raise ModelError("the explanation is not finite; the input may be out of the range it was trained on")
    return Gradients(chosen, float(values[chosen].detach()), by_input)
