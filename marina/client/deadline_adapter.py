"""requests' transport with a timeout that bounds the whole answer.

By itself a timeout of requests bounds the connection and then each read: a server that sends a byte now and then is waited for
without end. Here every read gets what is left of the time since the request was begun.
"""

import io
import socket
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class DeadlineSocket:
    """A connected socket whose `settimeout` bounds all that is read until the next one, together; as `sendall` does by itself."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self.settimeout(plain.gettimeout())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def settimeout(self, seconds: float | None) -> None:
        """`seconds` from now; None for no end."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._plain.settimeout(seconds)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client reads an answer from."""
        return io.BufferedReader(_Reads(self, self._plain.makefile("rb", buffering=0)))

    def shorten(self) -> None:
        """Leave the next operation the time that is left. Raises TimeoutError when there is none."""
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._plain.settimeout(left)


class _Reads(io.RawIOBase):
    def __init__(self, timed: DeadlineSocket, plain: Any) -> None:
        super().__init__()
        self._timed, self._plain = timed, plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        self._timed.shorten()
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
    """To be mounted on a requests.Session; give it `timeout=urllib3.util.Timeout(total=seconds)`."""

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        """As the base, with our connections."""
        super().init_poolmanager(*arguments, **more)
        _use_ours(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **more: Any) -> Any:
        """As the base, with our connections."""
        manager = super().proxy_manager_for(*arguments, **more)
        _use_ours(manager)
        return manager


def _use_ours(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
