"""Writes the reference pages that come from the code: commands, spec, recipes, refusals and limits.

    .venv/bin/python docs/reference/generate.py             # `make docs` and `make reference` run it
    .venv/bin/python docs/reference/generate.py --check     # exit code 1 if a page is not current

The sources are the commands' help, the fields of the pydantic models and the errors that the code raises. A
test runs the check.
"""

import importlib
import inspect
import json
import pkgutil
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

import annotated_types
import typer
from limits import limits_page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from refusals import NOTE, refusals_page
from typer.core import TyperArgument, TyperGroup, TyperOption

from marina import cli
from marina.core.spec import Spec
from training import recipes

FOLDER = Path(__file__).parent
PLURALS = {"whole number": "whole numbers", "number": "numbers", "section": "sections", "text": "texts"}
WORDS = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    dict: "mapping",
    Path: "path",
}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def main() -> None:
    """Write the pages, or compare them with --check."""
    pages = {"commands.md": commands_page(), "spec.md": spec_page(), "recipes.md": recipes_page()}
    pages |= {"refusals.md": refusals_page(), "limits.md": limits_page()}
    stale = [name for name, text in pages.items() if _text_of(FOLDER / name) != text]
    if "--check" not in sys.argv:
        for name in stale:
            (FOLDER / name).write_text(pages[name], encoding="utf-8")
    elif stale:
        sys.exit(f"not current: docs/reference/{', docs/reference/'.join(stale)}; run: make reference")


