"""Identifies the processes of one server by process id and start time, and by temporary folder.

A process belongs to a server when its environment names that server's temporary folder as its own: Java, its
workers, and whatever these started. The folder's name is random and is in state.json before anything is
started.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

PREFIX = "marina-"  # of temporary folders; no other folder is ever removed
SERVER_PREFIX = f"{PREFIX}server-"
KILL_SECONDS = 5.0


def created(pid: int) -> float:
    """When a process started.

    On Linux it is in seconds since boot, so that clock changes don't matter; elsewhere since the epoch.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return float(psutil.Process(pid).create_time())
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def offer_to_oom_killer() -> None:
    """Have Linux end this process first when memory runs out; elsewhere do nothing."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


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
    processes = []
    for process in psutil.process_iter() if temporary else ():
        try:
            if process.environ().get("TMPDIR") == temporary and process.pid != os.getpid():
                processes.append(process)
        except (psutil.Error, OSError):  # gone, or another user's
            continue
    return processes


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
