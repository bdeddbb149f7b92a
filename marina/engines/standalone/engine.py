"""The standalone engine as the tool sees it: the command of its controller, and what lies in its folder."""

import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path

from marina.core import paths
from marina.core.configuration import read_configuration
from marina.core.exec_with_parent import PYTHON_ARGUMENTS
from marina.engines.engine import Access, Engine, end_of_log
from marina.engines.gateway.jobs.limits import ENVIRONMENT as JOBS
from marina.engines.registered import Registered

REGISTERED = "registered.json"


class StandaloneEngine(Engine):
    """Python processes that answer by themselves, and one that manages them."""

    name, title = "standalone", "the standalone server"
    has_shadows = True

    def command(self, port: int, folder: Path, store: Path, temporary: str, access: Access) -> list[str]:
        """As in Engine."""
        options = {"port": port, "folder": str(folder), "store": str(store), **asdict(access)}
        controller = [sys.executable, "-m", "marina.engines.standalone", json.dumps(options)]
        return [sys.executable, *PYTHON_ARGUMENTS, str(os.getpid()), *controller]

    def environment(
        self, port: int, folder: Path, store: Path, temporary: str, access: Access
    ) -> dict[str, str]:
        """As in Engine. Marina is imported from where this process has it."""
        return {
            **os.environ,
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary),
            JOBS: read_configuration(folder.parent.parent).jobs.model_dump_json(),
            "PROMETHEUS_MULTIPROC_DIR": str(Path(temporary) / "metrics"),
            "PYTHONPATH": str(paths.SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def clear(self, folder: Path) -> None:
        """As in Engine; what was registered too."""
        super().clear(folder)
        (folder / REGISTERED).unlink(missing_ok=True)

    def registered(self, folder: Path) -> list[Registered] | None:
        """As in Engine."""
        try:
            content = json.loads((folder / REGISTERED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return [
            Registered(
                name=version["name"],
                version=version["version"],
                archive=version["archive"],
                is_default=version["is_default"],
                min_workers=version["min_workers"],
                max_workers=version["max_workers"],
                batch_size=version["config"].get("batchSize", 1),
                max_batch_delay=version["config"].get("maxBatchDelay", 1),
                startup_timeout=version["config"].get("startupTimeout", 120),
            )
            for version in content
        ]

    def last_error(self, folder: Path, name: str, version: str) -> str:
        """As in Engine."""
        words = rf"^(\S+ \S+) ERROR \d+ {re.escape(name)} {re.escape(version)} (.+)$"
        log = "\n".join(
            [end_of_log(folder), (folder / "server.out").read_text(encoding="utf-8", errors="replace")]
        )
        errors = re.findall(words, log, re.MULTILINE)
        return f"{errors[-1][1][:400]} (at {errors[-1][0]})" if errors else ""


ENGINE = StandaloneEngine()
