"""How the processes of one server are told apart from all others: by process id and start time, by temporary folder, by lock.

A process belongs to a server when its environment names that server's temporary folder as its own: Java, its workers, and
whatever these started. The folder's name is random and stands in state.json before anything is started.
"""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from marina.errors import CallError

PREFIX = "marina-"  # of temporary folders; no other folder is ever removed
KILL_SECONDS = 5.0


def created(pid: int) -> float:
    """When a process started: on Linux in seconds since boot, which no setting of the clock moves; elsewhere since the epoch."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.is_file():
        return float(psutil.Process(pid).create_time())
    return int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def find(pid: int, start: float) -> psutil.Process | None:
    """The process `pid` that started at `start` (see `created`), or None when it is gone: ids are reused."""
    try:
        process = psutil.Process(pid) if pid else None
        same = process and created(pid) == start and process.status() != psutil.STATUS_ZOMBIE
        return process if same else None
    except (psutil.Error, OSError):
        return None


def family(temporary: str) -> list[psutil.Process]:
    """All processes whose temporary folder is `temporary`; never this one."""
    found = []
    for process in psutil.process_iter() if temporary else ():
        try:
            if process.environ().get("TMPDIR") == temporary and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):  # gone, or another user's
            continue
    return found


def remove(temporary: str) -> None:
    """Kill the family of `temporary` and remove the folder; nothing happens when both are gone."""
    for _ in range(3):  # one of them may have started another meanwhile
        left = family(temporary)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=KILL_SECONDS)
        if not left:
            break
    if Path(temporary).name.startswith(PREFIX):
        shutil.rmtree(temporary, ignore_errors=True)


class Lock:
    """A file that one process holds at a time; the kernel releases it however that process ends.

    Raises CallError with `refusal` when another one holds it.
    """

    def __init__(self, path: Path, refusal: str) -> None:
        self._file = path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise CallError(refusal) from None

    def release(self) -> None:
        """Let others have it; safe to call twice."""
        self._file.close()
