"""What TorchServe has registered, from the snapshots that it writes to logs/config/*.cfg after every change
by the management API. Polling the API would miss the last changes before a crash and fill the access log.
"""

import json
import re
from pathlib import Path
from typing import Any

from marina.engines.registered import Registered

KEPT = 5  # files; the newest one may be incomplete after a crash
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


def newest(folder: Path) -> list[Registered] | None:
    """What the server with its files in `folder` had registered last; None without a readable snapshot.

    Removes old snapshots.
    """
    files = sorted((folder / "logs" / "config").glob("*.cfg"), key=_written, reverse=True)
    for file in files[KEPT:]:
        file.unlink(missing_ok=True)
    return next((content for content in map(_read, files[:KEPT]) if content is not None), None)


def _written(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _read(file: Path) -> list[Registered] | None:
    """Read a snapshot: Java properties, with the models as JSON. None for an incomplete file."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        line = next(line for line in text.splitlines() if line.startswith("model_snapshot="))
        models = json.loads(re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescaped, line.partition("=")[2]))["models"]
        registered = []
        for name, versions in models.items():
            registered += [_registered(name, version, entry) for version, entry in versions.items()]
        return registered
    except (OSError, StopIteration, ValueError, KeyError):
        return None


def _registered(name: str, version: str, entry: dict[str, Any]) -> Registered:
    workers = (entry["minWorkers"], entry["maxWorkers"])
    batching = (entry["batchSize"], entry["maxBatchDelay"])
    return Registered(
        name, version, entry["marName"], entry["defaultVersion"], *workers, *batching, entry["startupTimeout"]
    )


def _unescaped(match: re.Match[str]) -> str:
    escaped = match[1]
    return chr(int(escaped[1:], 16)) if len(escaped) == 5 else ESCAPES.get(escaped, escaped)
