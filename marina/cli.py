"""The command line: the commands of marina/commands/ under one name.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong.
"""

import logging
import sys

import typer

from marina.commands import bench, build, release, serve, use, whole_way

app = typer.Typer(
    help="Carries a PyTorch model from its data to a released endpoint on TorchServe. `marina up` goes the whole way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for part in (whole_way, build, serve, use, bench, release):
    app.add_typer(part.app)


def main() -> None:
    """Entry point of `marina` and `python -m marina`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("ts").setLevel(logging.ERROR)  # it reports every optional runtime that is not installed
    app()
