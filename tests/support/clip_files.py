"""Clips whose frames are told apart by their greys."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from tests.support.bad_clips import of_pixels, video


def greys(frames: list[Image.Image]) -> list[int]:
    """What the frames of `steps` are numbered by."""
    return [int(np.asarray(frame.convert("L"))[4:-4, 4:-4].mean().round()) // 10 for frame in frames]


def steps(count: int, side: int = 16) -> np.ndarray:
    """Frames uint8 [count, side, side] of which number k is of the grey 10 k + 5; a corner differs, so
    that no two are equal.
    """
    frames = np.repeat(np.arange(count, dtype=np.uint8) * 10 + 5, side * side).reshape(count, side, side)
    frames[:, 0, 0] = 255
    return frames


def config(frames: int = 4, **more: Any) -> ClipInput:
    return ClipInput(frames, ImageInput(16, 16), **more)


def clips_of_two_classes(place: Path) -> Path:
    """Two classes of clips of all sorts: brighter and darker."""
    for name, order in (("brighter", 1), ("darker", -1)):
        folder = place / name
        folder.mkdir(parents=True)
        for number in range(6):
            frames = steps(12)[::order] + np.uint8(10 * number)
            (folder / f"{number}.gif").write_bytes(of_pixels(frames))
            (folder / f"{number}.webp").write_bytes(of_pixels(frames, "WEBP"))
            (folder / f"of frames {number}").mkdir()
            for index, frame in enumerate(frames):
                # 10.png is behind 9.png
                Image.fromarray(frame).save(folder / f"of frames {number}" / f"{index}.png")
        (folder / "video.mp4").write_bytes(video())
    return place
