"""Writes the best settings of a search into a spec of its own; comments and order stay."""

import re
from pathlib import Path
from typing import Any

from marina.core import paths
from marina.core.errors import CallError
from marina.core.files import write_atomic
from marina.core.spec import NAME, Spec, parse
from marina.core.yaml_edits import edited

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
    text = edit(text, settings, spec.name)
    parse(text, path.stem, str(path))
    write_atomic(path, text)


def edit(text: str, settings: dict[str, Any], name: str) -> str:
    """The YAML `text` with `settings` under its key `training`, without the section `search`."""

    def change(document: Any) -> None:
        document.pop("search", None)
        training = document["training"]
        for key, value in settings.items():
            if key in training:
                training[key] = value
            else:  # behind the last key there may be comments of the next section
                training.insert(len(training) - 1, key, value)

    first, _, rest = re.sub(r"\n{3,}", "\n\n", edited(text, change)).partition("\n")
    return f"{first}\n{MARK.format(name)}\n{rest}"
