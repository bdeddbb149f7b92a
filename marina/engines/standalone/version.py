"""A registered version, as the controller knows it."""

from dataclasses import dataclass, field
from typing import Any

DEFAULT_STARTUP_SECONDS, DEFAULT_RESPONSE_SECONDS = 120, 120


@dataclass
class Version:
    """A registered version. Without workers it is registered and answers nothing."""

    name: str
    version: str
    archive: str
    settings: dict[str, Any]  # what the registration said beside the archive, by the archive's names
    config: dict[str, Any] = field(default_factory=dict)  # the archive's and the settings
    min_workers: int = 1
    max_workers: int = 1
    is_default: bool = False
    shadow_percent: float = 0.0  # of the default version's requests that it answers too

    @property
    def startup_seconds(self) -> float:
        """How long loading it may take."""
        return float(self.config.get("startupTimeout") or DEFAULT_STARTUP_SECONDS)

    @property
    def response_seconds(self) -> float:
        """How long a batch may take."""
        return float(self.config.get("responseTimeout") or DEFAULT_RESPONSE_SECONDS)

    @property
    def identity(self) -> dict[str, str]:
        """Name and version, as a worker's actions take them."""
        return {"name": self.name, "version": self.version}
