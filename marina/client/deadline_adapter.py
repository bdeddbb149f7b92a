"""requests' transport with a timeout that bounds the whole response.

A timeout of requests bounds the connection and then every single read: a server that sends a byte now and
then is waited for without end. Here every read gets the time that is left. That takes a socket of our own
inside urllib3's connection: reading with `stream=True` bounds the body but not a trickled header, and a call
in another thread leaves that thread behind when it is late. docs/decisions/0015-deadlines-in-the-socket.md
has the reasons, docs/benchmarks/serving.md the cost.
"""

import io
import socket
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class DeadlineSocket:
    """A connected socket whose `settimeout` bounds all reads until the next `settimeout` together.

    `sendall` of a plain socket does the same for writes.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self.settimeout(plain.gettimeout())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def settimeout(self, seconds: float | None) -> None:
        """Set the deadline to `seconds` from now; None for no deadline."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._plain.settimeout(seconds)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """The file that http.client reads a response from."""
        return io.BufferedReader(_DeadlineReader(self, self._plain.makefile("rb", buffering=0)))

    def limit_next_read(self) -> None:
        """Give the next read the time that is left. Raises TimeoutError when there is none."""
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._plain.settimeout(left)


class _DeadlineReader(io.RawIOBase):
    def __init__(self, deadline_socket: DeadlineSocket, plain: Any) -> None:
        super().__init__()
        self._socket, self._plain = deadline_socket, plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        self._socket.limit_next_read()
        return self._plain.readinto(buffer)

    def close(self) -> None:
        self._plain.close()
        super().close()


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = DeadlineSocket(self.sock)  # type: ignore[assignment]


class _TlsConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = DeadlineSocket(self.sock)  # type: ignore[assignment]


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class DeadlineAdapter(HTTPAdapter):
    """To be mounted on a requests.Session, whose calls get `timeout=urllib3.util.Timeout(total=seconds)`."""

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        """As the base class, with connections that have a deadline."""
        super().init_poolmanager(*arguments, **settings)
        _use_deadlines(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **settings: Any) -> Any:
        """As the base class, with connections that have a deadline."""
        manager = super().proxy_manager_for(*arguments, **settings)
        _use_deadlines(manager)
        return manager


def _use_deadlines(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
