"""A process that is killed at any step leaves nothing half-done that is taken for done; the next one tidies
up and says so.

The kill is SIGKILL, sent by the process to itself in the place of its n-th call that moves a file.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.runtime.checksums import verify_checksums, write_checksums
from marina.core import paths
from marina.core.spec import Spec
from marina.packaging import archive
from training.export.staging import remove_leftovers

KILLED = """
import os, signal, sys
from pathlib import Path
moves, at = [], int(sys.argv[1])
def dying(move):
    def moved(*arguments):
        moves.append(1)
        if len(moves) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(*arguments)
    return moved
Path.replace, Path.rename = dying(Path.replace), dying(Path.rename)
from marina.core.spec import load
spec = load("balance")
"""
ARCHIVES = "from marina.packaging import archive; archive.build(spec)"
EXPORTS = """
from handlers.runtime.checksums import write_checksums
from training.export.staging import staging_folder
from training.export.writer import _move
with staging_folder(spec) as folder:
    (folder / "model_metadata.json").write_text("new")
    write_checksums(folder)
    _move(folder, spec.export_dir)
"""


def killed(work: str, at: int) -> int:
    """The exit code of `work`, killed at its move number `at`."""
    environment = {**os.environ, "PYTHONPATH": str(paths.SOURCE)}
    command = [sys.executable, "-c", KILLED + work, str(at)]
    return subprocess.run(command, check=False, env=environment, timeout=120).returncode


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_archive_is_whole_or_not_there(
    at: int,
    exported: Callable[..., Spec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The folder that it was made in goes with the next archive."""
    spec, temporary = exported(), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)

    assert killed(ARCHIVES, at) == (-signal.SIGKILL if at < 3 else 0)
    assert spec.archive_path.is_file() == (at > 1)
    assert len(list(temporary.glob("marina-archive-*"))) == (at < 3)
    built = archive.build(spec)
    left = sorted(path.name for path in spec.archive_path.parent.iterdir())

    assert built.changed == (at == 1)
    assert left == ["balance-1.0.mar", "balance-1.0.mar.sha256"]
    assert list(temporary.glob("marina-*")) == []
    assert ("which a killed process left" in caplog.text) == (at < 3)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_export_is_the_old_one_or_the_new_one(at: int, exported: Callable[..., Spec]) -> None:
    spec = exported()
    (spec.export_dir / "model_metadata.json").write_text("old")
    write_checksums(spec.export_dir)

    assert killed(EXPORTS, at) == (-signal.SIGKILL if at < 3 else 0)
    remove_leftovers(spec.export_dir.parent)

    assert verify_checksums(spec.export_dir) > 0
    assert (spec.export_dir / "model_metadata.json").read_text() == ("old" if at < 3 else "new")
    assert [path.name for path in spec.export_dir.parent.iterdir()] == ["1.0"]
