"""Makes a project: a folder with a spec to start from, a Makefile, a .gitignore and a README."""

import shutil
from pathlib import Path

from marina.core import paths
from marina.core.errors import CallError

FILES = {  # in the project -> what it is copied from
    "models/cartpole.yaml": "models/cartpole.yaml",
    "Makefile": "marina/resources/project/Makefile",
    ".gitignore": "marina/resources/project/gitignore",
    "README.md": "marina/resources/project/README.md",
}


def create(folder: Path) -> list[Path]:
    """Write the files of a new project into `folder` and return them; missing folders are made.

    Raises CallError, and writes nothing, where a file is there already.
    """
    files = [folder / name for name in FILES]
    if existing := [str(file.relative_to(folder)) for file in files if file.exists() or file.is_symlink()]:
        raise CallError(
            f"{folder} has {', '.join(existing)} already; nothing was written. Choose an empty folder, for "
            "example: marina init my-models"
        )
    for file, source in zip(files, FILES.values(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(paths.resource(source), file)
    return files
