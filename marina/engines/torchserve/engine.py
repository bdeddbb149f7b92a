"""TorchServe as the tool sees it: a Java front end (`java`) with worker processes for each model."""

import re
from pathlib import Path

from marina.engines.engine import Access, Engine, end_of_log
from marina.engines.registered import Registered
from marina.engines.torchserve import java, snapshots


class TorchServeEngine(Engine):
    """A Java front end that starts worker processes for each model."""

    name, title = "torchserve", "TorchServe"

    def command(self, port: int, folder: Path, store: Path, temporary: str, access: Access) -> list[str]:
        """As in Engine."""
        return java.command(folder, store, temporary)

    def environment(
        self, port: int, folder: Path, store: Path, temporary: str, access: Access
    ) -> dict[str, str]:
        """As in Engine."""
        return java.environment(port, folder, store, temporary, access)

    def clear(self, folder: Path) -> None:
        """As in Engine; its snapshots too."""
        super().clear(folder)
        for file in (folder / "logs" / "config").glob("*.cfg"):
            file.unlink(missing_ok=True)

    def registered(self, folder: Path) -> list[Registered] | None:
        """As in Engine."""
        return snapshots.newest(folder)

    def last_error(self, folder: Path, name: str, version: str) -> str:
        """As in Engine."""
        worker = rf"^(\S+) .* W-\d+-{re.escape(name)}_{re.escape(version)}\S* - "
        errors = re.findall(
            rf"{worker}((?:\w+\.)*\w*(?:Error|Exception|BrokenArchive): (?!\d+ - ).+)$",
            end_of_log(folder),
            re.MULTILINE,
        )
        return f"{errors[-1][1][:400]} (at {errors[-1][0]})" if errors else ""


ENGINE = TorchServeEngine()
