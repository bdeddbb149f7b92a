"""Programs that are run to their end, within a limit in seconds."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from marina.core.child_process import run_child
from marina.core.errors import WorkError


def run(
    command: Sequence[str],
    seconds: float,
    hint: str,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run `command` to its end, whatever its exit code, with its output as text.

    Raises WorkError with the `hint`, what to do then, where it takes longer; then it is killed.
    """
    pipe = subprocess.PIPE
    try:
        return run_child(
            command, timeout=seconds, stdout=pipe, stderr=pipe, errors="replace", cwd=cwd, env=env
        )
    except subprocess.TimeoutExpired as error:
        name = " ".join(Path(word).name for word in command[:3])
        raise WorkError(f"{name} had not ended after {seconds:,.0f} s and was stopped; {hint}") from error
