"""Reads every file of a data set once, before anything is learned: is it sound, how large, which are copies.

The limits are those of serving: what a server would refuse is not learned from.
"""

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import ExifTags, Image
from rich.progress import track

from handlers.inputs.image_files import FORMATS
from handlers.inputs.images import open_image
from handlers.protocol.errors import RequestError, TooLarge
from handlers.runtime.machine import usable_cores
from training.data.limits import Limits
from training.data.packed_files import DataFile
from training.findings import Findings, inside

SAMPLE_BYTES = 4096
JPEG_END = b"\xff\xd9"
File = TypeVar("File", Path, DataFile)
PART = 16  # files that a thread reads before it hands them on
MOST_INSPECTED = 10_000  # files that are all decoded before training


@dataclass(frozen=True)
class Inspected:
    """What is wrong with a file (empty: nothing), the digest of its content, and of a picture its width and
    height as it is shown, its EXIF orientation (1..8) and its brightest value (0..255).
    """

    fault: str = ""
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    brightest: int = 255


DARK = 15  # of 255: masks taken for pictures, or values in another scale
SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap width and height
Inspect = Callable[[Any, Limits], Inspected]  # of a `DataFile`


def inspect_picture(path: DataFile, limits: Limits) -> Inspected:
    """Decode one picture. A fault is the same text for all files that have it."""
    try:
        if path.stat().st_size > limits.max_bytes:
            return Inspected(f"above {limits.max_bytes:,} bytes, training.max_bytes")
        data = path.read_bytes()
        image = open_image(
            data,
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            value_range=limits.value_range,
        )
    except TooLarge:
        return Inspected(f"above {limits.max_pixels:,} pixels, training.max_pixels")
    except RequestError as error:
        return Inspected(reason(error))
    except OSError as error:
        return Inspected(error.strerror.lower() if error.strerror else "can't be read")
    brightest = max(high for _, high in image.getextrema())  # type: ignore[misc]
    return Inspected("", digest_of(data), image.size, _orientation(data, image.size), int(brightest))


def inspect_ends(path: DataFile, limits: Limits) -> Inspected:
    """As `inspect_picture`, but what is a whole JPEG by its header and its last bytes is not decoded, which
    takes a thirtieth of the time: for data of which there is much.
    """
    with suppress(Exception):  # Pillow doesn't say what it raises; decoding says what is wrong
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            is_whole = image.format == "JPEG" and content.endswith(JPEG_END)
            fits = len(content) <= limits.max_bytes and image.width * image.height <= limits.max_pixels
            if is_whole and fits:
                return Inspected("", digest_of(content), image.size)
    return inspect_picture(path, limits)


def shown_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown, by its header; (1, 1) where that can't be read."""
    try:
        with Image.open(path) as image:
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in SIDEWAYS
            turned = turned and image.format != "TIFF"  # its size is upright already
            return image.size[::-1] if turned else image.size
    except Exception:  # Pillow doesn't say what it raises; the inspection says what is wrong
        return 1, 1


def inspect_sample(path: DataFile, limits: Limits) -> Inspected:
    """A file, or a folder of frames, by its size and SAMPLE_BYTES in its middle, for data of which not all is
    read before training; what is damaged is found later.
    """
    digest, size = hashlib.blake2b(digest_size=16), 0
    try:
        for part in sorted(path.iterdir()) if isinstance(path, Path) and path.is_dir() else [path]:
            size, content = _size_and_middle(part)
            digest.update(f"{size} ".encode() + content)
    except OSError as error:
        return Inspected(error.strerror.lower() if error.strerror else "can't be read")
    if size > limits.max_bytes:
        return Inspected(f"above {limits.max_bytes:,} bytes, training.max_bytes")
    return Inspected(digest=digest.digest())


def _size_and_middle(file: DataFile) -> tuple[int, bytes]:
    """The size of a file, and SAMPLE_BYTES in its middle. The system's own calls are faster than `open`."""
    if not isinstance(file, Path):
        start = max(0, file.size - SAMPLE_BYTES) // 2
        middle = replace(file, offset=file.offset + start, size=min(SAMPLE_BYTES, file.size))
        return file.size, middle.read_bytes()
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        return size, os.pread(descriptor, SAMPLE_BYTES, max(0, size - SAMPLE_BYTES) // 2)
    finally:
        os.close(descriptor)


def inspect_header(path: Path, limits: Limits) -> Inspected:
    """As `inspect_sample`, with the size of a picture and how it is turned by its header: for data of which
    there is much, whose boxes and outlines need them. What has no such header is decoded.
    """
    sampled = inspect_sample(path, limits)
    if sampled.fault:
        return sampled
    with suppress(Exception), Image.open(path, formats=FORMATS) as image:  # decoding says what is wrong
        turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        turn = turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
        # a TIFF's size is upright already
        is_turned = turn in SIDEWAYS and image.format != "TIFF"
        size = image.size[::-1] if is_turned else image.size
        if image.width * image.height <= limits.max_pixels:
            return replace(sampled, size=size, orientation=turn)
    return inspect_picture(path, limits)


def reason(error: RequestError) -> str:
    """What is wrong with a file, without what a sender should do instead."""
    text = str(error).partition(";")[0].replace("the body", "the file")
    return "values beyond what is white, training.value_range" if "has values from" in text else text


def digest_of(content: bytes) -> bytes:
    """What byte-equal contents share."""
    return hashlib.blake2b(content, digest_size=16).digest()


def inspect_all(files: Iterable[File], limits: Limits, inspect: Inspect) -> dict[File, Inspected]:
    """Every file with what was found in it, read in threads behind a progress bar."""
    unique = list(dict.fromkeys(files))
    parts = [unique[start : start + PART] for start in range(0, len(unique), PART)]
    pool = ThreadPoolExecutor(max(2, usable_cores()))
    try:
        found = pool.map(lambda part: [inspect(file, limits) for file in part], parts)
        results = (inspected for part in found for inspected in part)
        tracked = track(results, "looking for damage", total=len(unique), transient=True)
        return dict(zip(unique, tracked, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def report_faults(inspected: Mapping[File, Inspected], things: str, folder: Path, findings: Findings) -> None:
    """A finding for each fault that some of the files have, and one on those that are nearly black."""
    faults: dict[str, list[str]] = defaultdict(list)
    for file, found in inspected.items():
        if found.fault:
            faults[found.fault].append(inside(file, folder))
    for fault, files in faults.items():
        findings.add(things, f"left out: {fault}", files, len(inspected))
    dark = [inside(file, folder) for file, found in inspected.items() if found.brightest <= DARK]
    findings.add(things, f"are nearly black: no value above {DARK} of 255", dark, len(inspected))


def _orientation(data: bytes, shown: tuple[int, int]) -> int:
    """By which the picture was turned to be `shown` in this size; 1 where it wasn't."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # the class's own method: a PNG's would decode the picture
            value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
            stored = image.size
            # a TIFF's size is upright already; another picture of the same size was read without its EXIF
            if image.format != "TIFF" and value in SIDEWAYS and stored == shown and stored != stored[::-1]:
                return 1
    except Exception:  # Pillow doesn't say what it raises at broken EXIF, which is as none
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
