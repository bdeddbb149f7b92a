"""A sound without each of its parts of time and frequency, to find those that an answer rests on."""

from collections.abc import Iterator

import numpy as np

from .sound_pictures import hann, spectrum_of

PARTS, BANDS = 24, 8
LEFT = 0.1  # of the amplitude of a part that is left out: nothing at all is what no recording has
LEAST_SECONDS = 0.03  # of a part


def without_tiles(
    waveform: np.ndarray, rate: int
) -> tuple[list[float], tuple[int, int], Iterator[np.ndarray]]:
    """The BANDS + 1 frequencies in hertz between bands (equal on the mel scale), (bands, parts), and the
    waveform float32 [T] as it is, then without each part, band by band.

    A part is taken out in the Fourier transform of half-overlapping frames, and the rest stays as it was.
    """
    parts = int(np.clip(len(waveform) / (rate * LEAST_SECONDS), 1, PARTS))
    frame = 2 * max(8, round(rate * 0.016))
    hop = frame // 2
    spectrum = spectrum_of(waveform, frame, hop)
    highest = np.log1p(rate / 2 / 700)
    edges = (700 * np.expm1(np.linspace(0, highest, BANDS + 1))).tolist()
    hertz = np.arange(frame // 2 + 1) * rate / frame
    band = np.clip(np.searchsorted(edges, hertz, side="right") - 1, 0, BANDS - 1)
    part = np.minimum(np.arange(len(spectrum)) * hop * parts // max(1, len(waveform)), parts - 1)

    def variants() -> Iterator[np.ndarray]:
        yield waveform
        for number in range(BANDS):
            for place in range(parts):
                tile = np.where((part == place)[:, None] & (band == number)[None], spectrum, 0)
                yield waveform - (1 - LEFT) * _sound_of(tile, frame, hop, len(waveform))

    return edges, (BANDS, parts), variants()


def _sound_of(spectrum: np.ndarray, frame: int, hop: int, count: int) -> np.ndarray:
    """The waveform float32 [count] of frames under a Hann window whose neighbors overlap by half, so that the
    windows add up to 1.
    """
    frames = np.fft.irfft(spectrum, frame, axis=1)
    total = np.zeros(hop * (len(frames) + 1), np.float64)
    for place in range(len(frames)):
        total[place * hop : place * hop + frame] += frames[place]
    assert np.isclose(hann(frame)[0] + hann(frame)[hop], 1)
    return total[hop : hop + count].astype(np.float32)
