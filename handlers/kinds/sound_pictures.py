"""A sound as a picture: its spectrogram over time and frequency, with heat laid over it, in Pillow and numpy
alone.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 34  # margins, for the scales
RANGE = 70.0  # decibels below the loudest place that are told apart
# inferno (Smith and van der Walt 2015), dark to light
INK = np.array([(0, 0, 4), (61, 9, 101), (136, 34, 106), (203, 65, 73), (247, 125, 21), (252, 255, 164)])
HOT, COLD = np.array((0, 220, 190)), np.array((255, 255, 255))  # for and against the class
OPAQUE = 0.75
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


def spectrum_of(waveform: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """The discrete Fourier transform of Hann-windowed frames centered on multiples of `hop`: complex64
    [frames, frame // 2 + 1].
    """
    padded = np.pad(waveform, (frame // 2, frame // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[: len(waveform) + 1 : hop]
    return np.fft.rfft(frames * hann(frame), axis=1).astype(np.complex64)


def hann(frame: int) -> np.ndarray:
    """The periodic Hann window, float32."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)).astype(np.float32)


def spectrogram(
    waveform: np.ndarray,
    rate: int,
    start: float = 0.0,
    heat: np.ndarray | None = None,
    edges: Sequence[float] = (),
) -> Image.Image:
    """The power of a waveform float32 [T] over time and frequency, in decibels, with scales in seconds (from
    `start` on) and kilohertz.

    `heat` is [bands, parts] of equal parts of the time, negative where it speaks against; `edges` are the
    bands + 1 frequencies in hertz between its bands, from low to high.
    """
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    frame = max(16, 2 * round(rate * 0.016))
    hop = max(1, min(frame // 4, len(waveform) // 64 or 1))
    hop = max(hop, len(waveform) // (2 * width))
    levels = 20 * np.log10(np.abs(spectrum_of(waveform, frame, hop)) + 1e-9)
    shares = np.clip((levels - levels.max()) / RANGE + 1, 0, 1).T[::-1]
    picture = Image.fromarray((shares * 255).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    steps = np.linspace(0, 255, len(INK))
    colors = np.stack([np.interp(np.asarray(picture), steps, channel) for channel in INK.T], axis=-1)
    if heat is not None:
        colors = _heated(colors, heat, edges, rate)
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    sheet.paste(Image.fromarray(colors.astype(np.uint8)), (LEFT, TOP))
    _scales(sheet, len(waveform) / rate, start, rate)
    return sheet


def _heated(colors: np.ndarray, heat: np.ndarray, edges: Sequence[float], rate: int) -> np.ndarray:
    """The picture, gray, with each cell of `heat` laid over it."""
    height, width = colors.shape[:2]
    strongest = float(np.abs(heat).max()) or 1.0
    hertz = (np.arange(height)[::-1] + 0.5) / height * rate / 2
    band = np.clip(np.searchsorted(edges, hertz, side="right") - 1, 0, len(heat) - 1)
    part = np.minimum(np.arange(width) * heat.shape[1] // width, heat.shape[1] - 1)
    cells = heat[band][:, part] / strongest
    gray = np.repeat(colors.mean(2, keepdims=True), 3, axis=2)
    tint = np.where(cells[..., None] >= 0, HOT, COLD)
    opacity = OPAQUE * np.clip(np.where(cells >= 0, cells, -0.4 * cells), 0, 1)[..., None]
    mixed: np.ndarray = gray * (1 - opacity) + tint * opacity
    return mixed


def _scales(sheet: Image.Image, seconds: float, start: float, rate: int) -> None:
    """Seconds below, kilohertz at the side."""
    pen, letters = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM
    step = next((tick for tick in TICKS if seconds / tick <= 8), TICKS[-1])
    for number in range(int(seconds / step) + 1):
        place = LEFT + (right - LEFT) * number * step / seconds
        pen.line((place, low, place, low + 4), fill="black")
        pen.text((place, low + 6), f"{start + number * step:.4g}", fill="black", font=letters, anchor="ma")
    pen.text((right, HEIGHT - 2), "seconds", fill="black", font=letters, anchor="rd")
    top = rate / 2000
    step = next((tick for tick in TICKS if top / tick <= 5), TICKS[-1])
    for number in range(int(top / step) + 1):
        place = low - (low - TOP) * number * step / top
        pen.line((LEFT - 4, place, LEFT, place), fill="black")
        pen.text((LEFT - 7, place), f"{number * step:g}", fill="black", font=letters, anchor="rm")
    pen.text((2, TOP), "kHz", fill="black", font=letters, anchor="la")