def commands_page() -> str:
    """All commands, by the panels of `marina --help`."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    panels: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        panel = getattr(command, "rich_help_panel", None)
        panels.setdefault(panel if isinstance(panel, str) else "Other", []).append(_command(name, command))
    intro = (
        "# Commands\n\n"
        "`marina COMMAND --help` prints the same. A command exits with 0 when it is done, 1 when the work\n"
        "failed and 2 when the call was wrong ([errors](errors.md)).\n\n"
    )
    parts = [f"## {panel}\n\n{''.join(texts)}" for panel, texts in panels.items()]
    return intro + "".join(parts).rstrip() + "\n" + NOTE


def spec_page() -> str:
    """The sections of models/NAME.yaml."""
    intro = (
        "# The spec\n\n"
        "`models/NAME.yaml` declares one model. Its first line is a comment that says what the model is; "
        "the\n"
        "file's name is the model's name. An unknown key is refused, with the known ones. The settings of a\n"
        "recipe are under `training`, beside `recipe` and `seed`: see [recipes](recipes.md).\n\n"
    )
    return intro + _sections(Spec, "Top level", "").rstrip() + "\n" + NOTE


def recipes_page() -> str:
    """The settings of every recipe, under `training` of a spec."""
    intro = (
        "# Recipes\n\n"
        "A spec names one of these under `training.recipe`. Each setting has the default that is shown; a "
        "spec\n"
        "says what differs, and `--set training.KEY=VALUE` overrides both.\n\n"
    )
    parts = []
    for module_info in pkgutil.iter_modules(recipes.__path__):
        module = importlib.import_module(f"training.recipes.{module_info.name}")
        if hasattr(module, "Settings"):
            summary = f"{_paragraph(inspect.getdoc(module) or '')}\n\n"
            metrics = ", ".join(f"`{name}`" for name in getattr(module, "METRICS", ()))
            summary += f"Metrics for the floor: {metrics}.\n\n" if metrics else ""
            parts.append(
                _sections(module.Settings, f"`{module_info.name}`", summary, prefix=module_info.name)
            )
    return intro + "".join(parts).rstrip() + "\n" + NOTE


def _command(name: str, command: Any, prefix: str = "marina") -> str:
    if isinstance(command, TyperGroup):
        inner = "".join(_command(each, inner, f"{prefix} {name}") for each, inner in command.commands.items())
        return f"### `{prefix} {name}`\n\n{_paragraph(command.help or '')}\n\n{inner}"
    arguments = [parameter for parameter in command.params if isinstance(parameter, TyperArgument)]
    options = [parameter for parameter in command.params if isinstance(parameter, TyperOption)]
    usage = " ".join([prefix, name, *map(_metavar, arguments), *(["[OPTIONS]"] if options else [])])
    rows = [
        (f"`{_metavar(each)}`", _escaped(getattr(each, "help", None) or ""), _default(each), "")
        for each in arguments
    ]
    rows += [
        (f"`{', '.join(each.opts)}`", _escaped(each.help or ""), _default(each), _limits(each))
        for each in options
        if each.name != "help"
    ]
    table = _table(("", "meaning", "default", "values"), rows) if rows else ""
    return f"### `{prefix} {name}`\n\n{_paragraph(command.help or '')}\n\n    {usage}\n\n{table}"


def _metavar(argument: Any) -> str:
    name = (argument.metavar or (argument.name or "").upper()) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value in (None, False, "", [], ()) or callable(value) or parameter.required else f"`{value}`"


def _limits(option: TyperOption) -> str:
    return f"{option.min} to {option.max}" if option.min is not None else ""


def _sections(model: type[BaseModel], title: str, text: str, prefix: str = "", level: int = 2) -> str:
    """A heading, a table of the fields, and the same for the models that fields hold."""
    rows, inner = [], []
    for name, field in model.model_fields.items():
        if model is Spec and name in ("name", "about"):
            continue
        key = field.alias or name
        nested = next(iter(_models_in(field.annotation)), None)
        meaning = _escaped(field.description or "") or (
            _paragraph(inspect.getdoc(nested) or "") if nested else ""
        )
        rows.append((f"`{key}`", meaning, _field_default(field, nested), _values(field)))
        if nested:
            inner_title = f"`{prefix}.{key}`" if prefix else f"`{key}`"
            inner_text = f"{_paragraph(inspect.getdoc(nested) or '')}\n\n"
            inner.append(
                _sections(nested, inner_title, inner_text, f"{prefix}.{key}".lstrip("."), level + (level < 3))
            )
    table = _table(("key", "meaning", "default", "values"), rows)
    return f"{'#' * level} {title}\n\n{text}{table}{''.join(inner)}"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _field_default(field: FieldInfo, nested: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in (None, PydanticUndefined) or (nested and isinstance(value, BaseModel)):
        return ""
    return f"`{json.dumps(value, default=str)}`"


def _values(field: FieldInfo) -> str:
    limits = [
        f"{SIGNS[name]}\u00a0{getattr(limit, name)}"
        for limit in field.metadata
        if isinstance(
            limit, annotated_types.Ge | annotated_types.Gt | annotated_types.Le | annotated_types.Lt
        )
        for name in SIGNS
        if hasattr(limit, name)
    ]
    return ", ".join([_kind(field.annotation), *limits])


def _kind(annotation: Any) -> str:
    """A type in words: `tuple[float, ...]` is a list of numbers."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(part) for part in parts if part is not type(None))
    if origin in (tuple, list):
        many = PLURALS.get(_kind(parts[0]), _kind(parts[0]))
        return f"list of {many}" if parts[-1] is ... or origin is list else f"{len(parts)} {many}"
    if origin is typing.Annotated:
        return _kind(parts[0])
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    return WORDS.get(origin or annotation, "any")


def _paragraph(text: str) -> str:
    """The first paragraph, on one line."""
    return _escaped(re.sub(r"\s+", " ", inspect.cleandoc(text).split("\n\n")[0]).strip())


def _escaped(text: str) -> str:
    """`text` with the characters that Markdown and tables would read as markup, except in code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [part if part.startswith("`") else re.sub(r"([<*_])", r"\\\1", part) for part in parts]
    return "".join(plain)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    lines = [[columns[index] for index in kept], ["---"] * len(kept)]
    lines += [[row[index].replace("|", "\\|").replace("\n", " ") for index in kept] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    main()
