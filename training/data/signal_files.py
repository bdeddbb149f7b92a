"""Labeled signals of a fixed rate, as files hold them.

    signals.csv, .tsv, .parquet      a row per step: series, step (may be left out), channels, label[, split]
    signals.npz                      signals [N, T, C] or [N, T], labels [N], lengths [N] (may be left out)
    NAME.ts                          as aeon, sktime and the UEA archive have them
    FOLDER/                          one such file per split: train.csv, test.csv, NAME_TRAIN.ts, NAME_TEST.ts
    FOLDER/CLASS/*.csv, .npy         or FOLDER/train/CLASS/*: a file per signal, steps [T, C] or [T]
    aeon:JapaneseVowels              what lies in the package aeon

What can't be read has a fault, and its place.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from marina.core import paths
from marina.core.errors import CallError
from training.data.picture_files import SPLITS, entries, files_below, folders, split_of
from training.data.signal_arrays import read_npy, read_npz, read_ts
from training.data.signal_tables import TABLES, Columns, RawSignal, read_one, read_table
from training.data.split_data import owners

PACKAGED = "aeon:"
FILES = (*TABLES, ".npz", ".ts")
SINGLE = (*TABLES, ".npy")  # forms of one signal
LAYOUT = """labeled signals look like one of these:

    signals.csv (.tsv, .parquet)   FOLDER/                 FOLDER/
      series,step,x,y,label        ├── walk/*.csv, *.npy   ├── train.csv (.npz, .ts)
      a,0,0.1,9.8,walk             └── run/*.csv, *.npy    └── test.csv
    signals.npz: signals, labels   (or FOLDER/train/walk/* …)"""


@dataclass(frozen=True)
class RawSignals:
    """All signals of a data set, the names of their channels, and where they are from."""

    channels: tuple[str, ...]
    signals: list[RawSignal] = field(default_factory=list)
    origin: Mapping[str, str] = field(default_factory=dict)


def read_signals(data: str, columns: Columns) -> RawSignals:
    """The signals of a file, a folder or a package. Raises CallError for what is none of these."""
    if data.startswith(PACKAGED):
        return _packaged(data)
    place = paths.expanded(data)
    origin = owners(place.name)
    if place.is_file():
        return _joined({place: ""}, columns, origin)
    if not place.is_dir():
        raise CallError(f"data {data!r}: no such file or folder; {LAYOUT}")
    files = [path for path in entries(place) if path.is_file() and path.suffix.lower() in FILES]
    if files:
        return _joined(_by_split(place, files), columns, origin)
    return _of_classes(place, columns, origin)


def _packaged(data: str) -> RawSignals:
    name = data.removeprefix(PACKAGED)
    package = importlib.util.find_spec("aeon")
    if package is None or package.origin is None:
        raise CallError(f"data {data} needs the package aeon: pip install --no-deps aeon")
    place = Path(package.origin).parent / "datasets" / "data"
    known = [one.name for one in folders(place) if (one / f"{one.name}_TRAIN.ts").is_file()]
    if name not in known:
        raise CallError(f"data {data}: the package has no such signals; it has {', '.join(known) or 'none'}")
    files = {place / name / f"{name}_TRAIN.ts": "train", place / name / f"{name}_TEST.ts": "test"}
    source = f"aeon's copy of {name} of the UEA and UCR archive (timeseriesclassification.com)"
    origin = {"name": data, "source": source, "licence": "as the archive states"}
    return _joined(files, Columns(), origin)


def _by_split(folder: Path, files: list[Path]) -> dict[Path, str]:
    """File -> the split that its name says."""
    found = {path: split_of(path.stem) or "" for path in files}
    if len(files) > 1 and not (all(found.values()) and "train" in found.values()):
        names = ", ".join(path.name for path in files[:8])
        raise CallError(
            f"{folder} has {names}; name the file to read, or give one per split: train.csv, test.csv"
        )
    return found


def _joined(files: Mapping[Path, str], columns: Columns, origin: Mapping[str, str]) -> RawSignals:
    """The signals of files that hold several each."""
    found: list[RawSignal] = []
    channels: tuple[str, ...] = ()
    for path, split in files.items():
        suffix = path.suffix.lower()
        if suffix in TABLES:
            names, signals = read_table(path, columns, split)
        elif suffix == ".npz":
            names, signals = read_npz(path, columns, split)
        elif suffix == ".ts":
            names, signals = read_ts(path, columns, split)
        else:
            raise CallError(f"data {path}: not {', '.join(FILES)}; {LAYOUT}")
        if channels and names != channels:
            raise CallError(f"{path} has the channels {', '.join(names)}, others {', '.join(channels)}")
        channels = names
        found += signals
    return RawSignals(channels, found, origin)


def _of_classes(place: Path, columns: Columns, origin: Mapping[str, str]) -> RawSignals:
    """A folder for each class, maybe below one for each split."""
    inner = folders(place)
    by_split = {folder: SPLITS[folder.name.lower()] for folder in inner if folder.name.lower() in SPLITS}
    if by_split and len(by_split) < len(inner):
        raise CallError(f"{place} has folders of splits beside others; {LAYOUT}")
    found: list[RawSignal] = []
    channels: tuple[str, ...] = ()
    for above in by_split or {place: ""}:
        for folder in folders(above):
            for path in files_below(folder):
                if path.suffix.lower() not in SINGLE:
                    continue
                read = read_npy if path.suffix.lower() == ".npy" else read_one
                names, signal = read(path, columns, path.relative_to(place).as_posix())
                if channels and names and names != channels:
                    raise CallError(
                        f"{path} has the channels {', '.join(names)}, others {', '.join(channels)}"
                    )
                channels = names or channels
                found.append(signal.labeled(folder.name, by_split.get(above, "")))
    if not found:
        raise CallError(f"{place} has no signals; {LAYOUT}")
    return RawSignals(channels, found, origin)
