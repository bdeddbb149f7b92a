"""Writes the best settings of a search into a spec of its own; comments and order stay."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.util import load_yaml_guess_indent

from marina.core import paths
from marina.core.errors import CallError
from marina.core.files import write_atomic
from marina.core.spec import NAME, Spec, parse

MARK = "# Settings found by: marina search {}"


def place(spec: Spec, name: str) -> Path:
    """The file of the spec `name`. Raises CallError where that is no name, or a file that no search wrote."""
    if not NAME.fullmatch(name) or name == spec.name:
        raise CallError(f"the best settings go into a spec of their own; {name!r} is no name for it")
    path = paths.models(spec.home) / f"{name}.yaml"
    if path.exists() and MARK.format(spec.name) not in path.read_text(encoding="utf-8"):
        raise CallError(f"{path} is there already and is not of this search; say another --best NAME")
    return path


def write(spec: Spec, settings: dict[str, Any], path: Path) -> None:
    """Write the spec of the model with these training settings, and without its search."""
    text = (paths.models(spec.home) / f"{spec.name}.yaml").read_text(encoding="utf-8")
    edited = edit(text, settings, spec.name)
    parse(edited, path.stem, str(path))
    write_atomic(path, edited)


def edit(text: str, settings: dict[str, Any], name: str) -> str:
    """The YAML `text` with `settings` under its key `training`, without the section `search`."""
    _, indent, offset = load_yaml_guess_indent(text)
    editor = YAML()
    editor.preserve_quotes, editor.width = True, 10_000
    if indent is not None:
        editor.indent(sequence=indent, offset=offset or 0)
    document = editor.load(text)
    document.pop("search", None)
    for key, value in settings.items():
        if key in document["training"]:
            document["training"][key] = value
        else:
            # behind the last key there may be comments of the next section
            document["training"].insert(len(document["training"]) - 1, key, value)
    edited = StringIO()
    editor.dump(document, edited)
    first, _, rest = re.sub(r"\n{3,}", "\n\n", edited.getvalue()).partition("\n")
    return f"{first}\n{MARK.format(name)}\n{rest}"
