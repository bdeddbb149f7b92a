"""Bodies that are no sound, or one that can't be answered: name -> (body, status, words of the refusal)."""

import io
import struct
import wave
from functools import cache

import numpy as np

from tests.support.sound_models import INPUT, RATE, file_of, tone

Bad = tuple[bytes, int, str]
TONE = tone("low")


@cache
def bad_sounds() -> dict[str, Bad]:
    """All of them, for `sound_models.INPUT`."""
    return {**_no_sounds(), **_cut_off(), **_unheard(), **_out_of_bounds()}


def _no_sounds() -> dict[str, Bad]:
    unread = "no sound that can be read"
    return {
        "nothing": (b"", 400, "the body is empty"),
        "a text": (b"hello, this is no sound at all", 400, unread),
        "a picture's beginning": (b"\x89PNG\r\n\x1a\n" + bytes(64), 400, unread),
        "a video": (b"\0\0\0\x20ftypisom" + bytes(64), 400, "MP4, MOV or M4A.*take its sound out"),
        "a WebM": (b"\x1a\x45\xdf\xa3" + bytes(64), 400, "Matroska or WebM"),
        "an AVI": (b"RIFF\x40\0\0\0AVI " + bytes(64), 400, "AVI"),
        "an AAC": (b"\xff\xf1\x50\x80" + bytes(64), 400, "AAC"),
        "a WAV's first bytes": (file_of(TONE)[:20], 400, unread),
        "a WAV of an unknown codec": (_with_codec(0x1234), 400, unread),
        "samples without a header": (TONE.tobytes(), 400, unread),
        "a format that few have": (
            file_of(TONE, form="AVR", subtype="PCM_16"),
            400,
            "AVR files of PCM_16 aren't taken",
        ),
    }


def _cut_off() -> dict[str, Bad]:
    stereo = np.stack([TONE, TONE], 1)
    forms = {**dict.fromkeys(("WAV", "OGG", "AIFF", "AU", "CAF", "W64", "RF64"), TONE), "FLAC": stereo}
    cut = {
        f"half of a {form}": (file_of(samples, form=form)[:-1200], 400, "cut off|damaged|no sound")
        for form, samples in forms.items()
    }
    header = file_of(TONE)[:44]
    return {**cut, "a header alone": (header, 400, "cut off|no samples")}


def _unheard() -> dict[str, Bad]:
    with_nan, with_infinity = TONE.copy(), TONE.copy()
    with_nan[1_000], with_infinity[2_000] = np.nan, np.inf
    opposite = np.stack([TONE, -TONE], 1)
    return {
        "no samples": (file_of(np.zeros(0, np.float32)), 400, "no samples"),
        "silence": (file_of(np.zeros(4_000, np.float32)), 400, "silent"),
        "dither alone": (file_of(np.tile([1, -1], 2_000).astype(np.int16)), 400, "silent"),
        "channels that cancel each other": (file_of(opposite), 400, "cancel each other"),
        "NaN": (file_of(with_nan, subtype="FLOAT"), 400, "0.125 seconds is not a finite number"),
        "infinity": (file_of(with_infinity, subtype="DOUBLE"), 400, "0.250 seconds is not a finite number"),
        "whole numbers as floats": (file_of(TONE * 32_768, subtype="FLOAT"), 400, "full scale of 1"),
    }


def _out_of_bounds() -> dict[str, Bad]:
    hours = np.zeros((int(INPUT.max_seconds) + 1) * 1_000, np.int16)
    return {
        "a click": (file_of(TONE[:100]), 400, "0.0125 seconds; send at least 0.025"),
        "one sample": (file_of(TONE[:1]), 400, "send at least"),
        "a rate of nothing": (_with_rate(0), 400, "no sound|sample rate"),
        "a rate of 100": (_with_rate(100), 400, "the sample rate is 100 hertz"),
        "a rate of a gigahertz": (_with_rate(1_000_000_000), 400, "the sample rate is 1000000000"),
        "a hundred channels": (file_of(np.zeros((40, 100), np.float32)), 400, "100 channels"),
        "more hours than are taken": (file_of(hours, 1_000, "FLAC"), 413, "seconds; send at"),
    }


def _with_rate(rate: int) -> bytes:
    data = bytearray(file_of(TONE))
    data[24:28] = struct.pack("<I", rate)
    return bytes(data)


def _with_codec(number: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(2_000))
    data = bytearray(buffer.getvalue())
    data[20:22] = struct.pack("<H", number)
    return bytes(data)
