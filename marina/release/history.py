"""What was released: releases/NAME.yaml for people and for rollbacks, and what a killed command left undone.

releases/.NAME.PORT.yaml has the entry of a release or rollback at the server of that port, from before its
first change until the history has it. One that is there while nobody holds the lock was left by a killed
command.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from marina.core import files, paths
from marina.core.errors import CallError
from marina.core.yaml_files import read_yaml


@dataclass(frozen=True)
class Entry:
    """One entry of the history: what was done when, and what it replaced."""

    time: str
    action: str  # release | rollback | refused
    version: str
    checksum: str
    port: int
    replaced: str | None = None
    comparison: dict[str, float | None] | None = None
    reason: str | None = None

    def age(self) -> float:
        """Seconds since it was made."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.time)).total_seconds()


def read(name: str, home: Path | None = None) -> list[Entry]:
    """What was released, rolled back and refused, oldest first."""
    file = history_file(name, home)
    entries = read_yaml(file) if file.is_file() else None
    try:
        return [Entry(**entry) for entry in entries or []]
    except TypeError as error:
        raise CallError(
            f"{file} is no history of releases ({error}); move it away to begin another"
        ) from error


def append(entry: Entry, name: str, home: Path | None = None) -> None:
    """Append an entry to a model's history, which is replaced in one step, and end its unfinished record."""
    file = history_file(name, home)
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    files.write_atomic(file, before + _text(entry))
    _unfinished_file(name, entry.port, home).unlink(missing_ok=True)


def begin(entry: Entry, name: str, home: Path | None = None) -> None:
    """Record what is about to be done."""
    files.write_atomic(_unfinished_file(name, entry.port, home), _text(entry))


def unfinished(name: str, port: int, home: Path | None = None) -> Entry | None:
    """What a killed command left undone at the server of `port`; the caller has the lock."""
    file = _unfinished_file(name, port, home)
    try:
        (content,) = read_yaml(file) if file.is_file() else [None]
        return Entry(**content) if content else None
    except (TypeError, ValueError) as error:
        raise CallError(f"{file} is no record of a release ({error}); remove it") from error


def killed(name: str = "*", port: int | str = "*", home: Path | None = None) -> list[tuple[str, Entry]]:
    """(model, what a killed command left undone), by default of all; without those that still run."""
    left = []
    for file in sorted(paths.releases(home).glob(f".{name}.{port}.yaml")):
        _, model, number, _ = file.name.split(".")
        with suppress(CallError), locked(model, home):  # locked: it runs
            if entry := unfinished(model, int(number), home):
                left.append((model, entry))
    return left


def what_to_do(name: str, entry: Entry) -> str:
    """What to say of a release or rollback that was killed."""
    instead = f"marina rollback {name} --port-base {entry.port}"
    if entry.action == "release":
        release = f"marina release {name} --version {entry.version} --port-base {entry.port}"
        instead = f"{release}, or take it back with: {instead}"
    return f"{name}: the {entry.action} of {entry.version} was killed; finish it with: {instead}"


def history_file(name: str, home: Path | None = None) -> Path:
    """The history of a model."""
    return paths.releases(home) / f"{name}.yaml"


@contextmanager
def locked(name: str, home: Path | None = None) -> Iterator[None]:
    """Allow one release of a model at a time; the lock ends with the process, however it ends."""
    paths.releases(home).mkdir(parents=True, exist_ok=True)
    message = f"{name} is being released by another process; wait for it"
    lock = files.lock_file(paths.releases(home) / f".{name}.lock", message)
    try:
        yield
    finally:
        lock.release()


def _unfinished_file(name: str, port: int, home: Path | None) -> Path:
    return paths.releases(home) / f".{name}.{port}.yaml"


def _text(entry: Entry) -> str:
    """An entry as YAML, without its empty fields."""
    content = {key: value for key, value in asdict(entry).items() if value is not None}
    return yaml.safe_dump([content], sort_keys=False, width=120)
