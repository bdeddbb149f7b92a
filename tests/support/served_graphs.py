"""The graph of an export as a worker loads it."""

import io
from typing import Any

import torch
from torch import nn


def served(module: nn.Module, *example: torch.Tensor) -> Any:
    """As a worker has it: exported with a dynamic batch, written and loaded again."""
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(
        module.eval(), example, dynamic_shapes=tuple({0: batch} for _ in example), strict=False
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return torch.export.load(io.BytesIO(buffer.getvalue())).module()
