"""The ports of a server: the one that is named and those after it."""

import socket
from collections.abc import Collection

from marina.core.errors import CallError
from marina.engines.engine import PORTS


def check_free(port: int, names: Collection[str] = PORTS) -> None:
    """Raise CallError, with the first port that is taken, unless those `names` of a server at `port` are
    free.
    """
    if numbers := [number for number in taken(port) if PORTS[number - port] in names]:
        name = PORTS[numbers[0] - port]
        raise CallError(
            f"port {numbers[0]} ({name}) is taken; choose other ports, for example: --port-base {port + 100}"
        )


def taken(port: int) -> list[int]:
    """Those of a server at `port` that another program listens at."""
    return [number for number in range(port, port + len(PORTS)) if _is_taken(number)]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
