"""Text and YAML that people write: read within bounds, refused with the file and the reason."""

from pathlib import Path
from typing import Any

import yaml

from marina.core.errors import CallError

LARGEST_BYTES = 10_000_000
MOST_VALUES = 100_000  # with every alias followed: a few lines can stand for billions


def read_text(path: Path) -> str:
    """The content of a file. Raises CallError for a large one and for one that is no UTF-8, and OSError."""
    with path.open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise CallError(f"{path} has more than {LARGEST_BYTES / 1e6:.0f} MB; it should be a short text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CallError(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def read_yaml(path: Path) -> Any:
    """The values in a file. Raises CallError as `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The values in `text`; `where` says where it stands. Raises CallError for what is no plain YAML."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that there is not
        reason = " ".join(str(error).split())[:300]
        raise CallError(
            f"{where} is not YAML: {reason}; text with : [ {{ & ! or * in it needs quotes"
        ) from error
    left, count = [content], 0
    while left:
        value, count = left.pop(), count + 1
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
        if count > MOST_VALUES:
            raise CallError(f"{where} has more than {MOST_VALUES:,} values, or one that holds itself")
    return content
