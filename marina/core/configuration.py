"""The project's own configuration, `marina.yaml` beside `models/`; without the file all is as by default."""

from pathlib import Path

from pydantic import Field

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
        description="HOST:PORT of a cluster to join; default: a Ray of one node, started here. "
        "`MARINA_RAY_ADDRESS` counts more",
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


class Configuration(Section):
    """What a project sets for all of its models."""

    engine: str = Field(default="torchserve", description="what serves, where --engine says nothing else")
    ray: RaySettings = Field(default=RaySettings(), description="the engine ray's cluster")
    jobs: JobSettings = Field(default=JobSettings(), description="bounds of jobs; the standalone engine's")


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
