"""Sounds: a file, or samples as numbers -> one channel at the graph's rate -> windows that the graph hears.

The one way of both sides, as `inputs.images` is for pictures. A file is read in blocks by libsndfile (package
soundfile) and resampled block by block (package soxr), so that hours of sound need no more memory than their
file; limits are checked by the header first.

preprocess_config.json:

    {"type": "sound", "sample_rate": 8000, "window": 16000, "hop": 8000, "minimum": 400, "silence": "refuse"}

`window`, `hop` and `minimum` are samples at that rate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..protocol.errors import BadRequest, TooLarge
from .payloads import numbers_of
from .sound_files import WAYS, opened_sound, sound_blocks

LISTENED = 120  # seconds that are kept as samples; a longer file is read a second time instead
SILENT = 2 / 32_768  # largest sample of a sound in which nothing is: what dither makes of zeros at 16 bits
LOUDEST = 8.0  # of float samples, whose full scale is 1; above, they are whole numbers in disguise
FULL = 0.9999 * 32_767 / 32_768  # a sample is clipped from here on
CANCELED = 1e-3  # share of the channels' power that is left in their mean where they cancel each other
RATES = (1_000, 768_000)  # hertz


@dataclass(frozen=True)
class SoundInput:
    """How sounds are read; `max_bytes` of a file."""

    sample_rate: int
    window: int
    hop: int
    minimum: int
    silence: Literal["refuse", "answer"] = "refuse"
    max_bytes: int = 200_000_000
    max_seconds: float = 4 * 3600.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SoundInput":
        """Of preprocess_config.json."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})

    def as_config(self) -> dict[str, Any]:
        """The content of preprocess_config.json."""
        return {"type": "sound", "input": "audio", **asdict(self)}

    def starts(self, samples: int) -> Iterator[int]:
        """Where the windows of a sound begin: every `hop`, and one that ends where the sound does."""
        yield from range(0, max(1, samples - self.window + 1), self.hop)
        if samples > self.window and (samples - self.window) % self.hop:
            yield samples - self.window


class Meter:
    """What is measured of a sound while it is read: whether it is one, and how loud."""

    def __init__(self) -> None:
        self.frames, self.clipped = 0, 0
        self.peak, self.power, self.power_of_mean = 0.0, 0.0, 0.0

    def add(self, block: np.ndarray, mean: np.ndarray, rate: int) -> None:
        """A block float32 [T, channels] and its mean float32 [T]. Raises BadRequest for NaN and infinity."""
        peak = max(float(block.max()), -float(block.min()))
        if not np.isfinite(peak):
            place = self.frames + int(np.argmax(~np.isfinite(block).all(1)))
            raise BadRequest(
                f"the sample at {place / rate:.3f} seconds is not a finite number; send finite ones, -1 to 1"
            )
        self.peak = max(self.peak, peak)
        self.clipped += int((np.abs(block) >= FULL).any(1).sum()) if peak >= FULL else 0
        self.frames += len(block)
        channels = block.shape[1]
        of_mean = float(np.vdot(mean, mean))
        self.power += of_mean if channels == 1 else float(np.vdot(block, block)) / channels
        self.power_of_mean += of_mean

    def check(self, config: SoundInput, rate: int) -> None:
        """Raise BadRequest for a sound that is none."""
        if not self.frames:
            raise BadRequest(f"the sound has no samples; send {WAYS}")
        seconds, least = self.frames / rate, config.minimum / config.sample_rate
        if seconds < least:
            raise BadRequest(f"the sound has {seconds:.4g} seconds; send at least {least:.4g}")
        if self.peak > LOUDEST:
            raise BadRequest(
                f"the samples reach {self.peak:.6g}; float samples have a full scale of 1: divide by 32768 "
                "what was a whole number of 16 bits"
            )
        if config.silence == "answer":
            return
        if self.peak <= SILENT:
            raise BadRequest("the sound is silent; send one in which something is heard")
        if self.power_of_mean < CANCELED * self.power:
            raise BadRequest("the channels cancel each other, so that their mean is silent; send one of them")


