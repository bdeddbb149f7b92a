"""Runs and released models at MLflow: a tracking server, or a SQLite file in the project.

A released model is a version of the registered model of its name. MLflow numbers those by itself; the tag
`marina.version` has the model's own, and an alias the one that is the default at the endpoint.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from marina.core.configuration import MlflowSettings
from training.tracking.tracker import Status, TrackedModel, require_package

MODEL, VERSION, KIND, ARCHIVE = "marina.model", "marina.version", "marina.kind", "marina.archive"
TAG_CHARACTERS = 5000  # that a value may have
RETRIES = "2"  # of a request to a server; by itself MLflow tries for minutes


class MlflowTracker:
    """`training.tracking.tracker.Tracker` for MLflow."""

    key: ClassVar[str] = "mlflow"
    title: ClassVar[str] = "MLflow"

    def __init__(self, settings: MlflowSettings, home: Path) -> None:
        self.settings, self.home = settings, home
        database = f"sqlite:///{home / 'mlflow.db'}"
        self.uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or database
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._logger: Any = None

    @property
    def place(self) -> str:
        """The server or the file, without a password."""
        scheme, _, rest = self.uri.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}" if rest else self.uri

    def check(self) -> None:
        """Raise CallError where MLflow is not installed."""
        require_package("mlflow", self.title)

    def start(self, model: TrackedModel, run_id: str | None) -> str:
        """Begin a run of the experiment, by default called like the model, or resume one."""
        from lightning.pytorch.loggers import MLFlowLogger

        self._quiet_client()
        resumed = run_id if run_id and self._is_known(run_id) else None
        is_local = not self.uri.startswith(("http:", "https:", "databricks"))
        self._logger = MLFlowLogger(
            experiment_name=self._experiment(model),
            run_name=f"{model.name} {model.version}",
            tracking_uri=self.uri,
            tags={MODEL: model.name, VERSION: model.version, KIND: model.kind, "marina.about": model.about},
            artifact_location=(self.home / "mlruns").as_uri() if is_local else None,
            run_id=resumed,
        )
        started = str(self._logger.run_id)
        self._client.update_run(started, status="RUNNING")
        return started

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """As MLflow's parameters, nested ones with a slash."""
        self._logger.log_hyperparams(dict(parameters))

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """As tags, which may change."""
        for name, value in facts.items():
            self._client.set_tag(self._logger.run_id, name, str(value)[:TAG_CHARACTERS])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """As metrics."""
        self._logger.log_metrics(dict(metrics), step)

    def log_report(self, files: Mapping[str, Path]) -> None:
        """Into the run's folder report/."""
        for name, file in files.items():
            folder = Path("report", name).parent.as_posix()
            self._client.log_artifact(self._logger.run_id, str(file), folder)

    def log_archive(self, model: TrackedModel, archive: Path, sha256: str) -> None:
        """Into the run's folder archive/, with its checksum as a tag."""
        self._client.log_artifact(self._logger.run_id, str(archive), "archive")
        self._client.set_tag(self._logger.run_id, ARCHIVE, sha256)

    def end(self, status: Status) -> None:
        """With MLflow's word for it."""
        self._logger.finalize(status)

    def register_release(self, model: TrackedModel, sha256: str) -> str:
        """Register the archive that a run logged, once, and move the alias to it.

        Raises LookupError where no run of the experiment has logged it.
        """
        client = self._quiet_client()
        number = self._registered(client, model, sha256) or self._register(client, model, sha256)
        client.set_registered_model_alias(model.name, self.settings.alias, number)
        return f"{model.name} {model.version} is version {number} there, with the alias {self.settings.alias}"

    def _registered(self, client: Any, model: TrackedModel, sha256: str) -> str | None:
        """The number of the version that this archive has in the registry; None for none yet."""
        for version in client.search_model_versions(f"name = '{model.name}'"):
            if version.tags.get(ARCHIVE) == sha256:
                return str(version.version)
        return None

    def _register(self, client: Any, model: TrackedModel, sha256: str) -> str:
        experiment = client.get_experiment_by_name(self._experiment(model))
        of_archive = f"tags.`{ARCHIVE}` = '{sha256}'"
        runs = client.search_runs([experiment.experiment_id], of_archive, max_results=1) if experiment else []
        if not runs:
            raise LookupError(
                f"no run of the experiment {self._experiment(model)!r} has logged this archive; train and "
                "archive with tracking on to have its next versions there"
            )
        if not client.search_registered_models(f"name = '{model.name}'", max_results=1):
            client.create_registered_model(model.name, description=model.about)
        info = runs[0].info
        source = f"{info.artifact_uri}/archive"
        tags = {VERSION: model.version, ARCHIVE: sha256}
        return str(client.create_model_version(model.name, source, info.run_id, tags=tags).version)

    def _quiet_client(self) -> Any:
        """A client that says nothing of new experiments and tables."""
        from mlflow import MlflowClient  # its import sets levels of logging

        for name in ("lightning.pytorch.loggers.mlflow", "alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")  # MLflow's, of SQLAlchemy
        return MlflowClient(self.uri)

    def _experiment(self, model: TrackedModel) -> str:
        return self.settings.experiment or model.name

    @property
    def _client(self) -> Any:
        return self._logger.experiment

    def _is_known(self, run_id: str) -> bool:
        """Whether the run is there and not deleted."""
        from mlflow import MlflowException

        try:
            return bool(self._quiet_client().get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
