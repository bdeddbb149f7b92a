"""`ray start` for several nodes on one machine that all listen at loopback addresses.

With RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 all of Ray's processes keep to 127.0.0.1, and `ray start` refuses a
second node: on the systems for which that was made there are no clusters. Only this process's own check is
lifted; what it starts finds the environment as it is.
"""

import sys

from ray._private import ray_constants, services
from ray.scripts import scripts


def main() -> None:
    """Be `ray` with the arguments of the command line."""
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.resolve_ip_for_localhost = lambda host: host  # else 127.0.0.1 becomes the network's address
    sys.exit(scripts.main())


if __name__ == "__main__":
    main()
