"""Labeled sounds in three splits: checked as serving checks them, copies and groups kept together.

Samples stay in memory up to KEPT_BYTES; what is beyond is read from its file whenever it is needed, so that a
data set may be larger than the memory.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handlers.inputs.sounds import SoundInput, read_sound
from handlers.protocol.errors import RequestError
from marina.core import paths
from marina.core.errors import CallError
from training.data.class_order import class_order
from training.data.copies import SPLITS as SPLIT_NAMES
from training.data.near_texts import Groups
from training.data.sound_rows import SoundRow
from training.data.splits import ALL, check_labels, check_splits, report_copies, split_rows
from training.findings import Findings

LEAST = 5  # sounds of a class
KEPT_BYTES = 2 << 30  # of samples, float32
CLIPPED = 0.001  # share of a sound's samples from which on it is a finding
MOST_FILE_BYTES = 1 << 31


@dataclass(frozen=True)
class SoundFile:
    """What the header of a sound's file says."""

    row: SoundRow
    rate: int
    seconds: float


@dataclass(frozen=True)
class Sound:
    """A sound of a data set: its file, the index of its class, where it stands, its group, how many samples
    it has at the graph's rate, and those samples float32 [T] where they are kept.
    """

    path: Path
    label: int
    place: str
    group: str
    samples: int
    config: SoundInput
    kept: np.ndarray | None = None

    def part(self, start: int, count: int) -> np.ndarray:
        """Samples from `start` on, float32 [count, or less at the end]."""
        if self.kept is not None:
            return self.kept[start : start + count]
        return part_of_file(self.path, self.config.sample_rate, start, count)


@dataclass(frozen=True)
class SoundData:
    """A data set in three splits. `test` is used to measure the floor, and only for that."""

    classes: tuple[str, ...]
    train: Sequence[Sound]
    validation: Sequence[Sound]
    test: Sequence[Sound]
    splits: str  # how they came about
    origin: Mapping[str, str]  # name, source, licence
    digest: str

    def about(self) -> dict[str, Any]:
        """Name, counts and fingerprint, for the export's metadata."""
        hours = sum(
            one.samples / one.config.sample_rate for split in SPLIT_NAMES for one in getattr(self, split)
        )
        return {
            **self.origin,
            **{split: len(getattr(self, split)) for split in SPLIT_NAMES},
            "hours": round(hours / 3600, 3),
            "splits": self.splits,
            "fingerprint": self.digest,
        }


class _Read(NamedTuple):
    """A sound that can be learned from, where it stands, its split and its class."""

    row: SoundRow
    samples: int
    digest: str
    kept: np.ndarray | None
    place: str
    split: str
    stratum: str


def headers_of(rows: Sequence[SoundRow], findings: Findings) -> list[SoundFile]:
    """Rate and seconds of each file whose header can be read; the others go to the `findings`. Raises
    CallError without the package soundfile, and where none can be read.
    """
    try:
        import soundfile
        import soxr  # noqa: F401
    except (ImportError, OSError) as error:
        raise CallError("sounds need the packages soundfile and soxr: pip install 'marina[audio]'") from error
    found, faults = [], []
    for row in rows:
        try:
            header = soundfile.info(row.path)
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            faults.append(f"{row.place}: {str(error).split(': ')[-1][:60]}")
            continue
        found.append(SoundFile(row, header.samplerate, header.duration))
    findings.add("sounds", "left out: can't be read", faults, len(rows))
    if not found:
        raise CallError(f"none of {len(rows):,} sounds can be read; {faults[0]}")
    return found


def split_sounds(
    files: Sequence[SoundFile],
    config: SoundInput,
    data: str,
    seed: int,
    held_out: Sequence[str],
    findings: Findings,
) -> SoundData:
    """The sounds that serving would take, in splits.

    What it would refuse is left out and goes to the `findings`, as do copies. Splits that the data lacks are
    drawn by `seed`, 15 % each, class by class, groups whole. `held_out` names the groups of the test split;
    validation is then drawn from all others' sounds. Raises CallError for fewer than two classes, for one of
    too few sounds, for a split without sounds, and for groups that aren't there.
    """
    place = paths.expanded(data)
    rows = _sound_rows(files, config, findings)
    check_labels(place, rows, "sound", LEAST)
    if held_out:
        rows = _held_out(rows, held_out, place)
    groups = Groups(len(rows))
    groups.join_equal([row.digest for row in rows])
    copies = {row.place: groups.first(number) for number, row in enumerate(rows)}
    if not held_out:
        groups.join_equal([row.row.group for row in rows])
    together = {row.place: groups.first(number) for number, row in enumerate(rows)}
    splits, words = split_rows(rows, together, seed, place, "sounds")
    if held_out:
        words = f"test: {', '.join(held_out)}; {words}"
    elif any(row.row.group for row in rows):
        words += ", groups whole"
    report_copies(splits, copies, lambda row: row.row.label, "sounds", findings)
    classes = class_order(row.row.label for row in splits["train"])
    check_splits(place, splits, classes, "sound")
    train, validation, test = (_sounds(splits[name], classes, config) for name in SPLIT_NAMES)
    return SoundData(classes, train, validation, test, words, _origin(place), _digest_of(splits))


