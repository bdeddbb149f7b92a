"""The home of a project that a fixture makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def project_home(folders: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder with models/; it is `MARINA_HOME` inside the block."""
    home = folders.mktemp("home")
    (home / "models").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        yield home
