"""The command that shows data before anything is learned from it."""

from pathlib import Path
from typing import Annotated

import typer

from marina.commands.build import Strict
from marina.commands.session import STEPS, Result, Session, command
from marina.core import paths

app = typer.Typer()


@command(app, "data", panel=STEPS)
def show_data(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(metavar="NAME|DATA", help="A model of models/, or a folder, file or name of data."),
    ],
    augmented: Annotated[
        bool,
        typer.Option("--augmented", help="Show training pictures as the model's augmentation varies them."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The HTML page; default: NAME-data.html here.")] = None,
    strict: Strict = False,
) -> Result:
    """Show data before training: counts, sizes, damage, copies and near copies, boxes and masks."""
    from marina.evaluation import data_page

    shown = data_page.augmentation(source) if augmented else data_page.show(source, strict)
    path = paths.expanded(out or f"{shown.name}-{'augmented' if augmented else 'data'}.html")
    path.write_text(shown.html, encoding="utf-8")
    for table in shown.tables:
        session.output.table(*table)
    session.output.say(f"{shown.name}: {path} ({len(shown.html.encode()) / 1e6:.1f} MB)")
    return {"ok": True, "page": str(path.resolve()), **shown.figures}
