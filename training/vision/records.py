"""What a recipe of pictures learns from, prepared once: in memory where it is small, else read from disk
batch by batch.

Records that fit into `Storage.memory_bytes` are held in memory. Larger ones are prepared when they are first
needed and kept in a `RecordCache`; batches are read ahead in threads, AHEAD_BYTES at most. The memory that
learning takes is so the same whatever the size of the data, and the results are those of data in memory.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import PIL
import torch
from pydantic import Field
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from handlers.protocol.errors import RequestError
from handlers.runtime.machine import usable_cores
from marina.core.errors import CallError
from marina.core.spec import Section
from training.data import Example, fingerprint
from training.findings import Findings
from training.vision.record_cache import RecordCache

AHEAD_BYTES = 128 << 20  # of batches that are read before they are needed
MOST_THREADS = 16
STEP = 32  # records that are read together where all are

Record = dict[str, Tensor]
Steps = Iterable[Sequence[int]]
Item = TypeVar("Item")
Stream = Generator[Item, None, None]


@dataclass(frozen=True)
class Storage:
    """How many bytes of a split's records lie in memory, and how many of all records on disk."""

    memory_bytes: int = 500_000_000
    cache_bytes: int = 32_000_000_000
    # gets the records that can't be read, which are replaced by others; None: the first one is a CallError
    findings: Findings | None = None

    def holds(self, records: "Records") -> bool:
        """Whether they fit into memory."""
        return len(records) * records.record_bytes <= self.memory_bytes


class StorageSettings(Section):
    """How much of the prepared pictures lies in memory and on disk."""

    memory_gb: float = Field(
        default=0.5, ge=0, description="a split whose pictures take more is read from disk, batch by batch"
    )
    cache_gb: float = Field(
        default=32.0, ge=0, description="most that prepared pictures and features may take on disk; 0: none"
    )
    full_fingerprint: bool = Field(
        default=False,
        description="read all of the data for its fingerprint, where it is over 1 GB too",
    )

    def storage(self, findings: Findings | None = None) -> Storage:
        """Where prepared pictures lie; with `findings` those that can't be read are replaced by others."""
        return Storage(int(self.memory_gb * 1e9), int(self.cache_gb * 1e9), findings)


UNCACHED = Storage(cache_bytes=0)


def name_of(example: Example, row: int) -> str:
    """The file, or the row of pixels that are in no file."""
    return str(example.file) if example.file else f"picture {row}"


@dataclass
class Records:
    """`count` records of up to `record_bytes`: from `cache`, or made by `make(row)` and kept there.

    `name(row)` is the file for messages. `make` may raise RequestError or OSError for a damaged one.
    """

    count: int
    record_bytes: int
    make: Callable[[int], Record]
    name: Callable[[int], str]
    cache: RecordCache | None = None
    findings: Findings | None = None
    left_out: dict[int, str] = field(default_factory=dict)  # row -> why it could not be read

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> Record:
        """One record. Raises CallError where it can't be read."""
        try:
            return self._read(row)
        except (RequestError, OSError) as error:
            raise CallError(self._unreadable(row, error)) from error

    def _read(self, row: int) -> Record:
        found = self.cache.get(row) if self.cache else None
        if found is None:
            found = self.make(row)
            if self.cache:
                self.cache.put(row, found)
        return found

    def all(self, title: str, quiet: bool = False) -> Iterator[tuple[int, Record]]:
        """All of them in order with their rows, behind a progress bar; else as `ahead`."""
        steps = [range(start, min(start + STEP, self.count)) for start in range(0, self.count, STEP)]
        read = (pair for rows, records in self.ahead(steps) for pair in zip(rows, records, strict=True))
        yield from track(read, title, total=self.count, transient=True, disable=quiet)

    def _unreadable(self, row: int, why: object) -> str:
        return f"{self.name(row)} can't be read: {why}; take it out of the data"

    def _result(self, row: int, made: "Future[Record]") -> Record:
        try:
            return made.result()
        except (RequestError, OSError) as error:
            raise CallError(self._unreadable(row, error)) from error

    def ahead(self, steps: Steps) -> Iterator[tuple[list[int], list[Record]]]:
        """For each step its rows and their records, read ahead.

        The place of a record that can't be read is taken by another of its step; at the end the `findings`
        report them. Raises CallError where a step has no other, or there are no findings.
        """
        known = dict(self.left_out)
        with closing(self._futures(steps)) as read:
            for step in read:
                good = [(row, made.result()) for row, made in step if not self._fails(row, made)]
                if not good or (self.findings is None and len(good) < len(step)):
                    row = next(row for row, _ in step if row in self.left_out)
                    raise CallError(self._unreadable(row, self.left_out[row]))
                filled = [good[k % len(good)] for k in range(len(step))]
                yield [row for row, _ in filled], [record for _, record in filled]
        if self.findings is not None:
            self._report(known, self.findings)

    def _report(self, known: dict[int, str], findings: Findings) -> None:
        """Add to the findings what is not `known` to them."""
        for why in dict.fromkeys(self.left_out.values()):
            rows = [row for row in self.left_out if self.left_out[row] == why and row not in known]
            total = 0 if why in known.values() else self.count
            findings.add("pictures", f"left out: {why}", map(self.name, rows), total)
        findings.report()

    def _fails(self, row: int, made: "Future[Record]") -> bool:
        error = made.exception()
        if error is None:
            return False
        if not isinstance(error, RequestError | OSError):
            raise error
        self.left_out[row] = str(error).partition(";")[0]
        return True

    def _futures(self, steps: Steps) -> Stream[list[tuple[int, "Future[Record]"]]]:
        """The rows of each step with what will be read, submitted some steps before."""
        waiting: deque[list[tuple[int, Future[Record]]]] = deque()
        held = 0
        pool = ThreadPoolExecutor(min(usable_cores(), MOST_THREADS), "records")
        try:
            for rows in steps:
                waiting.append([(row, pool.submit(self._read, row)) for row in rows])
                held += len(rows) * self.record_bytes
                while held > AHEAD_BYTES and len(waiting) > 1:
                    step = waiting.popleft()
                    held -= len(step) * self.record_bytes
                    yield step
            yield from waiting
        finally:
            pool.shutdown(cancel_futures=True)


