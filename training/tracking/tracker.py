"""What a tracker of experiments does, and those that a project's marina.yaml names."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from marina.core import paths
from marina.core.configuration import FILE, read_configuration
from marina.core.errors import CallError

START_SECONDS = 60.0  # for a tracker to start a run, its imports included
INIT_SECONDS = 20.0  # for the server of Weights & Biases to know it
FLUSH_SECONDS = 120.0  # for what is left to be sent
INTERRUPTED_SECONDS = 5.0  # the same after Ctrl-C or a signal

Status = Literal["FINISHED", "FAILED", "KILLED"]
TENSORBOARD = "tensorboard"  # its folder in a report has the same curves once more


@dataclass(frozen=True)
class TrackedModel:
    """The model that a run is about."""

    name: str
    version: str
    kind: str
    about: str = ""


class Tracker(Protocol):
    """One server or store of runs. Its methods are called in order, in one thread, and may raise anything.

    `key` is its key in marina.yaml and in tracking.json, `title` its name in messages.
    """

    key: ClassVar[str]
    title: ClassVar[str]

    @property
    def place(self) -> str:
        """Where its runs are, for messages."""

    def check(self) -> None:
        """Raise CallError where something is missing that no call could do without."""

    def start(self, model: TrackedModel, run_id: str | None) -> str:
        """Begin a run, or resume that of the id; the run's id."""

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Settings by name, which may be nested."""

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """What else is known of the run, by name."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Measurements of an epoch or a number of timesteps, or, without one, of the trained model."""

    def log_report(self, files: Mapping[str, Path]) -> None:
        """The files of a report, by their paths in it."""

    def log_archive(self, model: TrackedModel, archive: Path, sha256: str) -> None:
        """The archive that the run's model was packed into."""

    def end(self, status: Status) -> None:
        """End the run."""

    def register_release(self, model: TrackedModel, sha256: str) -> str:
        """Register the archive of that checksum as released, under the alias; what was done, in words."""


def trackers(home: Path | None = None) -> list[Tracker]:
    """Those that marina.yaml names. Raises CallError for one whose package is missing."""
    settings = read_configuration(home).tracking
    home = home or paths.find_home()
    found: list[Tracker] = []
    if settings.mlflow is not None:
        from training.tracking.mlflow_tracker import MlflowTracker

        found.append(MlflowTracker(settings.mlflow, home))
    if settings.wandb is not None:
        from training.tracking.wandb_tracker import WandbTracker

        found.append(WandbTracker(settings.wandb, home))
    for tracker in found:
        tracker.check()
    return found


def require_package(package: str, title: str) -> None:
    """Raise CallError, with what to install, where the package of a tracker is missing."""
    if find_spec(package) is None:
        raise CallError(
            f"tracking.{package} in {FILE} needs {title}: pip install 'marina[{package}]', or take the key "
            "out"
        )


def report_files(report: Path) -> dict[str, Path]:
    """The files of a report by their paths in it, without TensorBoard's."""
    files = sorted(path for path in report.rglob("*") if path.is_file())
    named = {path.relative_to(report): path for path in files}
    return {path.as_posix(): file for path, file in named.items() if path.parts[0] != TENSORBOARD}
