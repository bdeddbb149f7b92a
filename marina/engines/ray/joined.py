"""A cluster that runs already, and that `--engine ray` joins: by MARINA_RAY_ADDRESS or `ray.address`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from marina.core.configuration import read_configuration
from marina.core.errors import CallError
from marina.engines.ray import local_cluster
from marina.engines.ray.environment import LOOPBACK

ADDRESS = "MARINA_RAY_ADDRESS"
TOKENS = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")
SERVE_PORT = 8000  # of Serve's own frontend on each node, where a node has no other


@dataclass(frozen=True)
class JoinedCluster:
    """A cluster's `address`, and what the project says of it. `is_local`: `marina cluster up` has started it
    for this project; then `port` is its port base, and `token` the file with its token.
    """

    address: str
    cpus_per_replica: float
    archives: str | None
    is_local: bool = False
    port: int | None = None
    token: str | None = None

    @classmethod
    def configured(cls, home: Path) -> "JoinedCluster | None":
        """The cluster that the project `home` or the environment names. Raises CallError for no address."""
        settings = read_configuration(home).ray
        address = os.environ.get(ADDRESS) or settings.address
        if not address:
            return None
        if not re.fullmatch(r"[^/\s]+:\d+", address):
            raise CallError(f"{ADDRESS}={address}: write it like 10.0.0.5:6379")
        local = local_cluster.cluster_at(address, home)
        return cls(
            address,
            settings.cpus_per_replica,
            settings.archives,
            is_local=local is not None,
            port=local.port if local else None,
            token=str(local_cluster.folder_of(home) / local_cluster.TOKEN_FILE) if local else None,
        )

    def check(self, port: int) -> None:
        """Raise CallError where it can't be joined by a server at `port`."""
        if self.port not in (None, port):
            raise CallError(f"the cluster's nodes answer at --port-base {self.port}; give that one")
        if not self.token and not any(os.environ.get(name) for name in TOKENS):
            raise CallError(
                f"the cluster at {self.address} needs its token: set RAY_AUTH_TOKEN_PATH to the file that "
                "has it on its nodes"
            )

    def environment(self) -> dict[str, str]:
        """What its driver needs in its environment."""
        token = {"RAY_AUTH_TOKEN_PATH": self.token} if self.token else {}
        return {**(LOOPBACK if self.is_local else {}), **token}
