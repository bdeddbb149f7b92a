"""The bounds of jobs, as `jobs` in marina.yaml says them (`marina.core.configuration`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ENVIRONMENT = "MARINA_JOBS"  # in which an engine hands them to its processes, as JSON


@dataclass(frozen=True)
class JobLimits:
    """Bytes, instances, hours and counts; see `marina.core.configuration.JobSettings`."""

    max_jobs: int = 1000
    max_bytes: int = 2_000_000_000
    max_body_bytes: int = 100_000_000
    max_instances: int = 1_000_000
    keep_hours: float = 24.0
    callback_hosts: tuple[str, ...] = ()
    callback_private_addresses: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "JobLimits":
        """Those that the engine has set; the defaults without."""
        settings: dict[str, Any] = json.loads(environment.get(ENVIRONMENT, "{}"))
        settings["callback_hosts"] = tuple(settings.get("callback_hosts", ()))
        return cls(**settings)