def example_records(
    examples: Sequence[Example],
    make: Callable[[int], Record],
    record_bytes: int,
    key: list[Any],
    storage: Storage,
    folder: str = "pictures",
) -> Records:
    """The records that `make` makes of `examples`; `key` is what they depend on beside them.

    They are kept on disk where examples are files, or too many for memory.
    """
    records = Records(len(examples), record_bytes, make, lambda row: name_of(examples[row], row))
    records.findings = storage.findings
    reads_files = any(example.file is not None for example in examples)
    if storage.cache_bytes and (reads_files or not storage.holds(records)):
        said = [fingerprint(examples), PIL.__version__, *key]
        records.cache = RecordCache(folder, said, len(examples), record_bytes, storage.cache_bytes)
    return records


class Column:
    """One field of records, indexed like a tensor whose first dimension are the rows."""

    def __init__(self, records: Records, name: str, rows: range | None = None) -> None:
        self.records, self.name = records, name
        self.rows = range(len(records)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Tensor:
        """Raises CallError where one can't be read."""
        if isinstance(rows, int):
            return self.records.read(self.rows[rows])[self.name]
        wanted = self.rows[rows] if isinstance(rows, slice) else [self.rows[row] for row in rows]
        with closing(self.records._futures([wanted])) as read:
            return torch.stack([self.records._result(*pair)[self.name] for pair in next(read)])

    def part(self, first: int, every: int) -> "Column":
        """Every `every`-th row from `first` on."""
        return Column(self.records, self.name, self.rows[first::every])

    def ahead(self, steps: Steps) -> Iterator[tuple[list[int], Tensor]]:
        """As `Records.ahead`, of this field alone."""
        for rows, records in self.records.ahead([self.rows[row] for row in step] for step in steps):
            yield (
                [self.rows.index(row) for row in rows],
                torch.stack([record[self.name] for record in records]),
            )


class LaterTensor:
    """A tensor of `count` rows that is made when rows of it are first needed: what is measured on after an
    epoch does not delay the first step.
    """

    def __init__(self, make: Callable[[], Tensor], count: int) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Any) -> Tensor:
        """What `make` raises where the tensor can't be made."""
        return self._tensor[rows]

    @cached_property
    def _tensor(self) -> Tensor:
        return self.make()


class ColumnDataset(Dataset[tuple[Tensor, ...]]):
    """What `TensorDataset` is for tensors, for a column or later tensor and the tensors beside it."""

    def __init__(self, column: Column | LaterTensor, *others: Tensor) -> None:
        self.tensors: tuple[Any, ...] = (column, *others)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: Any) -> tuple[Tensor, ...]:
        return tuple(each[rows] for each in self.tensors)


Rows = TensorDataset | ColumnDataset


def read_ahead(data: Rows, steps: Steps) -> Stream[Sequence[Tensor]]:
    """What `data` has at the rows of each step, read ahead where it lies on disk."""
    first, *others = data.tensors
    if isinstance(first, Column):
        for rows, read in first.ahead(steps):
            yield [read, *(each[rows] for each in others)]
    else:
        for step in steps:
            yield [each[step] for each in data.tensors]


def part_of(data: Rows, first: int, every: int) -> Rows:
    """Every `every`-th row from `first` on."""
    if every == 1 and not first:
        return data
    column, *others = data.tensors
    rest = [each[first::every] for each in others]
    if isinstance(column, Column):
        return ColumnDataset(column.part(first, every), *rest)
    return TensorDataset(column[first::every], *rest)
