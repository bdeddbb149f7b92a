"""The command `init`, which makes a project."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from marina.commands.session import WHOLE_WAY, Result, Session, command
from marina.pipeline import project

app = typer.Typer()


@command(app, "init", panel=WHOLE_WAY)
def init(
    session: Session,
    folder: Annotated[
        Path, typer.Argument(help="An empty folder, or one that does not exist yet.", show_default="this one")
    ] = Path(),
) -> Result:
    """Make a project: models/ with one example, a Makefile, a .gitignore and a README."""
    folder = Path(os.path.realpath(folder))  # also of a link to itself, which `resolve` fails on
    files = project.create(folder)
    names = ", ".join(str(file.relative_to(folder)) for file in files)
    session.output.say(f"made {names} in {folder}")
    change = "" if folder == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    session.output.say(f"next: {change}marina up")
    return {"ok": True, "project": str(folder), "files": [str(file) for file in files]}
