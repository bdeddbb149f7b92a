"""Runs and released models at Weights & Biases, or in its offline folder, which `wandb sync` sends later.

An archive is an artifact of type "model" that is called like the model, with the model's version as an alias;
an alias more marks the one that is the default at the endpoint. Aliases are moved at the server alone.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from marina.core.configuration import WandbSettings
from marina.core.errors import CallError
from training.tracking.tracker import (
    FLUSH_SECONDS,
    INIT_SECONDS,
    Status,
    TrackedModel,
    require_package,
)

SUFFIXES = (".png", ".jpg")  # of pictures that are shown beside the curves


class WandbTracker:
    """`training.tracking.tracker.Tracker` for Weights & Biases."""

    key: ClassVar[str] = "wandb"
    title: ClassVar[str] = "Weights & Biases"

    def __init__(self, settings: WandbSettings, home: Path) -> None:
        self.settings, self.home = settings, home
        said = "offline" if os.environ.get("WANDB_MODE") in ("offline", "dryrun") else "online"
        self.mode = settings.mode or said
        os.environ.setdefault("WANDB_SILENT", "true")  # also of what it prints before a run
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._logger: Any = None

    @property
    def place(self) -> str:
        """The server, or the folder of an offline run."""
        if self.mode == "offline":
            return str(self.home / "wandb")
        return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")

    def check(self) -> None:
        """Raise CallError where the package is missing."""
        require_package("wandb", self.title)

    def start(self, model: TrackedModel, run_id: str | None) -> str:
        """Begin a run of the project, in the group of the model, or resume one. Raises CallError where there
        is no key for the server.
        """
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        if self.mode == "online" and not wandb.login(prompt=False):
            raise CallError("there is no key: run wandb login, set WANDB_API_KEY, or write mode: offline")
        self._logger = WandbLogger(
            name=f"{model.name} {model.version}",
            save_dir=self.home,
            id=run_id or secrets.token_hex(4),
            project=self.settings.project,
            entity=self.settings.entity,
            group=model.name,
            tags=[model.kind],
            notes=model.about,
            mode=self.mode,
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=FLUSH_SECONDS / 2,
                finish_timeout_raises=True,
            ),
        )
        return str(self._run.id)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """As the run's configuration."""
        self._logger.log_hyperparams(dict(parameters))

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """In the run's configuration too."""
        self._logger.log_hyperparams(dict(facts))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Over steps; those of the trained model in the summary."""
        if step is None:
            self._run.summary.update(dict(metrics))
        else:
            self._logger.log_metrics(dict(metrics), step)

    def log_report(self, files: Mapping[str, Path]) -> None:
        """Pictures beside the curves, and all files as an artifact."""
        import wandb

        report = wandb.Artifact(f"{self._run.id}-report", type="report")
        for name, file in files.items():
            report.add_file(str(file), name, policy="mutable")
            if file.suffix in SUFFIXES:
                self._logger.log_image(f"report/{file.stem}", [str(file)])
        self._run.log_artifact(report)

    def log_archive(self, model: TrackedModel, archive: Path, sha256: str) -> None:
        """As a version of the artifact that is called like the model."""
        import wandb

        artifact = wandb.Artifact(model.name, type="model", metadata={"sha256": sha256, "kind": model.kind})
        artifact.add_file(str(archive), policy="mutable")
        self._run.log_artifact(artifact, aliases=[model.version, "latest"])

    def end(self, status: Status) -> None:
        """Send what is left."""
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)

    def register_release(self, model: TrackedModel, sha256: str) -> str:
        """Move the alias to the artifact of this version. Raises LookupError for an offline project."""
        import wandb

        if self.mode == "offline":
            raise LookupError("aliases are moved at the server, and its mode is offline")
        owner = [self.settings.entity] if self.settings.entity else []
        path = "/".join([*owner, self.settings.project, f"{model.name}:{model.version}"])
        artifact = wandb.Api(timeout=int(INIT_SECONDS)).artifact(path, type="model")
        artifact.aliases.append(self.settings.alias)
        artifact.save()
        return f"{path} has the alias {self.settings.alias}"

    @property
    def _run(self) -> Any:
        return self._logger.experiment
