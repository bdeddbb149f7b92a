"""Labeled sounds as folders and tables list them.

FOLDER/CLASS/*.wav               or FOLDER/train/CLASS/*.wav: a folder per class
labels.csv, .tsv, .parquet       path,label[,split][,speaker], beside the files or above them
FOLDER/train.csv, test.csv       a table per split
7_jackson_32.wav, …              any folder whose files' names say it: pattern {label}_{group}_{}.wav
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marina.core import paths
from marina.core.errors import CallError
from training.data.label_table import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    SUFFIXES,
    cell_text,
    tables_by_split,
    tables_in,
)
from training.data.parquet import parquet_file
from training.data.picture_files import SPLITS, PictureFinder, files_below, folders
from training.data.splits import ALL
from training.findings import Findings, inside

SOUNDS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".w64", ".rf64"),
)
# names of columns as data sets have them, the first one that is there counts
SOUND_COLUMNS = ("audio", "audio_path", "sound", "wav", "clip", *PATH_COLUMNS)
GROUP_COLUMNS = ("speaker", "speaker_id", "client_id", "singer", "patient", "group", "session", "recording")
FIELD = re.compile(r"\{(\w*)\}")
FIELDS = ("label", "group", "split")
LAYOUT = """labeled sounds look like one of these:

    FOLDER/              FOLDER/                       FOLDER/
    ├── dog/*.wav        ├── labels.csv                ├── 7_jackson_32.wav
    └── rain/*.flac        path,label,split,speaker    └── 8_theo_0.wav
    (or FOLDER/train/    └── clips/*.mp3               (with pattern: "{label}_{group}_{}.wav")
    dog/*.wav …)           (split and speaker may be left out)"""


@dataclass(frozen=True)
class SoundRow:
    """A file with its class, the split that the data says (ALL for none), the group that stays in one split
    (empty for none), and where it stands.
    """

    path: Path
    label: str
    split: str
    group: str
    place: str

    @property
    def stratum(self) -> str:
        """Its class, which splits are drawn evenly by."""
        return self.label


@dataclass(frozen=True)
class Naming:
    """What columns are called, None for the usual names, and the pattern of files' names, None for none."""

    label: str | None = None
    group: str | None = None
    pattern: str | None = None


def list_sounds(data: str, naming: Naming, findings: Findings) -> list[SoundRow]:
    """All sounds that are listed; what has no file or no class goes to the `findings`. Raises CallError for
    what is none of the layouts.
    """
    place = paths.expanded(data)
    if not place.exists():
        raise CallError(f"data {data!r}: no such file or folder; {LAYOUT}")
    if naming.pattern is not None:
        rows = _by_names(place, naming.pattern, findings)
    elif place.is_file() or tables_in(place):
        rows = _of_tables(place, naming, findings)
    else:
        rows = _of_classes(place, findings)
    if not rows:
        raise CallError(f"{place} has no sounds; {LAYOUT}")
    return rows


def _by_names(place: Path, pattern: str, findings: Findings) -> list[SoundRow]:
    """Files whose names say their class."""
    expression = pattern_of(pattern)
    rows, strangers, count = [], [], 0
    for path in files_below(place) if place.is_dir() else ():
        if path.suffix.lower() not in SOUNDS:
            continue
        count += 1
        found = expression.fullmatch(path.name)
        said = found.groupdict() if found else {}
        split = SPLITS.get(said.get("split", "").lower(), ALL) if "split" in said else ALL
        if not found or ("split" in said and split == ALL):
            strangers.append(inside(path, place))
            continue
        relative = path.relative_to(place).as_posix()
        rows.append(SoundRow(path, said["label"], split, said.get("group", ""), relative))
    findings.add("sounds", f"left out: their names aren't like {pattern}", strangers, count)
    return rows


def pattern_of(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern like {label}_{group}_{}.wav. Raises CallError for one without a
    label, and for unknown fields.
    """
    named = [name for name in FIELD.findall(pattern) if name]
    if unknown := sorted(set(named) - set(FIELDS)):
        raise CallError(
            f"pattern {pattern!r}: no field {{{unknown[0]}}}; known: {{label}}, {{group}}, {{split}}, {{}}"
        )
    if named.count("label") != 1 or len(set(named)) < len(named):
        raise CallError(f"pattern {pattern!r} must have {{label}} once, and every other field once at most")
    parts = FIELD.split(pattern)
    texts = [re.escape(part) for part in parts[::2]]
    fields = [f"(?P<{name}>.+?)" if name else ".+?" for name in parts[1::2]]
    return re.compile("".join(text + field for text, field in zip(texts, [*fields, ""], strict=True)))


def _of_classes(place: Path, findings: Findings) -> list[SoundRow]:
    """A folder for each class, maybe below one for each split."""
    inner = folders(place)
    by_split = {folder: SPLITS[folder.name.lower()] for folder in inner if folder.name.lower() in SPLITS}
    if by_split and len(by_split) < len(inner):
        raise CallError(f"{place} has folders of splits beside others; {LAYOUT}")
    rows, strangers = [], []
    for above, split in (by_split or {place: ALL}).items():
        for folder in folders(above):
            for path in files_below(folder):
                if path.suffix.lower() in SOUNDS:
                    relative = path.relative_to(place).as_posix()
                    rows.append(SoundRow(path, folder.name, split, "", relative))
                else:
                    strangers.append(inside(path, place))
    findings.add("files", "left out: no sounds", strangers, len(rows) + len(strangers))
    return rows


def _of_tables(place: Path, naming: Naming, findings: Findings) -> list[SoundRow]:
    """The files that tables name."""
    folder = place if place.is_dir() else place.parent
    finder = PictureFinder(folder, (folder,), SOUNDS)
    rows: list[SoundRow] = []
    lost: dict[str, list[str]] = {"no file or no class is given": [], "there is no such file": []}
    unknown, count = [], 0
    for of_table, table in tables_by_split(place).items():
        for name, label, split, group in _cells(table, naming):
            count += 1
            if not name or not label:
                lost["no file or no class is given"].append(name or "a row without a file")
                continue
            given = SPLITS.get(split.lower()) if split else of_table or ALL
            if given is None:
                unknown.append(f"{name}: {split}")
                continue
            path = _found(finder, name, given)
            if path is None:
                lost["there is no such file"].append(name)
                continue
            rows.append(SoundRow(path, label, given, group, path.relative_to(folder).as_posix()))
    for why, names in lost.items():
        findings.add("sounds", f"left out: {why}", names, count)
    findings.add("sounds", "left out: an unknown split", unknown, count)
    findings.add("sounds", "found under another name than the table gives", finder.elsewhere, count)
    return _once(rows, findings)


def _found(finder: PictureFinder, name: str, split: str) -> Path | None:
    """Where `name` lies, also if it lacks its ending."""
    known = None if split == ALL else split
    if Path(name).suffix.lower() in SOUNDS:
        return finder.find(name, known)
    return next((path for ending in SOUNDS if (path := finder.find(name + ending, known))), None)


def _once(rows: Sequence[SoundRow], findings: Findings) -> list[SoundRow]:
    """Each file once; one with two classes is left out."""
    labels: dict[Path, set[str]] = {}
    for row in rows:
        labels.setdefault(row.path, set()).add(row.label)
    several = [path for path, names in labels.items() if len(names) > 1]
    findings.add(
        "sounds", "left out: named twice, with other classes", [one.name for one in several], len(rows)
    )
    first = {row.path: row for row in reversed(rows) if len(labels[row.path]) == 1}
    return [row for row in rows if first.get(row.path) is row]


def _cells(table: Path, naming: Naming) -> Iterator[tuple[str, str, str, str]]:
    """Path, class, split and group of each row, empty where there is none."""
    if table.suffix.lower() not in SUFFIXES:
        raise CallError(f"data {table}: not {', '.join(SUFFIXES)}; {LAYOUT}")
    if table.suffix.lower() == ".parquet":
        with parquet_file(table) as file:
            columns = _columns(table, file.schema_arrow.names, naming)
            chosen = [name for name in columns if name]
            content = file.read(columns=list(dict.fromkeys(chosen))).to_pylist()
    else:
        content = _text_rows(table)
        columns = _columns(table, list(content[0]) if content else [], naming)
    for row in content:
        path, label, split, group = (cell_text(row.get(name)) if name else "" for name in columns)
        yield path, label, split, group


def _text_rows(table: Path) -> list[Mapping[str, Any]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        delimiter = "\t" if table.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
        return [{str(name).strip(): value for name, value in row.items()} for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise CallError(f"{table} can't be read: {error}; {LAYOUT}") from error


def _columns(table: Path, head: Sequence[str], naming: Naming) -> list[str]:
    """The columns of path, class, split and group, empty for one that isn't there. Raises CallError."""
    lower = {name.lower(): name for name in head}

    def column(said: str | None, usual: Sequence[str]) -> str:
        if said is not None:
            if said not in head:
                raise CallError(f"{table} has no column {said!r}; it has {', '.join(map(repr, head[:12]))}")
            return said
        return next((lower[name] for name in usual if name in lower), "")

    label, group = column(naming.label, LABEL_COLUMNS), column(naming.group, GROUP_COLUMNS)
    path, split = column(None, SOUND_COLUMNS), column(None, SPLIT_COLUMNS)
    if not path or not label or path == label:
        said = ", ".join(map(repr, head[:12])) or "none"
        raise CallError(
            f"{table} has the columns {said}; call those of the files 'path' and of the classes 'label', or "
            f"say label: NAME; {LAYOUT}"
        )
    return [path, label, split, group]
