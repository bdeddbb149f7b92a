"""The folder that an export is built in, beside its final place, and what a killed process left of one."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marina.core.scratch import claimed, locked_folder
from marina.core.spec import Spec

log = logging.getLogger("marina")


@contextmanager
def staging_folder(spec: Spec) -> Iterator[Path]:
    """A folder beside the export's, to be moved to its place; otherwise it is removed at the end.

    Leftovers are removed first (see `marina.core.scratch`).
    """
    parent = spec.export_dir.parent
    parent.mkdir(parents=True, exist_ok=True)
    if removed := remove_leftovers(parent):
        log.warning("%s: removed what a killed export left: %s", spec.name, ", ".join(removed))
    with locked_folder(f".{spec.version}-", parent) as folder:
        folder.chmod(0o755)  # mkdtemp keeps it private, an export is for everybody who may read the tree
        yield folder


def remove_leftovers(parent: Path) -> list[str]:
    """Remove the unfinished exports of processes that are gone, and return their names.

    A finished export that was set aside for one that never came returns to its place.
    """
    removed = []
    for folder in sorted(parent.glob(".*-*")):
        staging = folder.with_name(folder.name.removesuffix(".old"))
        with claimed(staging if staging.exists() else folder) as is_left:
            if not is_left:
                continue
            target = parent / folder.name[1:].rpartition("-")[0]
            if folder != staging and not target.exists():
                folder.rename(target)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
    return removed
