"""Where things lie: what comes with Marina, and what belongs to a project.

A project's home is the folder that holds models/, exports/, model_store/, cache/, releases/ and run/. Each
function below takes it as `home`; without one it is what `find_home` finds.
"""

import os
from pathlib import Path

from marina.core.errors import CallError

SOURCE = (
    Path(__file__).resolve().parent.parent.parent
)  # what holds the packages marina, training and handlers
HANDLERS = SOURCE / "handlers"
INSTALLED = (
    SOURCE / "marina" / "resources" / "repository"
)  # what the wheel has of the repository's other files


def resource(name: str) -> Path:
    """A file that comes with Marina, by its path in the repository."""
    installed = INSTALLED / name
    return installed if installed.exists() else SOURCE / name


def expanded(path: str | Path) -> Path:
    """`path` as a user writes it, with `~` expanded; one of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib's own raises for an unknown user


CONFIG = resource("config.properties")
LOGGING = resource("log4j2.xml")
METRICS = resource("metrics.yaml")
LOCUSTFILE = resource("loadtest/locustfile.py")


def find_home() -> Path:
    """`MARINA_HOME` if set, else the nearest folder with models/ from the working directory upwards.

    Raises CallError when there is none. Nothing else reads that variable, and nothing of Marina sets it.
    """
    if home := os.environ.get("MARINA_HOME"):
        return Path(home).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "models").is_dir():
            return folder
    raise CallError(
        f"no project in {here}: no folder models/ here or above; change to a project's folder, set "
        "MARINA_HOME to one, or make one in an empty folder with: marina init"
    )


def models(home: Path | None = None) -> Path:
    """The specs."""
    return (home or find_home()) / "models"


def kinds(home: Path | None = None) -> Path:
    """Kinds of the project's own."""
    return (home or find_home()) / "kinds"


def exports(home: Path | None = None) -> Path:
    """What training writes."""
    return (home or find_home()) / "exports"


def model_store(home: Path | None = None) -> Path:
    """What the archive step writes and TorchServe reads."""
    return (home or find_home()) / "model_store"


def releases(home: Path | None = None) -> Path:
    """The history of releases, one file per model."""
    return (home or find_home()) / "releases"


def cache(home: Path | None = None) -> Path:
    """What can be computed again: features of frozen networks, interrupted training runs."""
    return (home or find_home()) / "cache"


def run(port: int, home: Path | None = None) -> Path:
    """State and logs of the server whose inference port is `port`."""
    return (home or find_home()) / "run" / str(port)


def errors(home: Path | None = None) -> Path:
    """Reports of errors that nobody foresaw."""
    return (home or find_home()) / "run" / "errors"
