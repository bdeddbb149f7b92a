"""What docs/reference/refusals.md lists, to find a message there."""

import re
from functools import cache

from marina.core import paths

ROW = re.compile(r"^\| (.+) \| `\w+` \|$", re.M)


@cache
def listed() -> re.Pattern[str]:
    """Finds a message of the page inside a text; … stands for any words."""
    text = (paths.SOURCE / "docs" / "reference" / "refusals.md").read_text(encoding="utf-8")
    messages = {re.sub(r"\\(.)", r"\1", row) for row in ROW.findall(text)}
    forms = (".+?".join(map(re.escape, message.strip("…").split("…"))) for message in messages)
    return re.compile("|".join(f"(?:{form})" for form in forms), re.S)


def is_listed(message: str) -> bool:
    """Whether the page has this refusal."""
    return listed().search(" ".join(message.split())) is not None
