"""What a server has registered, and how a restarted one gets it again: models, versions, defaults, workers,
batching. Settings that only an archive has come back with the archive.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from marina.client import Client
from marina.core.errors import RequestError


@dataclass(frozen=True)
class Registered:
    """A registered version of a model; times are in seconds, the batch delay in milliseconds."""

    name: str
    version: str
    archive: str
    is_default: bool
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    startup_timeout: int


def restore(client: Client, registered: list[Registered]) -> list[str]:
    """Register them on an empty server and wait for all workers. Returns what failed, with the reasons."""
    by_name: dict[str, list[Registered]] = {}
    for model in registered:
        by_name.setdefault(model.name, []).append(model)
    pool = ThreadPoolExecutor(4)
    try:
        return [
            problem
            for problems in pool.map(lambda versions: _restore(client, versions), by_name.values())
            for problem in problems
        ]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C, don't wait for workers


def _restore(client: Client, versions: list[Registered]) -> list[str]:
    """One version after the other: of two first ones at the same moment TorchServe loses model."""
    problems = [_register(client, model) for model in versions]
    problems += [_make_default(client, model) for model in versions if model.is_default]
    return [problem for problem in problems if problem]


def _make_default(client: Client, model: Registered) -> str:
    try:
        client.set_default(model.name, model.version)
    except RequestError as error:
        return f"{model.name} {model.version} could not be made the default again: {error.message}"
    return ""


def _register(client: Client, model: Registered) -> str:
    """Register a version as it was, whatever its archive says. Returns the problem, or an empty text."""
    timeout = model.startup_timeout + 60
    settings = {
        "batch_size": model.batch_size,
        "max_batch_delay": model.max_batch_delay,
        "initial_workers": model.min_workers,
    }
    try:
        client.register(model.name, model.version, model.archive, timeout, settings)
        described = client.describe(model.name, model.version)[0]
        if (described["minWorkers"], described["maxWorkers"]) != (model.min_workers, model.max_workers):
            client.scale(model.name, model.version, model.min_workers, timeout, model.max_workers)
    except RequestError as error:
        return f"{model.name} {model.version} could not be registered again: {error.message}"
    return ""
