"""Where things lie. `MARINA_HOME` moves everything that is generated or declared to another folder (tests do)."""

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
CONFIG = SOURCE / "config.properties"
LOGGING = SOURCE / "log4j2.xml"
METRICS = SOURCE / "metrics.yaml"


def home() -> Path:
    """The folder that holds models/, exports/, model_store/, cache/ and run/."""
    return Path(os.environ.get("MARINA_HOME") or SOURCE).resolve()


def models() -> Path:
    """The specs."""
    return home() / "models"


def exports() -> Path:
    """What training writes."""
    return home() / "exports"


def model_store() -> Path:
    """What the archive step writes and TorchServe reads."""
    return home() / "model_store"


def releases() -> Path:
    """The history of releases, one file per model."""
    return home() / "releases"


def cache() -> Path:
    """What can be computed again: features of frozen networks."""
    return home() / "cache"


def run(port: int) -> Path:
    """State and logs of the server whose inference port is `port`."""
    return home() / "run" / str(port)
