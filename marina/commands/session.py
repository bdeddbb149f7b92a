"""What every command shares: a session with `--json` and `--port-base`, and errors as exit codes.

    @command(app, "stop", panel=BUILD)
    def stop(session: ServerSession) -> Result:
        ...

A command's first parameter is its session: `Session`, `EngineSession` for one that starts a server, which
adds `--engine`, or `ServerSession` for one that talks to a server, which adds `--port-base` too. What a
command returns is the object that `--json` prints as the last line of stdout.
"""

import functools
import inspect
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from marina import engines
from marina.client import Client
from marina.commands.exit_codes import exit_codes
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import CallError, ServerError
from marina.core.spec import Spec
from marina.core.yaml_files import parse_yaml
from marina.engines import private_servers, server_process
from marina.engines.engine import Engine
from marina.engines.server_process import State
from marina.pipeline import readiness, steps

WHOLE_WAY, STEPS, USE, LOOK, RELEASE = "The whole way", "Step by step", "Use", "Look", "Release"
DEFAULT_PORT = 8080
Result = dict[str, Any]

Name = Annotated[str, typer.Argument(help="A model, by the name of its spec in models/.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Models, by the names of their specs; default: all."),
]
PortBase = Annotated[
    int,
    typer.Option(
        "--port-base",
        metavar="N",
        envvar="MARINA_PORT_BASE",
        help="Inference at N, management at N+1, metrics at N+2.",
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        envvar="MARINA_ENGINE",
        help=f"What serves: {' or '.join(engines.ENGINES)}; default: what marina.yaml says, else torchserve.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object as the last line of stdout; the rest goes to stderr."),
]


class Session:
    """One call of a command."""

    def __init__(self, output: Output) -> None:
        self.output = output


class EngineSession(Session):
    """One call of a command that starts a server, or may start one."""

    def __init__(self, output: Output, engine: str | None = None) -> None:
        super().__init__(output)
        self.engine_name = engine
        if engine:
            engines.get(engine)  # names the known ones

    @property
    def engine(self) -> Engine:
        """What a server that this command starts is. Raises CallError for an unknown name."""
        return engines.get(self.engine_name)


class ServerSession(EngineSession):
    """One call of a command that talks to the server at `port`."""

    def __init__(self, output: Output, engine: str | None, port: int) -> None:
        super().__init__(output, engine)
        self.port = port

    def client(self) -> Client:
        """A client of the running server.

        Raises ServerError, with what to run, when there is none, and CallError when it is another engine's
        than the command asks for.
        """
        if state := server_process.read_state(self.port):
            return self._client_of(state)
        if (state := server_process.written_state(self.port)) and state.owner_process():
            raise ServerError(
                f"the server at {self.port} is starting; try again in a moment "
                f"(run/{self.port}/supervisor.log)"
            )
        raise ServerError(
            f"no server of this home runs at {self.port}; start one with: marina serve --port-base "
            f"{self.port}"
        )

    def running_engine(self) -> Engine:
        """What the running server is; where none runs, what this command would start."""
        state = server_process.read_state(self.port)
        return engines.get(state.engine) if state else self.engine

    @contextmanager
    def serving(self, *specs: Spec) -> Iterator[Client]:
        """A client of the running server; where none runs, of a private one that serves `specs` meanwhile."""
        if state := server_process.read_state(self.port):
            yield self._client_of(state)
            return
        for spec in specs:
            readiness.golden_samples(spec)  # names the command to run when there is no archive
        private_servers.remove_leftovers()
        port = server_process.free_port_base()
        self.output.say(f"no server at {self.port}: starting a private one at {port}")
        has_failed = False
        try:
            with steps.serving(list(specs), port, self.output, self.engine) as client:
                yield client
        except Exception:  # any failure keeps the logs; it is raised again
            has_failed = True
            raise
        finally:
            if not has_failed:  # else its logs may say why
                shutil.rmtree(paths.run(port), ignore_errors=True)

    def _client_of(self, state: State) -> Client:
        if self.engine_name and self.engine.name != state.engine:
            raise CallError(
                f"the server at {self.port} is {engines.get(state.engine).title}, not {self.engine.title}; "
                "leave --engine out, or choose another --port-base"
            )
        return Client(self.port)


Command = Callable[..., Result | None]


def command(
    app: typer.Typer, name: str, panel: str | None = None, **settings: Any
) -> Callable[[Command], Command]:
    """Register a function as the command `name` of `app`, with a session and errors as exit codes."""

    def register(function: Command) -> Command:
        session_type = get_type_hints(function)[next(iter(inspect.signature(function).parameters))]

        @functools.wraps(function)
        def run(*, as_json: bool = False, **arguments: Any) -> None:
            output = Output(as_json)
            of_session = [arguments.pop(name) for name in _session_options(session_type)]
            with exit_codes(output):
                _refuse_pipes(arguments)
                session = session_type(output, *of_session)
                output.result(function(session, **arguments) or {"ok": True})

        run.__signature__ = _signature(function, session_type)  # type: ignore[attr-defined]
        app.command(name, rich_help_panel=panel, **settings)(run)
        return function

    return register


def _refuse_pipes(arguments: dict[str, Any]) -> None:
    """Raise CallError for a named pipe, which would be waited for without an end."""
    for value in arguments.values():
        if isinstance(value, Path) and value.is_fifo():
            raise CallError(f"{value} is a pipe; name a file")


def _session_options(session_type: type[Session]) -> dict[str, tuple[Any, Any]]:
    """The options of a session, in the order of its constructor: default and annotation."""
    options: dict[str, tuple[Any, Any]] = {}
    if issubclass(session_type, EngineSession):
        options["engine"] = (None, EngineName)
    if issubclass(session_type, ServerSession):
        options["port_base"] = (DEFAULT_PORT, PortBase)
    return options


def _signature(function: Command, session_type: type[Session]) -> inspect.Signature:
    """The parameters of the command line: the function's but the session, and the session's own."""
    kind = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, kind, default=default, annotation=annotation)
        for name, (default, annotation) in _session_options(session_type).items()
    ]
    shared.append(inspect.Parameter("as_json", kind, default=False, annotation=Json))
    return inspect.Signature([*(parameter.replace(kind=kind) for parameter in own), *shared])


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE pairs, with values read as YAML. Raises CallError for anything else."""
    pairs = [setting.partition("=") for setting in settings or []]
    if wrong := [key for key, sign, _ in pairs if not sign or not key]:
        raise CallError(f"{wrong[0]!r} is no KEY=VALUE; write it like training.epochs=1")
    return {key: parse_yaml(value, f"the value of {key}") for key, _, value in pairs}
