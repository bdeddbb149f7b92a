"""The two programs of a network that writes: one reads the prompt, the other makes one token more."""

from typing import Generic, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Program(nn.Module, Generic[Network]):
    """A part of a network's work that is exported as a graph of its own; it has the network's weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
