"""TorchServe as a child process: own ports, own temporary folder, own logs; started and stopped by process id.

State lies in run/<inference port>/: state.json (who runs), lock (held by the process that runs it), key_file.json (tokens), logs/,
server.out, and python (what Java starts workers with). The temporary folder has a short path of its own, because Unix socket
paths are limited to about 100 characters.

Nothing is left behind: whatever ends the process that started it, kill -9 included, the kernel ends Java with it, and the workers
with Java (exec_with_parent.py). State and temporary folder are then removed by the next start, or by `marina stop`.

What is not covered: that guarantee on systems other than Linux, where leftovers live until the next start or `marina stop`; a
server that runs but doesn't answer.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

import psutil

from marina import paths
from marina.errors import CallError, ServerError
from marina.server import java, processes, signals
from marina.server.java import Access

START_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class State:
    """A server as its starter wrote it down: both processes, when they started (ids are reused), and the temporary folder.

    `pid` is 0 before there is a Java process. `serving` is set once all models are ready.
    """

    port: int
    owner: int
    owner_created: float
    temporary: str
    pid: int = 0
    created: float = 0.0
    serving: bool = False
    tokens: bool = True

    def process(self) -> psutil.Process | None:
        """The running Java process, or None when it is gone."""
        return processes.find(self.pid, self.created)

    def owner_process(self) -> psutil.Process | None:
        """The process that started it and restarts it, or None when it is gone."""
        return processes.find(self.owner, self.owner_created)


def written_state(port: int) -> State | None:
    """What state.json says, whether or not anything of it still runs; None when there is none that can be read."""
    try:
        return State(**json.loads((paths.run(port) / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read_state(port: int) -> State | None:
    """The server that runs at `port`; None when there is none, also while a dead one is about to be started again."""
    state = written_state(port)
    return state if state and state.process() else None


def was_started(port: int) -> bool:
    """Whether a server was started at `port` and not stopped since; it may have died."""
    return (paths.run(port) / "state.json").is_file()


class TorchServe:
    """The server that this process runs at `port`; made by `running_server`. Start it in the main thread: Java dies with the thread."""

    def __init__(self, port: int, access: Access | None = None) -> None:
        self.port, self.access = port, access or Access()
        self.folder = paths.run(port)
        self._lock: processes.Lock | None = None
        self._state: State | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def claim(self) -> None:
        """Take the port for this process: its lock, no leftovers, free ports. Raises CallError where that can't be."""
        if not 1024 <= self.port <= 65000:
            raise CallError(f"--port-base {self.port}: choose a number from 1024 to 65000")
        if self.folder.is_dir():
            self._take_lock()
            self._remove_all()
        _check_ports(self.port)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # the tokens lie here
        self._take_lock()

    def start(self) -> None:
        """Start TorchServe and wait until it answers; what is left of an earlier one at this port is removed first.

        Raises CallError when a port is taken or no Java is found, ServerError with the server's own words when it dies.
        """
        self.claim()
        for file in (self.folder / "key_file.json", *(self.folder / "logs" / "config").glob("*.cfg")):
            file.unlink(missing_ok=True)  # tokens and snapshots of an earlier server
        paths.model_store().mkdir(parents=True, exist_ok=True)
        owner = os.getpid()
        temporary = tempfile.mkdtemp(prefix=processes.PREFIX)
        self._state = State(self.port, owner, processes.created(owner), temporary, tokens=self.access.tokens)
        self._write(self._state)  # before there is a process, so that none is ever unknown
        with (self.folder / "server.out").open("wb") as output:
            self._process = subprocess.Popen(
                java.command(self.folder, self._state.temporary),
                cwd=self.folder,
                env=java.environment(self.port, self.folder, self._state.temporary, self.access),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us first; we stop it in order
            )
        pid = self._process.pid
        self._write(replace(self._state, pid=pid, created=processes.created(pid)))
        _wait(self._process, self.port, self.access)

    def wait(self, seconds: float) -> int | None:
        """Wait for the server's end, about `seconds` at most; its exit code (negative: killed by that signal), None while it runs."""
        deadline = time.monotonic() + seconds
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        return self._process.poll() if self._process else None

    def serves(self) -> None:
        """Write down that all models are ready."""
        if self._state:
            self._write(replace(self._state, serving=True))

    def stop(self) -> None:
        """Stop the server and its workers: politely, then by force, at once when asked twice; removes state and temporary folder."""
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
                    _forget(self.port)
                    self._lock.release()

    def _take_lock(self) -> None:
        stop = f"stop it with: marina stop --port-base {self.port}"
        refusal = f"a server of this home already runs, or is being started, at {self.port}; {stop}"
        self._lock = self._lock or processes.Lock(self.folder / "lock", refusal)

    def _write(self, state: State) -> None:
        """In one step: readers never see half a file."""
        self._state, arriving = state, self.folder / "state.json.new"
        arriving.write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
        arriving.replace(self.folder / "state.json")

    def _remove_all(self) -> None:
        """Processes and temporary folders at this port, whoever started them; the lock must be ours."""
        for state in filter(None, (written_state(self.port), self._state)):
            _remove(state)
        if self._process:
            self._process.wait()


