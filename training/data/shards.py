"""WebDataset: tar files whose members of one name belong together, `0001.jpg` and `0001.cls`
(github.com/webdataset/webdataset).

The tar files are not unpacked: their headers are read once, and pictures from where they lie. Compressed ones
have no places to read from and are refused.
"""

import json
import tarfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

from marina.core.errors import CallError
from training.data.labeled_files import PICTURES, Files, Listing, Things
from training.data.packed_files import PackedFile
from training.data.picture_files import SPLITS, entries, folders, is_leftover, split_of
from training.findings import Findings

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LABELS = (".cls", ".json", ".txt")  # in this order, the first that is there
MOST_LABEL_BYTES = 1 << 20
CLASSES = "classes.txt"
LAYOUT = """WebDataset shards look like this:

    FOLDER/                      train-000000.tar
    ├── classes.txt                0001.jpg
    ├── train-000000.tar           0001.cls    (3, or a class's name; or 0001.json: {"label": 3})
    ├── train-000001.tar           0002.jpg
    ├── val-000000.tar             0002.cls
    └── test-000000.tar
    (classes.txt, a name per line, may be left out; so may val, test, and train in the names)"""


def shards_in(folder: Path) -> list[tuple[str, Path]]:
    """(split, "all" for none; shard) of the tar files in `folder` and in its folders train/, val/ …"""
    found = []
    inner = [(SPLITS[path.name.lower()], path) for path in folders(folder) if path.name.lower() in SPLITS]
    for split, place in [(None, folder), *inner]:
        files = [path for path in entries(place) if path.name.lower().endswith((".tar", *COMPRESSED))]
        found += [(split or split_of(path.stem) or "all", path) for path in files]
    return found


def listing_of(place: Path, findings: Findings, things: Things = PICTURES) -> Listing:
    """The pictures of a shard, or of the shards of a folder. Those without a label, or with one that can't be
    read, go to the `findings`. Raises CallError for a shard that can't be read.
    """
    shards = [("all", place)] if place.is_file() else shards_in(place)
    if any(split == "train" for split, _ in shards):
        ignored = [path.name for split, path in shards if split == "all"]
        findings.add("shards", "are not read: their names say no split", ignored, len(shards))
        shards = [shard for shard in shards if shard[0] != "all"]
    names = _class_names(place if place.is_dir() else place.parent)
    splits: dict[str, Files] = defaultdict(lambda: defaultdict(list))
    bare, unknown, count = [], [], 0
    for split, path in shards:
        pictures, labels = _members(path, things)
        count += len(pictures)
        for key, picture in pictures.items():
            label = _label(labels[key]) if key in labels else ""
            if not label:
                bare.append(str(picture))
            elif (name := _name(label, names)) is None:
                unknown.append(f"{picture}: {label}")
            else:
                splits[split][name].append(picture)
    findings.add(things.name, f"left out: no {' or '.join(LABELS)} says their class", bare, count)
    findings.add(things.name, f"left out: {CLASSES} has no such class", unknown, count)
    return Listing(place, {split: dict(files) for split, files in splits.items()}, LAYOUT, names or None)


def _members(shard: Path, things: Things) -> tuple[dict[str, PackedFile], dict[str, PackedFile]]:
    """Pictures and labels by the key that both have. Raises CallError for what is no plain tar file."""
    if shard.name.lower().endswith(COMPRESSED):
        raise CallError(f"{shard} is compressed, so that no picture can be read alone; unpack it to a .tar")
    pictures: dict[str, PackedFile] = {}
    labels: dict[str, PackedFile] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isfile() or is_leftover(path.name):
                    continue
                file = PackedFile(shard, member.name, member.offset_data, member.size)
                key, suffix = _key(path)
                if suffix in things.suffixes:
                    pictures.setdefault(key, file)
                elif suffix in LABELS:
                    rank = LABELS.index(suffix)
                    if key not in labels or rank < LABELS.index(labels[key].suffix.lower()):
                        labels[key] = file
                archive.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory
    except (OSError, tarfile.TarError, EOFError) as error:
        raise CallError(f"{shard} is no tar file that can be read: {error}; {LAYOUT}") from error
    return pictures, labels


def _key(path: PurePosixPath) -> tuple[str, str]:
    """What members of one sample share, up to the first dot of the file's name; and the last suffix."""
    return f"{path.parent}/{path.name.split('.', 1)[0]}", path.suffix.lower()


def _label(file: PackedFile) -> str:
    """The label that a file says; empty where it says none."""
    if file.size > MOST_LABEL_BYTES:
        return ""
    try:
        text = file.read_bytes().decode("utf-8-sig").strip()
        if file.suffix.lower() == ".json":
            content = json.loads(text)
            value = content.get("label", content.get("cls", "")) if isinstance(content, dict) else content
            return str(value).strip() if isinstance(value, str | int) else ""
    except (OSError, ValueError, RecursionError):
        return ""
    return text if len(text.splitlines()) == 1 else ""


def _class_names(folder: Path) -> tuple[str, ...]:
    """The lines of classes.txt; empty where there is none. Raises CallError where it can't be read."""
    path = folder / CLASSES
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise CallError(f"{path} can't be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _name(label: str, names: tuple[str, ...]) -> str | None:
    """The class that a label means; None for one that `names` lack."""
    if not names or label in names:
        return label
    return names[int(label)] if label.isdecimal() and int(label) < len(names) else None
