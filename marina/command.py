"""What all commands share: their common options, errors as exit codes, a server to talk to."""

import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from marina import paths, server, up
from marina import ready as readiness
from marina.client import Client
from marina.console import Output, err
from marina.errors import CallError, MarinaError, ServerError
from marina.spec import Spec

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Models by the name of their spec; all when left out.")]
Name = Annotated[str, typer.Argument(help="A model, by the name of its spec in models/.")]
PortBase = Annotated[
    int, typer.Option("--port-base", metavar="N", envvar="MARINA_PORT_BASE", help="Inference at N, management at N+1, metrics at N+2.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout; the rest goes to stderr.")]
FileOptions = Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="top_k=3, confidence_threshold=0.3 …")]
DEFAULT_PORT = 8080


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into a line on stderr and an exit code; with --json also into the JSON object."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (MarinaError, OSError) as error:  # OSError: a full disk, a folder that can't be written
            err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            Output(bool(options.get("as_json"))).result({"ok": False, "error": str(error)})
            raise typer.Exit(getattr(error, "exit_code", 1)) from error
        except KeyboardInterrupt as stopped:
            err.print("stopped")
            raise typer.Exit(128 + getattr(stopped, "number", signal.SIGINT)) from None

    return run


@contextmanager
def serving_client(chosen: list[Spec], port: int, output: Output) -> Iterator[Client]:
    """A client of the server at `port`; where none runs, of a private one that is stopped afterwards."""
    if server.read_state(port):
        yield Client(port)
        return
    for one in chosen:
        readiness.golden_samples(one)  # says what to run when there is no archive
    private = server.free_port_base()
    output.say(f"no server at {port}: starting a private one at {private}")
    with up.serving(chosen, private, output) as client:
        yield client
    shutil.rmtree(paths.run(private), ignore_errors=True)  # after a failure its logs stay


def client_of(port: int) -> Client:
    """A client of the server at `port`. Raises ServerError, with the command that starts one, when none runs."""
    if server.read_state(port):
        return Client(port)
    if (state := server.written_state(port)) and state.owner_process():
        raise ServerError(f"the server at {port} is being started; try again in a moment (run/{port}/supervisor.log)")
    raise ServerError(f"no server of this home runs at {port}; start one with: marina serve --port-base {port}")


def file_request(file: Path, option: list[str] | None) -> tuple[bytes, str, dict[str, str]]:
    """(body, content type, options as headers) of a request that sends a file. Raises CallError when there is no such file."""
    if not file.is_file():
        raise CallError(f"no file {file}")
    content_type = "application/json" if file.suffix == ".json" else "application/octet-stream"
    return file.read_bytes(), content_type, {key: str(value) for key, value in overrides(option or []).items()}


def overrides(settings: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs, values read as YAML. Raises CallError for what is no pair."""
    pairs = [setting.partition("=") for setting in settings]
    if wrong := [key for key, sign, _ in pairs if not sign or not key]:
        raise CallError(f"{wrong[0]!r} is no KEY=VALUE; write it like training.epochs=1")
    return {key: yaml.safe_load(value) for key, _, value in pairs}
