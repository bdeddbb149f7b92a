"""What HTML pages share: tables, facts, pictures, and the template that they fill.

A page needs no script, loads nothing from elsewhere, and follows the reader's light or dark theme.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined


class Cell(NamedTuple):
    """A cell of a table: its text, and "number", "mono" or nothing for how it looks."""

    text: str
    kind: str = ""


class Table(NamedTuple):
    """A table as the template takes it."""

    columns: list[Cell]
    rows: list[list[Cell]]
    kind: str = ""


class Figure(NamedTuple):
    """A picture, as a data URL, with its caption; or a sound that can be played, with a picture of it or
    without.
    """

    image: str
    title: str
    text: str
    sound: str = ""


Facts = list[tuple[str, Cell]]


def render(template: str, content: Mapping[str, Any]) -> str:
    """The HTML of a template of this folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


SOUNDS = {".wav": "wav", ".flac": "flac", ".mp3": "mpeg", ".ogg": "ogg"}


def data_url(path: Path) -> str:
    """A picture's, or a sound's, file as a data URL."""
    picture = {".jpg": "jpeg", ".tif": "tiff"}.get(path.suffix, path.suffix[1:])
    kind = f"audio/{SOUNDS[path.suffix]}" if path.suffix in SOUNDS else f"image/{picture}"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def facts(content: Mapping[str, Any]) -> Facts:
    """Names and values; nested ones are flat, under their path."""
    return [(name.replace("_", " "), _cell(value)) for name, value in _flat(content) if value is not None]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield prefix + name, value


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], mono: Sequence[str] = (), kind: str = ""
) -> Table:
    """A table; columns of numbers are right-aligned, those in `mono` in a font of equal widths."""
    numeric = [all(_is_number(row[k]) for row in rows) for k in range(len(columns))]
    head = [Cell(name, "number" if numeric[k] else "") for k, name in enumerate(columns)]
    body = [[_cell(row[k], numeric[k], columns[k] in mono) for k in range(len(columns))] for row in rows]
    return Table(head, body, kind)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and value.replace(",", "").isdigit())


def _cell(value: Any, number: bool = False, mono: bool = False) -> Cell:
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = (
            f"{value:.3f}" if number and abs(value) <= 1 else number_text(value) if number else f"{value:.6g}"
        )
    elif isinstance(value, int):
        text = f"{value:,}"
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return Cell(text, "number" if number else "mono" if mono or (len(text) == 64 and text.isalnum()) else "")


def number_text(value: float) -> str:
    """A number with as many digits as a reader needs."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"
