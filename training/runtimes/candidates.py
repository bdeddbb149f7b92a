"""What every candidate is built from, and what is written down of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from marina.spec import Spec
from training.trained import Trained

from bundle_handler import BundleHandler

Entry = dict[str, Any]  # of runtime.json, as `bundle_runtimes.load` takes it


class Refused(Exception):
    """Why a candidate can't be built, or may not serve; the others do."""


@dataclass
class Candidate:
    """A row of the table: processor milliseconds per call at batch 1 and at the serving batch, and what it was checked by.

    `difference` is the largest of all outputs from the trained model's, relative to values above 1; `agreement` the share of
    held-out instances with the same answer; `lost` what the task's metric falls by on them, where it is measured; `refused` says why it
    may not serve.
    """

    runtime: str
    precision: str
    milliseconds: float = 0.0
    milliseconds_batch: float = 0.0
    difference: float = 0.0
    agreement: float | None = None
    lost: float | None = None
    refused: str = ""

    def cost(self, batch: int) -> float:
        """What a request costs, alone or in company; both count alike."""
        return self.milliseconds * self.milliseconds_batch / batch


@dataclass(frozen=True)
class Material:
    """A trained model on its way into an export; `program` is its graph, `form` how its outputs are named."""

    spec: Spec
    trained: Trained
    handler: BundleHandler
    program: ExportedProgram
    form: Mapping[str, Any]

    @property
    def batch(self) -> int:
        """The serving batch, as far as the graph takes it; a larger one comes in slices."""
        return min(self.spec.serving.batch_size, self.spec.export.max_batch)

    def rows(self, size: int) -> tuple[torch.Tensor, ...]:
        """A batch of `size` made of the example's rows."""
        rows = torch.arange(size) % len(self.trained.example[0])
        return tuple(part[rows] for part in self.trained.example)

    def calibration(self) -> list[tuple[np.ndarray, ...]]:
        """The graph's inputs for some training instances, each a batch of one. Raises Refused where there are none."""
        inputs = arrays_of(self.trained.calibration())
        if not inputs:
            raise Refused("there is no training data to measure the ranges of eight bits on")
        return [tuple(part[row : row + 1] for part in inputs) for row in range(len(inputs[0]))]


@dataclass(frozen=True)
class Builder:
    """How the files of a runtime come about.

    `build(material, precision, folder)` writes them and returns their entry; it raises Refused, or whatever a graph that can't be
    converted raises. `tools` are the packages that each precision needs beside marina's own, and `extra` is what brings them. `ways` are
    options of the runtime that are timed beside none; the best goes into the entry.
    """

    build: Callable[[Material, str, Path], Entry]
    tools: Mapping[str, tuple[str, ...]]
    extra: str = ""
    ways: Sequence[Mapping[str, Any]] = ()

    def check_tools(self, precision: str) -> None:
        """Raise Refused, with what installs it, where a package is missing."""
        missing = [name for name in self.tools[precision] if not is_installed(name)]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise Refused(f"{' and '.join(missing)} {are} not installed; run: pip install 'marina[{self.extra}]'")


def is_installed(package: str) -> bool:
    """Whether an import would find it."""
    try:
        return find_spec(package) is not None
    except ValueError:  # a name that stands for nothing at the moment
        return False


def arrays_of(inputs: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, ...]:
    """A graph's inputs as its runtimes take them."""
    return tuple(one.numpy() for one in inputs)