def foreign_sounds(
    files: Sequence[SoundFile], config: SoundInput, classes: Sequence[str], data: str, findings: Findings
) -> list[Sound]:
    """Sounds to measure a model of these `classes` on, of data that it didn't learn from: the split test,
    else all of it. Raises CallError for a label that it lacks, and for no sounds.
    """
    rows = _sound_rows(files, config, findings)
    given = {row.split for row in rows}
    split = next((name for name in ("test", "validation", ALL, "train") if name in given), ALL)
    rows = [row for row in rows if row.split == split]
    if unknown := sorted({row.row.label for row in rows} - set(classes)):
        raise CallError(
            f"{data} has the label(s) {', '.join(unknown[:5])}; the model knows {', '.join(classes[:5])}"
        )
    if not rows:
        raise CallError(f"{data} has no sounds to measure with")
    return _sounds(rows, classes, config)


def part_of_file(path: Path, rate: int, start: int, count: int) -> np.ndarray:
    """Samples of a long file at `rate`, without reading what is before them: float32 [count, or less at the
    end].
    """
    import soundfile
    import soxr

    with soundfile.SoundFile(path) as file:
        file.seek(min(file.frames, round(start * file.samplerate / rate)))
        block = file.read(-(-count * file.samplerate // rate), dtype="float32", always_2d=True)
        samples: np.ndarray = soxr.resample(block.mean(1), file.samplerate, rate, quality="HQ")
    return samples[:count]


def _sound_rows(files: Sequence[SoundFile], config: SoundInput, findings: Findings) -> list[_Read]:
    """The sounds without a fault."""
    faults: dict[str, list[str]] = defaultdict(list)
    clipped, narrow, kept, room = [], [], [], KEPT_BYTES
    for file in files:
        row = file.row
        try:
            if row.path.stat().st_size > min(config.max_bytes, MOST_FILE_BYTES):
                raise CallError(f"more than {config.max_bytes:,} bytes; cut it into several files")
            sound = read_sound(row.path.read_bytes(), config)
        except (RequestError, CallError, OSError) as error:
            faults["serving would refuse them"].append(f"{row.place}: {error}")
            continue
        if sound.clipped > CLIPPED:
            clipped.append(f"{row.place}: {sound.clipped:.2%}")
        if file.rate < config.sample_rate:
            narrow.append(f"{row.place}: {file.rate} hertz")
        samples = round(sound.seconds * config.sample_rate) if sound.waveform is None else len(sound.waveform)
        content = sound.data if sound.waveform is None else sound.waveform.tobytes()
        waveform = sound.waveform if sound.waveform is not None and sound.waveform.nbytes <= room else None
        room -= waveform.nbytes if waveform is not None else 0
        digest = hashlib.sha256(content).hexdigest()
        kept.append(_Read(row, samples, digest, waveform, row.place, row.split, row.label))
    for fault, places in faults.items():
        findings.add("sounds", f"left out: {fault}", places, len(files))
    findings.add("sounds", "are clipped: recorded too loud", clipped, len(files))
    above = f"have a lower rate than {config.sample_rate:,} hertz, so that their high frequencies are empty"
    findings.add("sounds", above, narrow, len(files))
    return kept


def _held_out(rows: Sequence[_Read], held_out: Sequence[str], place: Path) -> list[_Read]:
    """The same with the split test for the sounds of these groups, which none of the others may have."""
    groups = sorted({row.row.group for row in rows if row.row.group})
    if unknown := sorted(set(held_out) - set(groups)):
        listed = ", ".join(groups[:8]) or "none; name their column: group, or write a pattern with {group}"
        raise CallError(f"held_out: {place} has no group {unknown[0]!r}; it has {listed}")
    changed = []
    for row in rows:
        split = "test" if row.row.group in held_out else "train"
        changed.append(row._replace(row=replace(row.row, split=split), split=split))
    return changed


def _sounds(rows: Sequence[_Read], classes: Sequence[str], config: SoundInput) -> list[Sound]:
    index = {name: number for number, name in enumerate(classes)}
    return [
        Sound(one.row.path, index[one.row.label], one.place, one.row.group, one.samples, config, one.kept)
        for one in rows
    ]


def _origin(place: Path) -> dict[str, str]:
    return {"name": place.name, "source": "the owner's", "licence": "the owner's"}


def _digest_of(splits: Mapping[str, Sequence[_Read]]) -> str:
    digest = hashlib.sha256()
    for split in SPLIT_NAMES:
        for one in splits[split]:
            digest.update(f"{split}\0{one.row.label}\0{one.digest}\n".encode())
    return digest.hexdigest()
