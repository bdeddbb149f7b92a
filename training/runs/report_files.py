"""Files of a report that its page shows: figures as JSON, and tables with their title and a word on them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_table(path: Path, title: str, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of the report."""
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"title": title, "text": text, "rows": rows})


def write_json(path: Path, content: Any) -> None:
    """A file of the report."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
