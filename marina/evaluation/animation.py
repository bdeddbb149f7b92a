"""Films of frames: an animated GIF, which every page shows, and an MP4 (H.264), which keeps all colours."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from marina.core import files
from marina.core.errors import CallError

COLOURS = 48
QUALITY = {"crf": "18", "preset": "medium"}  # letters and edges stay sharp


def write(frames: Iterator[Image.Image], gif: Path | None, mp4: Path | None, milliseconds: float) -> None:
    """Write frames, RGB and of one size, each shown for so many milliseconds, to one file or both.

    A file appears whole or not at all; folders above it are made. Raises CallError for an MP4 without PyAV.
    """
    if mp4 is not None:
        frames = _encoded(frames, mp4, milliseconds, _pyav())
    if gif is not None:
        _write_gif(frames, gif, milliseconds)
    for _ in frames:  # what no GIF has drawn, and the end of the MP4
        pass


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise CallError(
            "an MP4 needs PyAV, which is not installed; run: pip install 'marina[video]'. A GIF needs nothing"
        ) from None
    return av


def _encoded(frames: Iterator[Image.Image], mp4: Path, milliseconds: float, av: Any) -> Iterator[Image.Image]:
    """The same frames, each encoded as it passes; the file is there after the last one."""
    with (
        files.atomic_path(mp4) as part,
        av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as film,
    ):
        stream = film.add_stream(
            "libx264", rate=Fraction(round(1000 * 1000 / milliseconds), 1000), options=QUALITY
        )
        stream.pix_fmt = "yuv420p"  # what players and browsers take; it has even sizes only
        first = next(frames)
        stream.width, stream.height = first.width + first.width % 2, first.height + first.height % 2
        for frame in chain([first], frames):
            sheet = Image.new("RGB", (stream.width, stream.height), "white")
            sheet.paste(frame)
            film.mux(stream.encode(av.VideoFrame.from_image(sheet)))
            yield frame
        film.mux(stream.encode())


def _write_gif(frames: Iterator[Image.Image], gif: Path, milliseconds: float) -> None:
    """One palette for all frames, taken from the first, so that what stands still isn't stored again."""
    first = next(frames)
    palette = first.quantize(COLOURS, dither=Image.Dither.NONE)
    rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    with files.atomic_path(gif) as part:
        palette.save(
            part,
            "GIF",
            save_all=True,
            append_images=rest,
            duration=round(milliseconds / 10) * 10,
            loop=0,
            optimize=False,
        )
