"""Activations that are computed again in the backward pass instead of kept (Chen et al. 2016): a step takes
about a third longer and, of what its layers keep, only the inputs of blocks.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from marina.core.errors import CallError


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The outermost parts of sequences that learn and have parts themselves, as a ResNet's blocks."""
    found: list[nn.Module] = []
    for child in model.children():
        is_sequence = isinstance(model, nn.Sequential | nn.ModuleList)
        if is_sequence and any(child.children()) and any(True for _ in child.parameters()):
            found.append(child)
        else:
            found += blocks_of(child)
    return found


@contextmanager
def recomputed_activations(model: nn.Module) -> Iterator[int]:
    """Inside, the blocks of `model` keep no activations while it learns; yields their number.

    What is learned stays the same: dropout draws the same numbers again, and batch normalization doesn't
    count a batch twice. Raises CallError for a network without blocks.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise CallError(
            "activation_checkpointing finds no blocks in this network: parts of nn.Sequential or ModuleList "
            "that have parts themselves; leave it out"
        )
    for block in blocks:
        block.forward = _recomputed(block)  # type: ignore[method-assign]
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            del block.forward


def _recomputed(block: nn.Module) -> Callable[..., Any]:
    """The forward pass of a block, which keeps nothing but its inputs where gradients are needed."""
    forward = block.forward

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _paused_statistics(block)

    def again(*inputs: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)

    return again


@contextmanager
def _paused_statistics(block: nn.Module) -> Iterator[None]:
    """Batch normalization forgets at the end what it has counted: running means are changed in copies."""
    norms = [each for each in block.modules() if isinstance(each, _NormBase)]
    kept = [dict(each._buffers) for each in norms]
    for each in norms:
        each._buffers.update(
            {name: None if one is None else one.clone() for name, one in each._buffers.items()}
        )
    try:
        yield
    finally:
        for each, buffers in zip(norms, kept, strict=True):
            each._buffers.update(buffers)
