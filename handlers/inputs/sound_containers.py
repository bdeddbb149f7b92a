"""Whether the file of a sound is whole, by what its container says: libsndfile takes what is there of one
that was cut off, without a word.

Sources: Microsoft's RIFF and EBU Tech 3306 (RF64), Sony's Wave64, Apple's AIFF and CAF, NeXT's AU, RFC 3533
(Ogg). Streams whose writer didn't know their length, as in a pipe, are whole.
"""

import struct
from dataclasses import dataclass

from ..protocol.errors import BadRequest

# where a mark stands, the mark, what it is of
STRANGERS = (
    (4, b"ftyp", "an MP4, MOV or M4A"),
    (8, b"AVI ", "an AVI"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM"),
    (0, b"#!AMR", "an AMR"),
    (0, b"\xff\xf1", "an AAC"),
    (0, b"\xff\xf9", "an AAC"),
    (0, b"\x30\x26\xb2\x75", "a Windows Media"),
)
NEARLY = 0x7FFF0000  # from here on, a size of 32 bits is what a writer says that doesn't know it
MOST_CHUNKS = 10_000


@dataclass(frozen=True)
class Chunks:
    """How a container lists its chunks: where the first is, bytes of a name, the form of a size, whether that
    counts the chunk's own head, what chunks begin at a multiple of, and the name of the samples'.
    """

    first: int
    name: int
    size: str
    counts_head: bool
    multiple: int
    samples: bytes


CONTAINERS = {
    b"RIFF": Chunks(12, 4, "<I", False, 2, b"data"),
    b"RIFX": Chunks(12, 4, ">I", False, 2, b"data"),
    b"FORM": Chunks(12, 4, ">I", False, 2, b"SSND"),
    b"riff": Chunks(40, 16, "<Q", True, 8, b"data"),
    b"caff": Chunks(8, 4, ">q", False, 1, b"data"),
}


def check_container(data: bytes) -> None:
    """Raise BadRequest for a file that another program must read first, and for one that is cut off."""
    for place, mark, name in STRANGERS:
        if data[place : place + len(mark)] == mark:
            raise BadRequest(
                f"{name} file can't be read here; take its sound out, as by `ffmpeg -i FILE sound.wav`"
            )
    kind = data[:4]
    try:
        if kind in CONTAINERS:
            _check_chunks(data, CONTAINERS[kind])
        elif kind == b"RF64":
            _check_size(data, data.index(b"data", 12) + 8, struct.unpack_from("<Q", data, 28)[0])
        elif kind == b".snd":
            start, size = struct.unpack_from(">II", data, 4)
            _check_size(data, start, size if size < NEARLY else 0)
        elif kind == b"OggS":
            _check_pages(data)
    except (struct.error, IndexError, ValueError):
        return  # so short, or so odd, that the library refuses it


def _check_chunks(data: bytes, form: Chunks) -> None:
    """Raise BadRequest where the chunk of the samples ends behind the file."""
    place, head = form.first, form.name + struct.calcsize(form.size)
    for _ in range(MOST_CHUNKS):
        name = data[place : place + form.name]
        (size,) = struct.unpack_from(form.size, data, place + form.name)
        size -= head if form.counts_head else 0
        if name.startswith(form.samples):
            is_known = form.size[1] != "I" or size < NEARLY
            _check_size(data, place + head, size if is_known else 0)
            return
        place += head + max(0, size)
        place += -place % form.multiple


def _check_size(data: bytes, start: int, size: int) -> None:
    """Raise BadRequest where fewer than `size` bytes stand from `start` on; 0 and less is a size unknown."""
    there = max(0, len(data) - start)
    if there < size:
        raise BadRequest(
            f"the file is cut off: {there:,} of {size:,} bytes of its samples are there; send a whole file"
        )


def _check_pages(data: bytes) -> None:
    """Raise BadRequest where the last page is not whole, or doesn't say that it is the last (flag 4)."""
    page = data.rindex(b"OggS")
    pieces = data[page + 26]
    end = page + 27 + pieces + sum(data[page + 27 : page + 27 + pieces])
    if not data[page + 5] & 4 or end > len(data) or page + 27 + pieces > len(data):
        raise BadRequest("the OGG is cut off: its last page is not there; send a whole file")