@dataclass(frozen=True)
class Sound:
    """A sound that was read and checked: its samples float32 [T] at the graph's rate, or the file of a long
    one; how many seconds it has, and the share of its samples that are clipped.
    """

    config: SoundInput
    seconds: float
    clipped: float
    waveform: np.ndarray | None
    data: bytes = b""

    @property
    def is_long(self) -> bool:
        """Whether it has more than one window."""
        return self.waveform is None or len(self.waveform) > self.config.window

    def windows(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first sample, float32 [samples of a window]) from the beginning to the end; of a sound that is no
        longer than a window, itself.
        """
        if self.waveform is not None:
            for start in self.config.starts(len(self.waveform)):
                yield start, self.waveform[start : start + self.config.window]
            return
        yield from _windows(resampled_blocks(self.data, self.config, Meter()), self.config)


def read_sound(payload: Any, config: SoundInput, rate: int | None = None) -> Sound:
    """The sound in the bytes of a file, or in numbers: samples -1 to 1 of one channel at `rate` hertz, by
    default the graph's.

    Raises BadRequest, and TooLarge above the limits.
    """
    if isinstance(payload, bytes):
        return _of_file(payload, config, rate)
    samples = _numbers(payload, config, rate or config.sample_rate)
    meter = Meter()
    rate = rate or config.sample_rate
    if len(samples):
        meter.add(samples[:, None], samples, rate)
    meter.check(config, rate)
    waveform = np.concatenate([*_resampled(iter([samples]), rate, config.sample_rate)])
    return Sound(config, len(samples) / rate, meter.clipped / meter.frames, waveform)


def resampled_blocks(data: bytes, config: SoundInput, meter: Meter) -> Iterator[np.ndarray]:
    """The mean of a file's channels at the graph's rate, block by block: float32 [T], whatever T; what is
    read goes to `meter`.
    """
    with opened_sound(data, config.max_seconds, RATES) as file:
        yield from _resampled(_measured(file, config, meter), file.samplerate, config.sample_rate)


def _of_file(data: bytes, config: SoundInput, rate: int | None) -> Sound:
    if not data:
        raise BadRequest(f"the body is empty; send {WAYS}")
    if len(data) > config.max_bytes:
        raise TooLarge(f"the sound has {len(data):,} bytes; send at most {config.max_bytes:,}")
    meter = Meter()
    with opened_sound(data, config.max_seconds, RATES) as file:
        if rate is not None and rate != file.samplerate:
            raise BadRequest(
                f"sample_rate is {rate}, the file says {file.samplerate}; leave the option out with a file"
            )
        is_kept = 0 < file.frames <= LISTENED * file.samplerate
        blocks = _measured(file, config, meter)
        parts = [*_resampled(blocks, file.samplerate, config.sample_rate)] if is_kept else []
        for _ in blocks:  # of a long one: all of it is checked before any of it is answered
            pass
        meter.check(config, file.samplerate)
        seconds = meter.frames / file.samplerate
    waveform = np.concatenate(parts) if parts else None
    if waveform is None and seconds <= LISTENED:  # its header doesn't say how long it is
        waveform = np.concatenate([*resampled_blocks(data, config, Meter())])
    return Sound(
        config, seconds, meter.clipped / meter.frames, waveform, b"" if waveform is not None else data
    )


def _measured(file: Any, config: SoundInput, meter: Meter) -> Iterator[np.ndarray]:
    """The mean of the channels, block by block."""
    for block in sound_blocks(file):
        mean = block[:, 0] if block.shape[1] == 1 else block.mean(1)
        meter.add(block, mean, file.samplerate)
        if meter.frames > config.max_seconds * file.samplerate:
            raise TooLarge(f"the sound has more than {config.max_seconds:,.0f} seconds; send at most so many")
        yield mean


def _resampled(blocks: Iterator[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    """The same at `wanted` hertz. Raises NotSupported without the package soxr."""
    if rate == wanted:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
    for block in blocks:
        if len(part := stream.resample_chunk(np.ascontiguousarray(block))):
            yield part
    if len(part := stream.resample_chunk(np.empty(0, np.float32), last=True)):
        yield part


def _windows(blocks: Iterator[np.ndarray], config: SoundInput) -> Iterator[tuple[int, np.ndarray]]:
    """As `Sound.windows`, of blocks: no more is kept than a window and a block."""
    kept, first, behind = (
        np.empty(0, np.float32),
        0,
        0,
    )  # `first` is kept[0]'s place, `behind` the next start's
    for block in blocks:
        kept = np.concatenate([kept, block])
        while first + len(kept) >= behind + config.window:
            yield behind, kept[behind - first : behind - first + config.window]
            behind += config.hop
        # the last window may begin anywhere behind the one that was given
        drop = min(max(0, len(kept) - config.window), max(0, behind - first))
        kept, first = kept[drop:], first + drop
    end = first + len(kept)
    if end < config.window:
        yield 0, kept
    elif (end - config.window) % config.hop:
        yield end - config.window, kept[-config.window :]


def _numbers(payload: Any, config: SoundInput, rate: int) -> np.ndarray:
    """Samples as numbers: float32 [T]."""
    if not isinstance(payload, list | np.ndarray):
        raise BadRequest(f"send {WAYS}")
    shape = np.shape(payload) if isinstance(payload, np.ndarray) else (len(payload),)
    if len(shape) != 1:
        raise BadRequest(f"samples have the shape {list(shape)}; send one channel, a number for each sample")
    most = int(config.max_seconds * rate)
    if shape[0] > most:
        raise TooLarge(f"the sound has {shape[0]:,} samples; send at most {most:,}")
    numbers = numbers_of(payload, shape, "audio")
    is_integer = isinstance(payload, np.ndarray) and payload.dtype.kind in "iu"
    if is_integer:
        raise BadRequest("samples must be floats, -1 to 1; divide whole numbers of 16 bits by 32768")
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)
