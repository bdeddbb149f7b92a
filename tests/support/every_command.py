"""All commands of the application, those of groups too."""

from typing import Any

import typer

from marina import cli


def _leaves(group: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, command in group.commands.items():
        found |= _leaves(command, f"{name} ") if hasattr(command, "commands") else {prefix + name: command}
    return found


COMMANDS = _leaves(typer.main.get_command(cli.app))  # "bench serve" -> the command
