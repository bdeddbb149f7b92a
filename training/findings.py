"""What a training or an import left out, cut, guessed or took by default: the one way to warn of it.

A run carries one `Findings`. Whoever drops or guesses something adds to it; each kind is logged once, in one
line with its count and some examples, and stands in model_metadata.json and in the report. A strict run
refuses them. What isn't given the run's, like an environment that a training plays in, finds it by `of_run`.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marina.core.errors import CallError

SHOWN = 3  # examples in a line
KEPT = 20  # examples in model_metadata.json

log = logging.getLogger("marina")


@dataclass
class Finding:
    """One kind of finding: `count` of `total` things, a plural with what happened to them, and examples."""

    things: str
    happened: str
    count: int = 0
    total: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """3 of 5,100 pictures left out: damaged: a.jpg, b.jpg, c.jpg."""
        counts = f"{self.count:,} of {self.total:,} " if self.total else ""
        named = [_shortened(example) for example in self.examples[:SHOWN]]
        if named and self.count > len(named):
            named.append("…")
        return f"{counts}{self.things} {self.happened}" + (f": {', '.join(named)}" if named else "")

    def as_json(self) -> dict[str, Any]:
        """For model_metadata.json."""
        return {"finding": str(self), "count": self.count, "of": self.total, "examples": self.examples}


class Findings:
    """The findings of a run by kind, in the order in which they came up.

    `strict` turns them into a CallError when they are reported. Helper processes are `quiet`: they find the
    same as the first one.
    """

    def __init__(self, strict: bool = False, quiet: bool = False) -> None:
        self.strict, self.quiet = strict, quiet
        self._kinds: dict[tuple[str, str], Finding] = {}
        self._reported: dict[tuple[str, str], int] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._kinds.values())

    def add(self, things: str, happened: str, examples: Iterable[object], total: int = 0) -> None:
        """Count the `examples` among `total` `things`, as in ("pictures", "left out: damaged", files, 5100).

        The same kind is summed over several calls. No examples are no finding. Without a `total` there is
        one thing, which `things` names, and the examples only explain it.
        """
        named = [str(example) for example in examples]
        if not named:
            return
        kind = self._kinds.setdefault((things, happened), Finding(things, happened))
        kind.count += len(named)
        kind.total += total
        kind.examples += named[: KEPT - len(kind.examples)]

    def report(self) -> None:
        """Log what is new since the last report. Raises CallError where the run is strict."""
        fresh = [key for key, kind in self._kinds.items() if self._reported.get(key) != kind.count]
        if fresh and self.strict:
            raise CallError("strict: " + "; ".join(str(self._kinds[key]) for key in fresh))
        for key in fresh:
            self._reported[key] = self._kinds[key].count
            if not self.quiet:
                log.warning("%s", str(self._kinds[key]))

    @contextmanager
    def reported(self) -> Iterator["Findings"]:
        """Report at the end of the block. Where it fails they are logged first: they may say why."""
        try:
            yield self
        except CallError:
            self.strict, was_strict = False, self.strict
            self.report()
            self.strict = was_strict
            raise
        self.report()

    def as_json(self) -> list[dict[str, Any]]:
        """All of them, for model_metadata.json."""
        return [kind.as_json() for kind in self]


_of_run: ContextVar[Findings | None] = ContextVar("findings", default=None)
_outside_of_runs = Findings()


def of_run() -> Findings:
    """Those of the run in whose `reporting_to` this is called; elsewhere one that only logs."""
    return _of_run.get() or _outside_of_runs


@contextmanager
def reporting_to(findings: Findings) -> Iterator[None]:
    """Make `findings` those of the run inside the block."""
    token = _of_run.set(findings)
    try:
        yield
    finally:
        _of_run.reset(token)


def inside(path: Any, folder: Path) -> str:
    """`path`, also in an archive, as an example: from the name of `folder` on, where it lies in it."""
    return (
        (Path(folder.name) / path.relative_to(folder)).as_posix()
        if path.is_relative_to(folder)
        else str(path)
    )


def _shortened(example: str) -> str:
    return example if len(example) <= 120 else f"{example[:50]}…{example[-60:]}"
