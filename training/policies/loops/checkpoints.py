"""The file from which an interrupted training resumes, even after `kill -9`.

It holds the state dicts of the learner, of the selection and of the history, and torch's generator. The
environments' own state can't be saved: after an interruption all of them begin new episodes. `torch.load`
reads the file with `weights_only`; it is replaced in one step.
"""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from marina.core.files import atomic_path

LOG = logging.getLogger("marina")


class Stateful(Protocol):
    """What has a state dict of tensors, numbers, text, and dicts and lists of such."""

    def state_dict(self) -> dict[str, Any]:
        """The present state; tensors may share memory."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any:
        """Restore it. Raises an exception where it doesn't fit."""


class Checkpoint:
    """The state of `parts` in `folder`; None saves nothing."""

    def __init__(self, folder: Path | None, **parts: Stateful) -> None:
        self.path, self.parts = folder and folder / "state.pt", parts

    def save(self) -> None:
        """Replace the file."""
        if self.path is None:
            return
        with atomic_path(self.path) as part:
            torch.save({**self._state(), "torch_rng": torch.get_rng_state()}, part)

    def load(self) -> bool:
        """Restore the state; false, and nothing changed, where there is no file or none that fits."""
        if self.path is None or not self.path.is_file():
            return False
        current = copy.deepcopy(self._state())
        try:
            state = torch.load(self.path, weights_only=True)
            self._restore(state)
            torch.set_rng_state(state["torch_rng"])
        except Exception as error:  # whatever a broken file makes its readers raise
            LOG.warning("%s can't be used (%s); training starts from scratch", self.path, error)
            self._restore(current)
            return False
        return True

    def remove(self) -> None:
        """Delete the file: the training is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def _restore(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
