"""What an engine is to the tool: a program that serves archives and speaks TorchServe's APIs.

Every engine listens at the port N of `--port-base N` and those after it (`PORTS`), takes registrations by the
management API and keeps what is registered in its folder, so that a restarted one can be given it again. The
clients, readiness and releases use the APIs alone and know no engine.
"""

import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from marina.engines.registered import Registered

PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")

START_SECONDS = 60.0  # until a server is up, where its engine says nothing else


@dataclass(frozen=True)
class Access:
    """Who can reach a server: the address of inference and metrics, and whether calls need tokens.

    The management API and gRPC are always on loopback.
    """

    host: str = "127.0.0.1"
    tokens: bool = True


class Engine(ABC):
    """One of the programs that serve archives."""

    name: ClassVar[str]  # as --engine takes it
    title: ClassVar[str]  # in messages
    start_seconds: ClassVar[float] = START_SECONDS
    has_shadows: ClassVar[bool] = False  # whether a version may answer a share of the requests for comparison
    logs: ClassVar[tuple[str, ...]] = ("server.out", "logs/models.log")  # in the server's folder

    @abstractmethod
    def command(self, port: int, folder: Path, store: Path, temporary: str, access: Access) -> list[str]:
        """The command of a server at `port` with its files in `folder` and its archives in `store`.

        It must end with this process. Raises CallError where something that it needs is missing.
        """

    @abstractmethod
    def environment(
        self, port: int, folder: Path, store: Path, temporary: str, access: Access
    ) -> dict[str, str]:
        """The server's environment; TMPDIR is `temporary`, by which its processes are found."""

    def is_up(self, port: int, folder: Path, access: Access) -> bool:
        """Whether inference and management accept connections and the tokens, if any, are written."""
        has_keys = not access.tokens or (folder / "key_file.json").is_file()
        return has_keys and _accepts(port) and _accepts(port + 1)

    def ports(self, home: Path) -> tuple[str, ...]:
        """Those of PORTS that a server of the project `home` listens at itself."""
        return PORTS

    def clear(self, folder: Path) -> None:
        """Remove what an earlier server in `folder` has left: its tokens."""
        (folder / "key_file.json").unlink(missing_ok=True)

    @abstractmethod
    def registered(self, folder: Path) -> list[Registered] | None:
        """What the server in `folder` had registered last; None where nothing readable says it."""

    @abstractmethod
    def last_error(self, folder: Path, name: str, version: str) -> str:
        """The last error of a version's workers in the log, with its time; empty without one or a log."""


def end_of_log(folder: Path, max_bytes: int = 200_000) -> str:
    """The end of the models' log in a server's `folder`; empty without one."""
    file = folder / "logs" / "models.log"
    if not file.is_file():
        return ""
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - max_bytes))
        return log.read().decode(errors="replace")


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
