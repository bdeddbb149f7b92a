"""The command line: the commands of marina/commands/ under one name.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong.
"""

import atexit
import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import typer
from typer._click.exceptions import UsageError  # typer has no public name for it
from typer.core import TyperGroup

from marina.commands import bench, build, cluster, data, init, measure, release, search, serve, up, use
from marina.core.console import Output


class Commands(TyperGroup):
    """All commands; a call that can't be read ends with an object too where it asks for --json."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command."""
        ctx.meta["as_json"] = "--json" in args
        with _usage_errors(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _usage_errors(ctx):
            return super().invoke(ctx)


@contextmanager
def _usage_errors(ctx: Any) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        Output(ctx.meta["as_json"]).result({"ok": False, "error": error.format_message()})
        raise


app = typer.Typer(
    cls=Commands,
    help=(
        "Carries a PyTorch model from its data to a released endpoint on TorchServe. `marina up` goes the "
        "whole way."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (up, init, data, build, search, serve, cluster, use, measure, bench, release):
    app.add_typer(group.app)


def main() -> None:
    """Run the command; what stdout's encoding lacks is printed as an escape."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    atexit.register(gc.freeze)  # at its end Python would search the objects of torch, a second of a processor
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("ts").setLevel(logging.ERROR)  # it reports every optional runtime that is not installed
    app()
