"""The command that goes the whole way."""

from dataclasses import asdict
from typing import Annotated

import typer

from marina import up
from marina.command import DEFAULT_PORT, Json, Names, PortBase, guarded
from marina.console import Output
from marina.errors import WorkError
from marina.server import supervisor

app = typer.Typer()


@app.command("up", rich_help_panel="The whole way")
@guarded
def up_(
    names: Names = None,
    once: Annotated[bool, typer.Option("--once", help="End after the table instead of serving until Ctrl-C.")] = False,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Train what is missing, archive, serve, register, wait for readiness, send every sample, show the answers."""
    output, chosen = Output(as_json), up.choose(names or [])
    up.prepare(chosen, output)
    with up.started(chosen, port_base, output) as (running, client):
        answered = up.show_samples(client, chosen, output)
        if not once:
            output.say(f"serving at {client.inference} (tokens: marina token inference --port-base {port_base}); Ctrl-C stops it")
            supervisor.watch(running, client, output)
    if wrong := [one for one in answered if one.problem]:
        reasons = "\n  ".join(f"{one.model}, {one.sample}: {one.problem}" for one in wrong)
        raise WorkError(f"{len(wrong)} of {len(answered)} answers are wrong:\n  {reasons}")
    output.result({"ok": True, "answers": [asdict(one) for one in answered]})
