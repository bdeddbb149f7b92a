"""Output: tables and progress for people, one JSON object for programs.

With --json all output for people goes to stderr, and the last line of stdout is the result.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

out = Console()
err = Console(stderr=True)


class Output:
    """The output of a command."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = err if as_json else out

    def say(self, text: str) -> None:
        """Print a line for people."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table for people; columns of numbers are right-aligned."""
        table = Table(title=title, title_justify="left", title_style="bold")
        cells = [[_cell(value) for value in row] for row in rows]
        for index, column in enumerate(columns):
            numeric = bool(cells) and all(
                row[index].replace(".", "", 1).replace(",", "").isdigit() for row in cells
            )
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*row)
        self.console.print(table)

    def show(self, text: str) -> None:
        """Print a result for people on stdout, as it is; nothing with --json."""
        if not self.as_json:
            print(text)

    def show_json(self, content: Any) -> None:
        """Print a result for people as colored JSON; nothing with --json."""
        if not self.as_json:
            self.console.print_json(json.dumps(content))

    def track(self, items: Iterable[Any], what: str) -> Iterable[Any]:
        """Iterate over `items` with a progress bar, which disappears at the end."""
        return track(list(items), what, console=err, transient=True)

    def result(self, content: dict[str, Any]) -> None:
        """Print the JSON object of --json; nothing without it."""
        if self.as_json:
            print(json.dumps(content, separators=(",", ":"), default=str), flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4g}"
    return str(value)
