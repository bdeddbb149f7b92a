"""Named arrays with one row per example: .npz, .safetensors, or the columns of a .csv."""

import csv
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from marina.core import paths
from marina.core.errors import CallError
from marina.core.zip_files import check_unpacked_size

FORMS = ".npz, .safetensors or .csv"
Arrays = dict[str, np.ndarray]


def load_arrays(name: str, wanted: Mapping[str, str]) -> Arrays:
    """The arrays [N, ...] of the file `name` that are `wanted` (array -> what for), N the same for all.

    Raises CallError for another file, a missing array, different N, values that are no numbers or not finite.
    """
    path = paths.expanded(name)
    if not path.is_file():
        raise CallError(f"data {name!r}: no such file; give one of named arrays, {FORMS}")
    arrays = _read(path)
    found: Arrays = {}
    for key, purpose in wanted.items():
        if key not in arrays:
            raise CallError(
                f"{path} has no array {key!r} for {purpose}; it has {', '.join(arrays) or 'none'}"
            )
        array = arrays[key]
        if array.dtype.kind not in "iufb" or array.ndim < 1:
            raise CallError(f"{path}: {key!r} must hold numbers, a row per example, not {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            rows = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))
            raise CallError(
                f"{path}: {key!r} has NaN or infinity in {len(rows):,} of {len(array):,} rows, the first "
                f"is row {rows[0]}; leave those rows out"
            )
        found[key] = array
    counts = {key: len(array) for key, array in found.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} {count:,}" for key, count in counts.items())
        raise CallError(f"{path}: the arrays have different numbers of rows: {listed}")
    if not counts or not next(iter(counts.values())):
        raise CallError(f"{path} has no rows")
    return found


def fingerprint_of(arrays: Arrays) -> str:
    """SHA-256 over names, dtypes, shapes and values, so that two runs can tell whether they saw the same."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Arrays:
    try:
        if path.suffix == ".npz":
            check_unpacked_size(path, str(path))
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix == ".csv":
            return _columns(path)
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise CallError(f"{path} can't be read as {path.suffix} ({reason}); save it again") from error
    raise CallError(f"data {path}: not {FORMS}")


def _columns(path: Path) -> Arrays:
    """Each column of numbers under its header. Raises CallError that names the first cell without one."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = list(reader)
    columns: Arrays = {}
    for index, name in enumerate(header):
        values = []
        for line, row in enumerate(rows, 2):
            try:
                values.append(float(row[index]))
            except (ValueError, IndexError):
                cell = repr(row[index]) if index < len(row) else "nothing"
                raise CallError(f"{path}, line {line}: {name} is {cell}, not a number") from None
        column = np.array(values)
        whole = bool(values) and bool((column == np.round(column)).all())
        columns[name.strip()] = column.astype(np.int64) if whole else column
    return columns
