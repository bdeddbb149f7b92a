"""Parquet files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marina.core.errors import CallError


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """The file as pyarrow's ParquetFile. Raises CallError without pyarrow, and for one that can't be read,
    also while it is open.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise CallError(f"{path}: Parquet needs pyarrow: pip install 'marina[parquet]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (ArrowException, OSError) as error:
        raise CallError(f"{path} is no Parquet file, or a damaged one: {error}") from error
