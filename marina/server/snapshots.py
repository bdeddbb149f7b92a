"""What a server has registered, so that the next one gets the same: models, versions, default versions, workers, batching.

TorchServe writes all of it to logs/config/*.cfg whenever the management API has changed something. Asking the API every few
seconds would miss the last changes before a death and fill the access log.

What is not covered: settings that only an archive can have; they come back with it.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marina import paths
from marina.client import Client
from marina.errors import RequestError

KEPT = 5  # files; the newest may be half written when the server dies
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


@dataclass(frozen=True)
class Registered:
    """One version of a model as it was registered; times in seconds, delay in ms."""

    name: str
    version: str
    archive: str
    is_default: bool
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    startup_timeout: int


def newest(port: int) -> list[Registered] | None:
    """What the server at `port` has or had registered; None when it hasn't written anything readable. Removes old files."""
    files = sorted((paths.run(port) / "logs" / "config").glob("*.cfg"), key=_written, reverse=True)
    for file in files[KEPT:]:
        file.unlink(missing_ok=True)
    return next((found for found in map(_read, files[:KEPT]) if found is not None), None)


def restore(client: Client, wanted: list[Registered]) -> list[str]:
    """Register `wanted` on an empty server and wait for all workers; returns what could not be, with the reason."""
    by_name: dict[str, list[Registered]] = {}
    for one in wanted:
        by_name.setdefault(one.name, []).append(one)
    pool = ThreadPoolExecutor(4)
    try:
        return [problem for problems in pool.map(lambda versions: _restore(client, versions), by_name.values()) for problem in problems]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for workers


def _restore(client: Client, versions: list[Registered]) -> list[str]:
    """One after the other: of two first versions of a model at the same moment TorchServe would lose one."""
    done = [_register(client, one) for one in versions] + [_make_default(client, one) for one in versions if one.is_default]
    return [problem for problem in done if problem]


def _make_default(client: Client, one: Registered) -> str:
    try:
        client.set_default(one.name, one.version)
    except RequestError as error:
        return f"{one.name} {one.version} could not be made the default again: {error.message}"
    return ""


def _register(client: Client, one: Registered) -> str:
    """As it was, whatever its archive says; returns what went wrong."""
    timeout = one.startup_timeout + 60
    given = {"batch_size": one.batch_size, "max_batch_delay": one.max_batch_delay, "initial_workers": one.min_workers}
    try:
        client.register(one.name, one.version, one.archive, timeout, given)
        described = client.describe(one.name, one.version)[0]
        if (described["minWorkers"], described["maxWorkers"]) != (one.min_workers, one.max_workers):
            client.scale(one.name, one.version, one.min_workers, timeout, one.max_workers)
    except RequestError as error:
        return f"{one.name} {one.version} could not be registered again: {error.message}"
    return ""


def _written(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _read(file: Path) -> list[Registered] | None:
    """None for a file that is not whole; it is in the format of Java's properties, its models in JSON."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        line = next(line for line in text.splitlines() if line.startswith("model_snapshot="))
        models = json.loads(re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescaped, line.partition("=")[2]))["models"]
        return [_registered(name, version, said) for name, versions in models.items() for version, said in versions.items()]
    except (OSError, StopIteration, ValueError, KeyError):
        return None


def _registered(name: str, version: str, said: dict[str, Any]) -> Registered:
    workers = (said["minWorkers"], said["maxWorkers"])
    batching = (said["batchSize"], said["maxBatchDelay"])
    return Registered(name, version, said["marName"], said["defaultVersion"], *workers, *batching, said["startupTimeout"])


def _unescaped(found: re.Match[str]) -> str:
    escaped = found[1]
    return chr(int(escaped[1:], 16)) if len(escaped) == 5 else ESCAPES.get(escaped, escaped)
