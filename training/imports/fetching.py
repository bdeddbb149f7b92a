"""Weights that torchvision and timm fetch from the network: tensors alone, within limits of time."""

import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from marina.core.errors import CallError
from marina.core.time_limit import TimeLimit
from training.imports.files import first_line, tensors_alone

SILENT_SECONDS = 60.0  # that a server may say nothing
DOWNLOAD_SECONDS = 7200.0  # of one file


def fetched(build_one: Callable[[], nn.Module], weights: Any, architecture: str) -> nn.Module:
    """What `build_one` gives, which fetches torchvision's `weights`; None for none.

    Raises CallError, with what to do offline, where it can't.
    """
    if weights is None:
        return build_one()
    name = f"weights {weights.name} of {architecture}"
    way = f"{offline(weights)}, or give the path of a .pth or .safetensors file as weights"
    try:
        with tensors_alone(), download_limits(name, way):
            return build_one()
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
    ) as error:  # no way to the network, half a file, another file
        raise CallError(f"{name} can't be had: {first_line(error)}. {way}") from error


@contextmanager
def download_limits(name: str, way: str) -> Iterator[None]:
    """In the block a server that says nothing for SILENT_SECONDS is a TimeoutError.

    Raises CallError, with the `way` out, where the block takes longer than DOWNLOAD_SECONDS.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SECONDS)  # torch.hub sets none
    try:
        with TimeLimit(DOWNLOAD_SECONDS, f"{name} had not come after {DOWNLOAD_SECONDS:,.0f} s. {way}"):
            yield
    finally:
        socket.setdefaulttimeout(before)


def offline(weights: Any) -> str:
    """Where to put the file of torchvision's `weights` by hand."""
    place = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"Offline, put the file {weights.url.rsplit('/', 1)[-1]} into {place} (TORCH_HOME moves that folder)"
    )
