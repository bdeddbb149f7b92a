"""What the processes of a server load: each megabyte is held for as long as it serves, once per process."""

import subprocess
import sys

import pytest

from marina.core import paths

SCRIPT = "import sys, {module}; print(*sys.modules)"


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("controller", {"numpy", "PIL", "httpx", "pydantic", "requests", "handlers.runtime.predictor"}),
        ("worker", {"httpx", "pydantic", "requests", "torch", "marina.core.spec"}),
    ],
)
def test_a_process_loads_what_it_needs_alone(module: str, unneeded: set[str]) -> None:
    command = [sys.executable, "-c", SCRIPT.format(module=f"marina.engines.standalone.{module}")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=paths.SOURCE)

    assert unneeded & set(loaded.stdout.split()) == set()
    assert "starlette" in loaded.stdout
