"""Changes of a YAML file that somebody wrote: comments, order and indentation stay."""

from collections.abc import Callable
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.util import load_yaml_guess_indent


def edited(text: str, change: Callable[[Any], None]) -> str:
    """The YAML `text` after `change` of its document, a mapping of ruamel.yaml."""
    _, indent, offset = load_yaml_guess_indent(text)
    editor = YAML()
    editor.preserve_quotes, editor.width = True, 10_000
    if indent is not None:
        editor.indent(sequence=indent, offset=offset or 0)
    document = editor.load(text)
    change(document)
    file = StringIO()
    editor.dump(document, file)
    return file.getvalue()
