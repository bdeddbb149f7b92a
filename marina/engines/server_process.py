"""An engine's server as a child process with its own ports, temporary folder and logs.

Its files are in run/<inference port>/: state.json (its processes), lock (held by the process that runs it),
key_file.json (tokens), logs/, server.out. The temporary folder is elsewhere and its path short, because paths
of Unix sockets are limited to about 100 characters.

No process is left behind. However the process that started it ends, by kill -9 too, the kernel ends the
server, and the workers with it (exec_with_parent.py). The next start or `marina stop` removes the files.

Not covered: that guarantee on systems other than Linux, where processes may remain until the next start or
`marina stop`; a server that runs but doesn't answer.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
from filelock import BaseFileLock

from marina import engines
from marina.core import files, paths, processes, scratch, signals
from marina.core.errors import CallError, ServerError
from marina.engines import ports
from marina.engines.engine import Access, Engine

STOP_SECONDS = 20.0


@dataclass(frozen=True)
class State:
    """The content of state.json: both processes, their start times (ids are reused), the temporary folder.

    `pid` is 0 before there is a server process. `serving` is set when all models are ready. `is_private`
    says that a command runs it for itself.
    """

    port: int
    owner: int
    owner_created: float
    temporary: str
    pid: int = 0
    created: float = 0.0
    serving: bool = False
    tokens: bool = True
    engine: str = "torchserve"
    is_private: bool = False

    def process(self) -> psutil.Process | None:
        """The running server process, or None after its end."""
        return processes.find(self.pid, self.created)

    def owner_process(self) -> psutil.Process | None:
        """The process that started it and restarts it, or None after its end."""
        return processes.find(self.owner, self.owner_created)


def written_state(port: int, home: Path | None = None) -> State | None:
    """The state in state.json, whether or not its processes still run; None without a readable one."""
    file = paths.run(port, home) / "state.json"
    try:
        return State(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def read_state(port: int, home: Path | None = None) -> State | None:
    """The state of the server that runs at `port`; None when none runs, also while one is restarting."""
    state = written_state(port, home)
    return state if state and state.process() else None


def was_started(port: int) -> bool:
    """Whether a server was started at `port` and not stopped; it may have died."""
    return (paths.run(port) / "state.json").is_file()


class ServerProcess:
    """The server that this process runs at `port`; see `running_server`.

    Start it in the main thread: the server ends with the thread that started it.
    """

    def __init__(
        self,
        port: int,
        access: Access | None = None,
        home: Path | None = None,
        engine: Engine | None = None,
        is_private: bool = False,
    ) -> None:
        self.port, self.access, self.is_private = port, access or Access(), is_private
        self.home = home or paths.find_home()
        self.engine = engine or engines.get(home=self.home)
        self.folder = paths.run(port, self.home)
        self._lock: BaseFileLock | None = None
        self._state: State | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary_lock: int | None = None  # a file descriptor

    def claim(self) -> None:
        """Lock the port, remove leftovers and check that its ports are free. Raises CallError."""
        if not 1024 <= self.port <= 65000:
            raise CallError(f"--port-base {self.port}: choose a number from 1024 to 65000")
        if self.folder.is_dir():
            self._take_lock()
            self._remove_all()
        ports.check_free(self.port, self.engine.ports(self.home))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # the tokens lie here
        self._take_lock()

    def start(self) -> None:
        """Start it and wait until it answers; first remove leftovers of an earlier one at this port.

        Raises CallError when a port is taken or something that it needs is missing, ServerError with the end
        of its log when it dies.
        """
        self.claim()
        self.engine.clear(self.folder)
        store = paths.model_store(self.home)
        store.mkdir(parents=True, exist_ok=True)
        scratch.remove_leftovers(processes.SERVER_PREFIX, lambda folder: processes.remove(str(folder)))
        temporary = str(scratch.new_path(processes.SERVER_PREFIX, Path(tempfile.gettempdir())))
        owner = os.getpid()
        state = State(
            self.port,
            owner,
            processes.created(owner),
            temporary,
            tokens=self.access.tokens,
            engine=self.engine.name,
            is_private=self.is_private,
        )
        self._write(state)  # before there is a folder or a process, so that none is ever unrecorded
        self._temporary_lock = scratch.make_locked(Path(temporary))
        with (self.folder / "server.out").open("wb") as output:
            self._process = subprocess.Popen(
                self.engine.command(self.port, self.folder, store, temporary, self.access),
                cwd=self.folder,
                env=self.engine.environment(self.port, self.folder, store, temporary, self.access),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it: it is stopped in order
            )
        pid = self._process.pid
        self._write(replace(state, pid=pid, created=processes.created(pid)))
        self._wait_until_up()

    def wait(self, seconds: float) -> int | None:
        """Wait about `seconds` for the server's end; its exit code, or None if it runs on.

        A negative code is the signal that killed it.
        """
        deadline = time.monotonic() + seconds
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        return self._process.poll() if self._process else None

    def log_tail(self, lines: int = 15) -> str:
        """The end of its logs, for error messages."""
        return log_tail(self.folder, lines, self.engine.logs)

    def set_serving(self) -> None:
        """Record that all models are ready."""
        if self._state:
            self._write(replace(self._state, serving=True))

    def stop(self) -> None:
        """Stop the server and its workers, by force after STOP_SECONDS or a second Ctrl-C."""
        try:
            if self._process and self._process.poll() is None:
                self._process.terminate()
                self._process.wait(STOP_SECONDS)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            pass
        finally:
            with signals.ignored():
                if self._lock:
                    self._remove_all()
                    _forget(self.folder)
                    self._lock.release()

    def _wait_until_up(self) -> None:
        assert self._process
        seconds = self.engine.start_seconds
        deadline = time.monotonic() + seconds
        while not self.engine.is_up(self.port, self.folder, self.access):
            if (code := self._process.poll()) is not None:
                raise ServerError(
                    f"{self.engine.title} ended with code {code} at its start:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.engine.title} did not answer within {seconds:.0f} s:\n{self.log_tail()}"
                )
            time.sleep(0.05)

    def _take_lock(self) -> None:
        stop = f"stop it with: marina stop --port-base {self.port}"
        message = f"a server of this home already runs, or is starting, at {self.port}; {stop}"
        self._lock = self._lock or files.lock_file(self.folder / "lock", message)

    def _write(self, state: State) -> None:
        self._state = state
        files.write_atomic(self.folder / "state.json", json.dumps(asdict(state)) + "\n")

    def _remove_all(self) -> None:
        """Remove processes and temporary folders at this port, whoever started them; needs the lock."""
        for state in filter(None, (written_state(self.port, self.home), self._state)):
            _remove(state)
        if self._process:
            # no limit: it was killed
            self._process.wait()
        if self._temporary_lock is not None:
            os.close(self._temporary_lock)
            self._temporary_lock = None


@contextmanager
def running_server(
    port: int,
    access: Access | None = None,
    home: Path | None = None,
    engine: Engine | None = None,
    is_private: bool = False,
) -> Iterator[ServerProcess]:
    """Run a server for a `with` block, in which SIGINT, SIGTERM and SIGHUP raise Stopped."""
    with signals.raised():
        server = ServerProcess(port, access, home, engine, is_private)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def stop(port: int) -> bool:
    """Stop the server of this home at `port`, whoever started it, and remove its files.

    Returns whether one ran.

    Raises CallError when it is another user's.
    """
    was_running = False
    deadline = time.monotonic() + 2 * STOP_SECONDS
    while (state := written_state(port)) and not clean(port):
        if owner := state.owner_process():
            was_running = True
            _end(owner, port)
        elif time.monotonic() > deadline:
            raise ServerError(
                f"{paths.run(port) / 'lock'} is held by a process that is not the one in state.json; end "
                "that one first"
            )
        else:
            time.sleep(0.1)  # one is starting at this moment
    return was_running


def check_claimable(port: int) -> None:
    """Raise CallError unless a server could start at `port`; removes leftovers of a killed one."""
    server = ServerProcess(port)
    try:
        server.claim()
    finally:
        server.stop()


def free_port_base() -> int:
    """The first of five free ports in a row, for a private server."""
    for port in range(18080 + os.getpid() % 1000 * 10, 60000, 10):
        if not ports.taken(port):
            return port
    raise ServerError("no five free ports in a row on this machine")


def log_tail(folder: Path, lines: int = 15, names: tuple[str, ...] = Engine.logs) -> str:
    """The end of the logs in a server's `folder`, for error messages."""
    files = [folder / name for name in names]
    texts = [
        file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        for file in files
        if file.is_file()
    ]
    return "\n".join(line for text in texts for line in text)


def _end(owner: psutil.Process, port: int) -> None:
    try:
        owner.terminate()
        _, alive = psutil.wait_procs([owner], timeout=STOP_SECONDS + processes.KILL_SECONDS)
        for process in alive:
            process.kill()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise CallError(
            f"another user started the server at {port} (process {owner.pid}); stop it as that user"
        ) from error


def clean(port: int) -> bool:
    """Remove the leftovers of a killed process, but logs; False when a running one has the lock."""
    try:
        lock = files.lock_file(paths.run(port) / "lock", "")
    except CallError:
        return False
    if state := written_state(port):
        _remove(state)
    _forget(paths.run(port))
    lock.release()
    return True


def _remove(state: State) -> None:
    if process := state.process():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    processes.remove(state.temporary)


def _forget(folder: Path) -> None:
    for name in ("state.json", "key_file.json"):
        (folder / name).unlink(missing_ok=True)
