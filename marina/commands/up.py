"""The command that goes the whole way."""

from dataclasses import asdict
from typing import Annotated

import typer

from marina.commands.session import WHOLE_WAY, Names, Result, ServerSession, command
from marina.core.errors import WorkError
from marina.engines import supervisor
from marina.pipeline import steps

app = typer.Typer()


@command(app, "up", panel=WHOLE_WAY)
def go_whole_way(
    session: ServerSession,
    names: Names = None,
    once: Annotated[
        bool, typer.Option("--once", help="Stop after the table of answers instead of serving until Ctrl-C.")
    ] = False,
) -> Result:
    """Train what is missing, archive, serve, register, wait until ready, and answer all samples."""
    output, specs = session.output, steps.choose(names or [])
    steps.prepare(specs, output)
    with steps.started(specs, session.port, output, engine=session.engine) as (server, client):
        answers = steps.show_samples(client, specs, output)
        if not once:
            token = f"marina token inference --port-base {session.port}"
            output.say(f"serving at {client.inference} (tokens: {token}); Ctrl-C stops it")
            supervisor.watch(server, client, output)
    if wrong := [answer for answer in answers if answer.problem]:
        reasons = "\n  ".join(f"{answer.model}, {answer.sample}: {answer.problem}" for answer in wrong)
        raise WorkError(f"{len(wrong)} of {len(answers)} answers are wrong:\n  {reasons}")
    return {"ok": True, "answers": [asdict(answer) for answer in answers]}
