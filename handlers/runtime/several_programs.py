"""Models of several programs, as a prompt's and a step's: the main one lies in the export itself, each
further one in a folder of its name, with its own runtime.json.
"""

from collections.abc import Generator, Sequence
from contextlib import closing

from .export import Export
from .runtimes import Runtime, usable

Choice = tuple[Runtime, dict[str, Runtime]]  # of the main program, and of the others by name


def usable_together(
    export: Export, names: Sequence[str], device: str, precision: str = "auto"
) -> Generator[Choice]:
    """The runtimes of a model that this machine has, best first; the last ones are the portable programs.

    Raises BrokenArchive as `usable` does.
    """
    runtime = None
    for runtime in usable(export, device, precision):
        yield runtime, {name: _best(export, name, device, precision) for name in names}
    if names and runtime is not None:  # one of the others may have been to blame
        yield runtime, {name: _last(export, name, device, precision) for name in names}


def _best(export: Export, name: str, device: str, precision: str) -> Runtime:
    with closing(usable(Export(export.folder / name), device, precision)) as runtimes:
        return next(runtimes)


def _last(export: Export, name: str, device: str, precision: str) -> Runtime:
    with closing(usable(Export(export.folder / name), device, precision)) as runtimes:
        return [*runtimes][-1]
