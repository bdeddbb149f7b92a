"""gRPC beside HTTP, where grpcio is installed: it is an extra."""

import logging
from typing import Any

from marina.engines.gateway.app import Gateway

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0  # for calls that were accepted when their server's `stop` is called with it


async def answer_grpc(gateway: Gateway, address: str | None) -> Any:
    """A server of the gateway's answers at `address`, "host:port"; None without an address or without grpcio.
    Raises RuntimeError where the address is taken.
    """
    try:
        from marina.engines.gateway import grpc_server
    except ImportError as error:
        logger.info("no gRPC (%s): pip install marina[grpc]", error)
        return None
    return (await grpc_server.start(gateway, address))[0] if address else None
