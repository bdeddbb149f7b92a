"""A cluster that others run: the controller deploys there, and ends nothing but what it serves."""

import logging
import time

import ray
from ray import serve
from ray.exceptions import RayError

from marina.core.errors import ServerError
from marina.engines.ray.ledger import Ledger
from marina.engines.ray.limits import CONNECT_SECONDS

logger = logging.getLogger(__name__)


class JoinedRay:
    """The connection to a cluster; see `RayProcess` for its methods."""

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def connect(cls, address: str) -> "JoinedRay":
        """Connect to the cluster; a node of it must run on this machine. Raises ServerError."""
        deadline, reason = time.monotonic() + CONNECT_SECONDS, ""
        while time.monotonic() < deadline:
            try:
                ray.init(address, namespace="serve", log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, OSError, RayError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                time.sleep(1.0)
            else:
                return cls(address)
        raise ServerError(
            f"no connection to the cluster at {address} within {CONNECT_SECONDS:.0f} s: {reason}; does a "
            "node of it run on this machine, and is its token right?"
        )

    def poll(self) -> int | None:
        """None while it is connected; without its head for a minute, Ray ends this process by itself."""
        return None if ray.is_initialized() else 1

    def drain(self) -> None:
        """Remove all applications; their replicas answer what they have accepted."""
        Ledger(is_kept=True).remove()
        serve.shutdown()

    def kill(self) -> None:
        """End the connection; the cluster runs on."""
        ray.shutdown()
