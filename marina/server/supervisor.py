"""Keeps a server alive: watches TorchServe, says why it ended, starts it again with what it had registered.

The pause before a start doubles from one second to a minute, with jitter, and begins anew after a minute of health. A server that
served is started again for ever; after TRIES starts in a row that failed we give up. `detach` has a process of its own do this.

What is not covered: the death of this process, which ends the server too (torchserve.py) and is for the system's service manager to
mend; a server that runs but doesn't answer.
"""

import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from marina import paths, server
from marina.client import Client
from marina.console import Output, err
from marina.errors import CallError, MarinaError, ServerError
from marina.server import signals, snapshots
from marina.server.java import Access
from marina.server.snapshots import Registered
from marina.server.torchserve import TorchServe

FIRST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 60.0
HEALTHY_SECONDS = 60.0
TRIES = 8
LAST_WORDS = 4  # lines


def watch(running: TorchServe, client: Client, output: Output) -> None:
    """Keep `running` alive until Ctrl-C, SIGTERM, SIGHUP or `marina stop`, and return then.

    Raises ServerError with the log's end when TRIES starts in a row have failed.
    """
    deaths = 0
    registered: list[Registered] = []
    try:
        running.serves()
        while True:
            started = time.monotonic()
            while (code := running.wait(1.0)) is None:
                registered = snapshots.newest(running.port) or registered
            lived = time.monotonic() - started
            deaths = 1 if lived > HEALTHY_SECONDS else deaths + 1
            _say(output, f"TorchServe {_how_it_ended(code, running.port)}, {lived:.0f} s after it began to serve")
            _revive(running, client, snapshots.newest(running.port) or registered, deaths, output)
    except KeyboardInterrupt:
        with suppress(OSError):
            err.print("stopping")


def pause(number: int) -> float:
    """Seconds before start `number` (from 1): doubling, halved at most by chance, so that many servers don't start at once."""
    longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(number - 1, 30))
    return longest * random.uniform(0.5, 1.0)


def detach(names: list[str], port: int, output: Output, access: Access) -> Path:
    """Have a process of its own serve `names`, and return its log when all are ready; what it says is said here too.

    Raises what ended it, when it ends before.
    """
    server.check_claimable(port)
    log = paths.run(port) / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ["--port-base", str(port), "--host", access.host, *([] if access.tokens else ["--no-tokens"])]
    command = [sys.executable, "-m", "marina", "serve", *names, *words]
    with log.open("ab") as written, log.open("rb") as said, signals.raised():
        written.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} marina {' '.join(command[3:])}\n".encode())
        written.flush()
        said.seek(0, 2)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, start_new_session=True)
        heard: list[str] = []
        try:
            while not _serves(port, process.pid):
                ended = process.poll()
                new = said.read().decode(errors="replace").splitlines()
                heard += new
                if ended is not None:
                    raise _failure(ended, "\n".join(heard))
                _relay(new, output)
                time.sleep(0.1)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        _relay(said.read().decode(errors="replace").splitlines(), output)
    return log


def _revive(running: TorchServe, client: Client, wanted: list[Registered], deaths: int, output: Output) -> None:
    """Start again until it serves what it had registered."""
    for failed in range(TRIES):
        seconds = pause(deaths + failed)
        _say(output, f"starting it again in {seconds:.1f} s")
        time.sleep(seconds)
        started = time.monotonic()
        try:
            running.start()
            problems = snapshots.restore(client, wanted)
            if (code := running.wait(0)) is not None:
                raise ServerError(f"TorchServe {_how_it_ended(code, running.port)} while its models were registered")
            running.serves()
        except (MarinaError, OSError) as error:
            _say(output, f"the start failed: {error}")
            continue
        for problem in problems:
            _say(output, problem)
        _say(output, f"serving again after {time.monotonic() - started:.1f} s: {_listed(wanted)}")
        return
    raise ServerError(f"gave up after {TRIES} starts that failed; the end of the log:\n{server.log_tail(running.port)}")


def _listed(registered: list[Registered]) -> str:
    return ", ".join(f"{one.name} {one.version}" for one in registered) or "no models"


def _how_it_ended(code: int, port: int) -> str:
    """An exit code in words (negative: killed by that signal), with the end of what the process wrote."""
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL (by hand, or because memory ran out)"  # nobody has last words then
    how = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"
    return f"{how} ({' | '.join(server.log_tail(port, LAST_WORDS, ('server.out',)).splitlines())})"


def _say(output: Output, text: str) -> None:
    """With the time, for logs; a terminal that is gone is no reason to end."""
    with suppress(OSError, SystemExit):
        output.say(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}")


def _serves(port: int, pid: int) -> bool:
    state = server.read_state(port)
    return bool(state and state.serving and state.owner == pid)


def _failure(code: int, said: str) -> MarinaError:
    """What ended a supervisor, in its own words."""
    words = said.rpartition("error: ")[2].strip() or f"the supervisor ended with code {code}"
    return CallError(words) if code == CallError.exit_code else ServerError(words)


def _relay(lines: list[str], output: Output) -> None:
    for line in lines:
        if not line.startswith("error: "):  # is raised
            output.say(line)
