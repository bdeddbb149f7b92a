"""Run HAProxy with the front: what Serve starts as its HAProxy, by RAY_SERVE_HAPROXY_BINARY_PATH.

    haproxy.py -db -f CONFIGURATION [OPTION ...]

MARINA_FRONT is the address at which the front listens, MARINA_HAPROXY the real program. The process id stays,
which Serve looks at; the process ends with the one that started it.
"""

import os
import sys
from pathlib import Path

from marina.core.exec_with_parent import exit_with_parent
from marina.engines.ray.front import with_front


def main() -> None:
    """Rewrite the configuration that Serve has written, and become HAProxy."""
    arguments = sys.argv[1:]
    path = Path(arguments[arguments.index("-f") + 1])
    configuration = path.read_text(encoding="utf-8")
    try:
        path.write_text(with_front(configuration, os.environ["MARINA_FRONT"], path.parent), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))
    exit_with_parent(os.getppid())
    program = os.environ["MARINA_HAPROXY"]
    os.execv(program, [program, *arguments])  # noqa: S606  # no shell is meant


if __name__ == "__main__":
    main()