@contextmanager
def running_server(port: int, access: Access | None = None) -> Iterator[TorchServe]:
    """A server for the length of a `with` block; stopped on every way out: SIGINT, SIGTERM and SIGHUP raise Stopped meanwhile."""
    with signals.raised():
        server = TorchServe(port, access)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def stop(port: int) -> bool:
    """Stop what this home runs at `port`, whoever started it, and remove what a killed one left. True when something ran.

    Raises CallError when it is another user's.
    """
    found = False
    deadline = time.monotonic() + 2 * STOP_SECONDS
    while (state := written_state(port)) and not _clean(port):
        if owner := state.owner_process():
            found = True
            _end(owner, port)
        elif time.monotonic() > deadline:
            raise ServerError(f"{paths.run(port) / 'lock'} is held by a process that is not the one in state.json; end that one first")
        else:
            time.sleep(0.1)  # somebody starts one this very moment
    return found


def check_claimable(port: int) -> None:
    """Raise CallError, with what to do instead, unless a server could be started at `port` now; removes what a killed one left."""
    claimant = TorchServe(port)
    try:
        claimant.claim()
    finally:
        claimant.stop()


def free_port_base() -> int:
    """The first of five free ports in a row, for a server of one's own."""
    for port in range(18080 + os.getpid() % 1000 * 10, 60000, 10):
        if not _taken(port):
            return port
    raise ServerError("no five free ports in a row on this machine")


def log_tail(port: int, lines: int = 15, names: tuple[str, ...] = ("server.out", "logs/models.log")) -> str:
    """The end of what the server and its workers wrote, for error messages."""
    files = [paths.run(port) / name for name in names]
    texts = [file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:] for file in files if file.is_file()]
    return "\n".join(line for text in texts for line in text)


def _check_ports(port: int) -> None:
    if taken := _taken(port):
        name = java.PORTS[taken[0] - port]
        raise CallError(f"port {taken[0]} ({name}) is taken; choose other ports, for example: --port-base {port + 100}")


def _taken(port: int) -> list[int]:
    return [one for one in range(port, port + len(java.PORTS)) if _is_taken(one)]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _wait(process: subprocess.Popen[bytes], port: int, access: Access) -> None:
    """Until the inference and the management port accept connections and the tokens, if any, are written."""
    deadline = time.monotonic() + START_SECONDS
    key_file = paths.run(port) / "key_file.json"
    while not ((key_file.is_file() or not access.tokens) and _accepts(port) and _accepts(port + 1)):
        if process.poll() is not None:
            raise ServerError(f"TorchServe ended with code {process.returncode} at its start:\n{log_tail(port)}")
        if time.monotonic() > deadline:
            raise ServerError(f"TorchServe did not answer within {START_SECONDS:.0f} s:\n{log_tail(port)}")
        time.sleep(0.05)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(owner: psutil.Process, port: int) -> None:
    try:
        owner.terminate()
        _, alive = psutil.wait_procs([owner], timeout=STOP_SECONDS + processes.KILL_SECONDS)
        for process in alive:
            process.kill()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise CallError(f"another user started the server at {port} (process {owner.pid}); stop it as that user") from error


def _clean(port: int) -> bool:
    """Remove what a killed starter left; False when one that lives has the lock."""
    try:
        lock = processes.Lock(paths.run(port) / "lock", "")
    except CallError:
        return False
    if state := written_state(port):
        _remove(state)
    _forget(port)
    lock.release()
    return True


def _remove(state: State) -> None:
    if process := state.process():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    processes.remove(state.temporary)


def _forget(port: int) -> None:
    for name in ("state.json", "key_file.json"):
        (paths.run(port) / name).unlink(missing_ok=True)
