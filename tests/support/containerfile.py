"""What deploy/Containerfile says, stage by stage."""

import re
import shutil
from pathlib import Path

from marina.core import paths

CONTAINERFILE = (paths.SOURCE / "deploy" / "Containerfile").read_text(encoding="utf-8")
STAGES = {
    name: re.sub(r"\\\n\s*", "", text)
    for name, text in re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM |\Z)", CONTAINERFILE, re.M | re.S)
}


def instructions(stage: str, name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", STAGES[stage], re.MULTILINE)


def copied(stage: str) -> dict[str, str]:
    """What a stage copies out of the repository: source -> destination."""
    found = {}
    for line in instructions(stage, "COPY"):
        *sources, destination = line.split()
        if not sources[0].startswith("--from"):
            found.update(dict.fromkeys(sources, destination))
    return found


def copy_image(stage: str, tree: Path) -> None:
    """What the image of a stage has under /opt/marina."""
    for source, destination in copied(stage).items():
        if destination.startswith("/opt/marina"):
            inside = (
                tree
                / Path(destination).relative_to("/opt/marina")
                / ("" if Path(destination).name == source else source)
            )
            inside.parent.mkdir(parents=True, exist_ok=True)
            hidden = shutil.ignore_patterns("__pycache__")
            if (paths.SOURCE / source).is_dir():
                shutil.copytree(paths.SOURCE / source, inside, ignore=hidden)
            else:
                shutil.copy(paths.SOURCE / source, inside)
