"""Temporary folders: one in use stays, and one that its process left is removed."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from marina.core import paths, scratch

HOLDS = """
import sys, time
from marina.core.scratch import scratch_folder
with scratch_folder("marina-toy-") as folder:
    (folder / "file").write_text("content")
    print(folder, flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_in_use_stays_and_one_of_a_killed_process_goes(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, cwd=paths.SOURCE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        with scratch.scratch_folder("marina-toy-") as own:
            assert (folder.is_dir(), own.is_dir()) == (True, True)
        assert list(temporary.iterdir()) == [folder]
        assert caplog.text == ""
        holder.kill()

    with scratch.scratch_folder("marina-other-"):
        assert folder.is_dir()
    with scratch.scratch_folder("marina-toy-") as own:
        assert list(temporary.iterdir()) == [own]
    assert f"removed what a killed process left: {folder}" in caplog.text
    assert list(temporary.iterdir()) == []


def test_folders_that_are_made_at_the_same_time_take_none_from_each_other() -> None:
    """One is not locked yet when others look for leftovers."""

    def stands(_: int) -> bool:
        with scratch.scratch_folder("marina-toy-") as folder:
            return folder.is_dir()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(stands, range(400)))


def test_links_and_files_with_such_a_name_are_left_alone(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (temporary / "marina-toy-link").symlink_to(tmp_path / "precious")
    (temporary / "marina-toy-file").touch()

    scratch.remove_leftovers("marina-toy-")

    names = sorted(path.name for path in temporary.iterdir())
    assert names == ["marina-toy-file", "marina-toy-link", "precious"]
