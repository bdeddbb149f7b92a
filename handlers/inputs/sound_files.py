"""Files of sounds, read in blocks by libsndfile (package soundfile): which ones, and whether they are whole.

What the header says is checked before anything is read, and compared with what comes.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..protocol.errors import BadRequest, TooLarge
from .sound_containers import check_container

FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF")
WAYS = "the file of a sound (WAV, FLAC, OGG, MP3, AIFF, AU or CAF), or samples as numbers -1 to 1"
BLOCK = 65_536  # samples of all channels that are read at once
MOST_CHANNELS = 64
UNREADABLE = ("DWVW",)  # codings that the library writes, and doesn't read from memory


@contextmanager
def opened_sound(data: bytes, max_seconds: float, rates: tuple[int, int]) -> Iterator[Any]:
    """A `soundfile.SoundFile` of the bytes of a file; what its header says is within the limits.

    Raises BadRequest for what is no such file, also while the block reads from it, and TooLarge.
    """
    import soundfile

    check_container(data)
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError, ValueError, OSError) as error:
        raise BadRequest(
            f"the body is no sound that can be read, or its header is damaged; send {WAYS}"
        ) from error
    with file:
        _check_header(file, max_seconds, rates)
        try:
            yield file
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            raise BadRequest(f"the {file.format} is damaged; send a whole file") from error


def sound_blocks(file: Any) -> Iterator[np.ndarray]:
    """All samples float32 [T, channels], block by block. Raises BadRequest where fewer come than the header
    says.
    """
    count, size = 0, max(1, BLOCK // file.channels)
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        count += len(block)
        yield block
        if count == file.frames and file.format != "MP3":
            break
    # MP3 has no exact length
    if file.format != "MP3" and count < file.frames < 1 << 62:
        raise BadRequest(
            f"the {file.format} is cut off: {count:,} of {file.frames:,} samples are there; send a whole file"
        )


def _check_header(file: Any, max_seconds: float, rates: tuple[int, int]) -> None:
    """Raise a RequestError for a format, a rate, channels or a length that isn't taken."""
    if file.format not in FORMATS or file.subtype.startswith(UNREADABLE):
        raise BadRequest(f"{file.format} files of {file.subtype} aren't taken; send {WAYS}")
    if not rates[0] <= file.samplerate <= rates[1]:
        raise BadRequest(f"the sample rate is {file.samplerate} hertz; send {rates[0]:,} to {rates[1]:,}")
    if file.channels > MOST_CHANNELS:
        raise BadRequest(f"the sound has {file.channels} channels; send at most {MOST_CHANNELS}")
    if file.frames < 1 << 62 and file.frames > max_seconds * file.samplerate:
        raise TooLarge(
            f"the sound has {file.frames / file.samplerate:,.0f} seconds; send at most {max_seconds:,.0f}"
        )
