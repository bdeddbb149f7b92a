"""Keeps a server alive: watches it, reports why it ended, and restarts it with the same models.

The pause before a restart doubles from one second to a minute, with jitter; after a minute of health it is
one second again. Restarts go on without limit, but end after TRIES failed starts in a row. `detach` runs all
of this in a background process.

Not covered: the end of this process, which ends the server too (server_process.py) and is the service
manager's to handle; a server that runs but doesn't answer.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from marina.client import Client
from marina.core import paths, signals
from marina.core.console import Output, err
from marina.core.errors import CallError, MarinaError, ServerError
from marina.engines import server_process
from marina.engines.engine import Access, Engine
from marina.engines.registered import Registered, restore
from marina.engines.server_process import ServerProcess

FIRST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 60.0
HEALTHY_SECONDS = 60.0
TRIES = 8
LOG_LINES = 4


def watch(server: ServerProcess, client: Client, output: Output) -> None:
    """Keep a server alive until Ctrl-C, SIGTERM, SIGHUP or `marina stop`.

    Raises ServerError, with the end of the log, after TRIES failed starts in a row.
    """
    deaths = 0
    registered: list[Registered] = []
    try:
        server.set_serving()
        while True:
            started = time.monotonic()
            while (code := server.wait(1.0)) is None:
                registered = server.engine.registered(server.folder) or registered
            lived = time.monotonic() - started
            deaths = 1 if lived > HEALTHY_SECONDS else deaths + 1
            _say(
                output,
                f"{_how_it_ended(code, server)}, {lived:.0f} s after its start",
            )
            _restart(server, client, server.engine.registered(server.folder) or registered, deaths, output)
    except KeyboardInterrupt:
        with suppress(OSError):
            err.print("stopping")


def pause(number: int) -> float:
    """Seconds before restart `number` (from 1): exponential backoff with jitter of up to a half."""
    longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(number - 1, 30))
    return longest * random.uniform(0.5, 1.0)


def detach(names: list[str], port: int, output: Output, access: Access, engine: Engine) -> Path:
    """Serve `names` in a background process, relay its output until all are ready, and return its log file.

    Raises its error if it ends before.
    """
    server_process.check_claimable(port)
    options = ["--port-base", str(port), "--engine", engine.name, "--host", access.host]
    options += [] if access.tokens else ["--no-tokens"]
    log = paths.run(port) / "supervisor.log"
    return run_in_background(["serve", *names, *options], log, lambda pid: _serves(port, pid), output)


def run_in_background(words: list[str], log: Path, is_up: Callable[[int], bool], output: Output) -> Path:
    """Run `marina WORDS` in a background process that writes to `log`; return the log when `is_up(its pid)`.

    Relays its output until then, and raises its error if it ends before.
    """
    home = paths.find_home()
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "marina", *words]
    with log.open("ab") as writer, log.open("rb") as reader, signals.raised():
        writer.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} marina {' '.join(command[3:])}\n".encode())
        writer.flush()
        reader.seek(0, 2)
        process = subprocess.Popen(
            command,
            env={**os.environ, "MARINA_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
        lines: list[str] = []
        try:
            while not is_up(process.pid):
                code = process.poll()
                new = reader.read().decode(errors="replace").splitlines()
                lines += new
                if code is not None:
                    raise _failure(code, "\n".join(lines))
                _relay(new, output)
                time.sleep(0.1)
        except BaseException:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(2 * server_process.STOP_SECONDS)
            process.kill()  # which ends the server too
            raise
        _relay(reader.read().decode(errors="replace").splitlines(), output)
    return log


def _restart(
    server: ServerProcess, client: Client, registered: list[Registered], deaths: int, output: Output
) -> None:
    """Start the server until it serves what it had registered."""
    for failed in range(TRIES):
        seconds = pause(deaths + failed)
        _say(output, f"restarting in {seconds:.1f} s")
        time.sleep(seconds)
        started = time.monotonic()
        try:
            server.start()
            problems = restore(client, registered)
            if (code := server.wait(0)) is not None:
                raise ServerError(f"{_how_it_ended(code, server)} while its models were registered")
            server.set_serving()
        except (MarinaError, OSError) as error:
            _say(output, f"the start failed: {error}")
            continue
        for problem in problems:
            _say(output, problem)
        _say(output, f"serving again after {time.monotonic() - started:.1f} s: {_format(registered)}")
        return
    raise ServerError(f"gave up after {TRIES} starts that failed; the end of the log:\n{server.log_tail()}")


def _format(registered: list[Registered]) -> str:
    return ", ".join(f"{model.name} {model.version}" for model in registered) or "no models"


def _how_it_ended(code: int, server: ServerProcess) -> str:
    """An exit code in words (a negative one is a signal), with the end of the server's output."""
    name = server.engine.title
    if code == -signal.SIGKILL:
        return f"{name} was killed by SIGKILL (by hand, or because memory ran out)"  # which leaves no output
    how = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"
    end = server_process.log_tail(server.folder, LOG_LINES, ("server.out",)).splitlines()
    return f"{name} {how} ({' | '.join(end)})"


def _say(output: Output, text: str) -> None:
    """Print a line with the time; a closed terminal is no error."""
    with suppress(OSError, SystemExit):
        output.say(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}")


def _serves(port: int, pid: int) -> bool:
    state = server_process.read_state(port)
    return bool(state and state.serving and state.owner == pid)


def _failure(code: int, output: str) -> MarinaError:
    """The error that ended a supervisor, with its message."""
    message = output.rpartition("error: ")[2].strip() or f"the supervisor ended with code {code}"
    return CallError(message) if code == CallError.exit_code else ServerError(message)


def _relay(lines: list[str], output: Output) -> None:
    for line in lines:
        if not line.startswith("error: "):  # that one is raised
            output.say(line)
