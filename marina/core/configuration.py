"""The project's own configuration, `marina.yaml` beside `models/`; without the file all is as by default."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from marina.core import paths
from marina.core.errors import CallError
from marina.core.validation import Section, validate
from marina.core.yaml_files import read_yaml

FILE = "marina.yaml"


class JobSettings(Section):
    """The bounds of jobs on a server (requests with `Prefer: respond-async`)."""

    max_jobs: int = Field(default=1000, ge=1, description="jobs that are kept, ended ones too")
    max_bytes: int = Field(default=2_000_000_000, ge=1, description="of all bodies and results on the disk")
    max_body_bytes: int = Field(default=100_000_000, ge=1, description="of one body, also unpacked")
    max_instances: int = Field(default=1_000_000, ge=1, description="instances of one job")
    keep_hours: float = Field(
        default=24.0, gt=0, description="how long an ended job is kept, and a queued one may wait"
    )
    callback_hosts: list[str] = Field(
        default=[], description="hosts that callbacks may go to: NAME, or NAME:PORT for a port of its own"
    )
    callback_private_addresses: bool = Field(
        default=False, description="whether those hosts may have addresses that are not public"
    )


class RaySettings(Section):
    """The cluster on which the engine ray serves."""

    address: str | None = Field(
        default=None,
        pattern=r"^[^/\s]+:\d+$",
        description="HOST:PORT of a cluster; default: one node started here; `MARINA_RAY_ADDRESS` wins",
    )
    cpus_per_replica: float = Field(
        default=1.0, gt=0, description="cores of a joined cluster that a replica takes"
    )
    archives: str | None = Field(
        default=None,
        pattern=r"^(https?|s3)://\S+/$",
        description="http://.../, https://.../ or s3://.../, from which nodes fetch archives; default: the "
        "model store's own path, which each node must have",
    )


def _free_alias(alias: str) -> str:
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise ValueError(f"{alias!r} is a tracker's own; take another one, like production")
    return alias


Alias = Annotated[
    str,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$", description="marks the released version of a model"),
    AfterValidator(_free_alias),
]


class MlflowSettings(Section):
    """Runs and released models at MLflow (extra `mlflow`)."""

    uri: str | None = Field(
        default=None,
        pattern=r"^[a-z+]+://\S+$",
        description="http(s)://… of a server, or sqlite:///FILE; default: `MLFLOW_TRACKING_URI`, else "
        "mlflow.db in the project",
    )
    experiment: str | None = Field(
        default=None, min_length=1, max_length=256, description="of all runs; default: the model's name"
    )
    alias: Alias = "production"


class WandbSettings(Section):
    """Runs and released models at Weights & Biases (extra `wandb`)."""

    project: str = Field(
        default="marina", pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="the project of all runs"
    )
    entity: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_.-]+$", description="the user or team; default: the key's own"
    )
    mode: Literal["online", "offline"] | None = Field(
        default=None,
        description="offline: runs stay in wandb/ until `wandb sync`; default: `WANDB_MODE`, else online",
    )
    alias: Alias = "production"


class TrackingSettings(Section):
    """Where trainings and releases are kept beside the project; {} has a tracker's defaults."""

    mlflow: MlflowSettings | None = Field(default=None, description="default: not tracked there")
    wandb: WandbSettings | None = Field(default=None, description="default: not tracked there")

    @field_validator("mlflow", "wandb", mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        """A key without a value, which YAML reads as none, is a tracker with its defaults."""
        return {} if content is None else content


class Configuration(Section):
    """What a project sets for all of its models."""

    engine: str = Field(default="torchserve", description="what serves, where --engine says nothing else")
    ray: RaySettings = Field(default=RaySettings(), description="the engine ray's cluster")
    jobs: JobSettings = Field(default=JobSettings(), description="bounds of jobs; the standalone engine's")
    tracking: TrackingSettings = Field(
        default=TrackingSettings(), description="MLflow and Weights & Biases, for trainings and releases"
    )


def read_configuration(home: Path | None = None) -> Configuration:
    """The configuration of the project `home`. Raises CallError for a file that is none."""
    path = (home or paths.find_home()) / FILE
    try:
        content = read_yaml(path) or {}
    except FileNotFoundError:
        return Configuration()
    except OSError as error:
        raise CallError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise CallError(f"{path} must be keys with values, like: engine: standalone")
    return validate(Configuration, content, str(path))
