"""How many threads torch computes with while a network learns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

TINY_PARAMETERS = 500_000  # a network with fewer learns with one thread


def threads_for(network: nn.Module) -> int:
    """What `torch_threads` takes for it: 1, or 0 for a network that is not tiny."""
    return int(sum(one.numel() for one in network.parameters()) < TINY_PARAMETERS)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch with `count` threads; 0 leaves them. In a tiny network the threads wait for each other longer
    than they compute.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
