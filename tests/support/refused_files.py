"""Files of data that can't be learned from, and that they are refused with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from marina.core.errors import CallError


def check_refusal(path: Path, content: str, words: str, load: Callable[[Path], Any]) -> None:
    """A file of this content is refused by `load` in these `words`, a pattern."""
    path.write_text(content)
    with pytest.raises(CallError, match=words):
        load(path)
