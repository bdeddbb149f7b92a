"""The page "When it refuses": every error that the code raises with words of its own, read from the source.

A message says what to do instead, so the code is the one place where a refusal and its remedy are written.
"""

import ast
import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from handlers.protocol import errors as served
from marina.core import errors as tool
from marina.core import paths

NOTE = "\n<!-- Written by docs/reference/generate.py from the code; `make reference` renews it. -->\n"
INTRO = """# When it refuses

Every refusal of a command and of a served model, with what to do instead; `…` stands for the names and
numbers of the case. [Errors and exit codes](errors.md) explains the classes.

"""
ROOMS = ("marina", "training", "handlers")
LEAST_WORDS = 4  # fewer are no message of its own, but one that is passed on


@dataclass(frozen=True)
class Refusal:
    """One `raise`: where it stands, the class, and its message with … in the place of values."""

    room: str
    error: str
    message: str


def refusals_page() -> str:
    """The classes, and a table of messages for each room."""
    found = list(refusals())
    rooms = sorted(
        {refusal.room for refusal in found}, key=lambda room: (ROOMS.index(room.split(".")[0]), room)
    )
    parts = [INTRO, _classes()]
    for room in rooms:
        rows = [f"| {each.message} | `{each.error}` |\n" for each in found if each.room == room]
        parts.append(f"## {_title(room)}\n\n| message | error |\n|---|---|\n{''.join(dict.fromkeys(rows))}\n")
    return "".join(parts).rstrip() + "\n" + NOTE


def refusals() -> Iterator[Refusal]:
    """Every refusal in the source."""
    names = {error.__name__ for error in (*_subclasses(tool.MarinaError), *_subclasses(served.RequestError))}
    for root in ROOMS:
        for file in sorted((paths.SOURCE / root).rglob("*.py")):
            parts = file.relative_to(paths.SOURCE).with_suffix("").parts
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node, texts in _calls(tree, _texts(tree.body, {})):
                if not (isinstance(node.func, ast.Name) and node.func.id in names and node.args):
                    continue
                message = " ".join(_message(node.args[0], texts).split())
                if len(message.replace("…", "").split()) >= LEAST_WORDS:
                    room = ".".join(parts[:2] if len(parts) > 2 else parts[:1])
                    yield Refusal(room, node.func.id, _escaped(message))


def _calls(scope: ast.AST, texts: dict[str, str]) -> Iterator[tuple[ast.Call, dict[str, str]]]:
    """Every call below, with the texts that names stand for there."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Call):
            yield node, texts
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _calls(node, {**texts, **_texts(ast.walk(node), texts)} if is_function else texts)


def _texts(nodes: Iterable[ast.AST], known: dict[str, str]) -> dict[str, str]:
    """Name -> text, of the names that get one text and nothing else."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(_message(node.value, known))
    return {name: texts[0] for name, texts in found.items() if len(texts) == 1}


def _message(node: ast.expr, texts: dict[str, str]) -> str:
    """The words of an expression that is a text."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return "".join(_message(value, texts) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _message(node.left, texts) + _message(node.right, texts)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return texts.get(node.value.id, "…")
    return texts.get(node.id, "…") if isinstance(node, ast.Name) else "…"


def _escaped(text: str) -> str:
    """As it stands in a table."""
    for sign in ("\\", "|", "*", "_", "<", "`", "[", "{"):
        text = text.replace(sign, f"\\{sign}")
    return text


def _classes() -> str:
    rows = []
    for base in (tool.MarinaError, served.RequestError):
        for error in _subclasses(base):
            code = f"exit {error.exit_code}" if base is tool.MarinaError else f"HTTP {int(error.status)}"
            summary = " ".join((inspect.getdoc(error) or "").split("\n\n")[0].split())
            rows.append(f"| `{error.__name__}` | {code} | {summary} |\n")
    return f"| error | | meaning |\n|---|---|---|\n{''.join(rows)}\n"


def _subclasses(base: type) -> list[type]:
    return [base, *(each for child in base.__subclasses__() for each in _subclasses(child))]


def _title(room: str) -> str:
    summary = (inspect.getdoc(importlib.import_module(room)) or room).split("\n")[0].rstrip(".:")
    return f"`{room.replace('.', '/')}`: {_escaped(summary[:1].lower() + summary[1:])}"
