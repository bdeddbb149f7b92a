"""Ray Serve as the tool sees it: the command of its controller, and the environment of all its processes."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from marina.core.exec_with_parent import PYTHON_ARGUMENTS
from marina.engines.engine import Access
from marina.engines.ray.environment import (
    LOOPBACK,
    SETTINGS,
    check_installed,
    node_environment,
    write_token,
)
from marina.engines.ray.joined import JoinedCluster
from marina.engines.standalone.engine import StandaloneEngine

TOKEN_FILE = "ray_token"  # noqa: S105  # a file in the server's folder


class RayEngine(StandaloneEngine):
    """Ray Serve, with the standalone engine's gateway in each replica."""

    name, title = "ray", "Ray Serve"
    start_seconds = 300.0

    def command(self, port: int, folder: Path, store: Path, temporary: str, access: Access) -> list[str]:
        """As in Engine."""
        check_installed(temporary)
        options = {"port": port, "folder": str(folder), "store": str(store), "temporary": temporary}
        joined = JoinedCluster.configured(folder.parent.parent)
        if joined:
            joined.check(port)
        more = {**asdict(access), "joined": asdict(joined) if joined else None}
        controller = [sys.executable, "-m", "marina.engines.ray", json.dumps({**options, **more})]
        return [sys.executable, *PYTHON_ARGUMENTS, str(os.getpid()), *controller]

    def environment(
        self, port: int, folder: Path, store: Path, temporary: str, access: Access
    ) -> dict[str, str]:
        """As in Engine."""
        own = super().environment(port, folder, store, temporary, access)
        if joined := JoinedCluster.configured(folder.parent.parent):
            return {**own, **SETTINGS, **joined.environment()}
        write_token(folder / TOKEN_FILE)
        front = f"{access.host}:{port}"
        node = node_environment(folder, Path(temporary), front, folder / TOKEN_FILE)
        return {**own, **LOOPBACK, **node}

    def ports(self, home: Path) -> tuple[str, ...]:
        """As in Engine; the front of a cluster that was joined may listen already."""
        own = super().ports(home)
        return own[1:] if JoinedCluster.configured(home) else own


ENGINE = RayEngine()
