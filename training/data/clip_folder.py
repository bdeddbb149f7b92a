"""A folder of one's own with a folder per class, as `image_folder` has it, of clips: files, or folders of
frames.
"""

import base64
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from handlers.inputs.clips import ClipInput, open_clip, open_frames
from handlers.inputs.images import ImageInput
from handlers.protocol.errors import RequestError, TooLarge
from training.data import Example, ImageData, labeled_files, layouts
from training.data.inspection import Inspected, digest_of, reason
from training.data.limits import Limits, MaxFileBytes, PictureLimits
from training.data.picture_files import SUFFIXES, entries, is_leftover
from training.findings import Findings

TYPES = {
    **{".gif": "image/gif", ".webp": "image/webp", ".png": "image/apng", ".apng": "image/apng"},
    **{".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".avi": "video/x-msvideo"},
    **{".mkv": "video/x-matroska", ".webm": "video/webm"},
}
CLIP_LIMITS = Limits(max_bytes=15_000_000, max_pixels=100_000_000)


class ClipLimits(PictureLimits):
    """The settings of a recipe that learns from clips; the endpoint gets the same."""

    max_bytes: MaxFileBytes = Field(default=CLIP_LIMITS.max_bytes, ge=100_000)
    max_frames: int = Field(
        default=CLIP_LIMITS.max_frames, ge=2, le=100_000, description="of one clip, learned from or sent"
    )
    max_pixels: int = Field(
        default=CLIP_LIMITS.max_pixels,
        ge=100_000,
        le=5_000_000_000,
        description="of all frames of a clip, learned from or sent, together",
    )

    @property
    def limits(self) -> Limits:
        """Also of the number of frames."""
        return replace(super().limits, max_frames=self.max_frames)


STILL = SUFFIXES - {".gif", ".webp"}  # what frames may be; the others may be clips themselves


@dataclass(frozen=True)
class Clip(Example):
    """One clip: a file, a folder of frames, or frames uint8 [T, H, W, 3] (RGB) or [T, H, W, 1] (grey)."""

    def frames(self) -> list[bytes]:
        """The files of a folder of frames, by name, numbers by their value; empty where the clip is no
        folder.
        """
        return (
            [file.read_bytes() for file in self.files()]
            if isinstance(self.image, Path) and self.image.is_dir()
            else []
        )

    def files(self) -> list[Path]:
        """The file, or all frames."""
        if isinstance(self.image, Path) and self.image.is_dir():
            return _frames(self.image)
        return super().files()

    def content(self) -> bytes:
        """All files, or the pixels, for a fingerprint."""
        return b"".join(self.frames()) or super().content()

    def encoded(self) -> tuple[bytes, str]:
        """The clip as a client would send it: (bytes, content type). A folder becomes a JSON list, pixels
        an animated PNG.
        """
        if frames := self.frames():
            return json.dumps(
                {"frames": [base64.b64encode(frame).decode() for frame in frames]}
            ).encode(), "application/json"
        if not isinstance(self.image, np.ndarray):
            return self.image.read_bytes(), TYPES[self.image.suffix.lower()]
        first, *others = [
            Image.fromarray(np.squeeze(frame, -1) if frame.shape[-1] == 1 else frame) for frame in self.image
        ]
        buffer = io.BytesIO()
        first.save(buffer, "PNG", save_all=True, append_images=others)
        return buffer.getvalue(), "image/apng"

    def chosen(self, config: ClipInput) -> list[Image.Image]:
        """The frames that the graph gets, in its mode. Raises a RequestError for
        what is no clip.
        """
        if frames := self.frames():
            return open_frames(frames, config)
        if not isinstance(self.image, np.ndarray):
            return open_clip(self.image.read_bytes(), config)
        frames_ = (self.image[index] for index in config.chosen(len(self.image)))
        return [
            Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert(config.image.mode)
            for frame in frames_
        ]


def load(
    folder: Path, seed: int, findings: Findings | None = None, limits: Limits | None = None
) -> ImageData:
    """Read FOLDER/{train,val,test}/CLASS/*, FOLDER/CLASS/* or a table, split as `labeled_files.load` does.

    A clip is an animated GIF, WebP or PNG, a video file (where PyAV is installed), or a folder of pictures.
    What can't be read is left out and goes to the `findings`. Raises CallError for what is no such folder.
    """
    things = labeled_files.Things("clips", "*.gif", TYPES.keys(), _clips, _inspect_clip, Clip)
    findings = findings or Findings()
    with findings.reported():
        listing = layouts.class_listing(folder, findings, things)
        return labeled_files.load(listing, seed, findings, limits or CLIP_LIMITS, things)


def _clips(folder: Path) -> tuple[list[Path], list[Path]]:
    """The clips of one class, also in folders below, and the files that are none."""
    found: list[Path] = []
    others: list[Path] = []
    for path in entries(folder):
        if path.is_dir():
            inner = ([path], []) if _frames(path) else _clips(path)
            found += inner[0]
            others += inner[1]
        else:
            (found if path.suffix.lower() in TYPES else others).append(path)
    return found, others


def _frames(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix.lower() in STILL and not is_leftover(path.name)]
    return sorted(
        files,
        key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)],
    )


def _inspect_clip(path: Path, limits: Limits) -> Inspected:
    """Decode two frames of it. A fault is the same text for all clips that have it."""
    clip, config = Clip(path), ClipInput(2, ImageInput(8, 8))
    try:
        clip.chosen(limited(config, limits))
    except TooLarge:
        most = f"max_bytes {limits.max_bytes:,}, max_frames {limits.max_frames:,}"
        return Inspected(f"above training.{most} or max_pixels {limits.max_pixels:,}")
    except RequestError as error:
        many = re.match("(a )?frame ", str(error))  # the text has the frame's number
        return Inspected("frames that can't be read, or of several sizes" if many else reason(error))
    except OSError as error:
        return Inspected((error.strerror or "can't be read").lower())
    return Inspected("", digest_of(clip.content()))


def limited(config: ClipInput, limits: Limits) -> ClipInput:
    """`config` with these limits."""
    return replace(
        config,
        image=replace(config.image, value_range=limits.value_range),
        max_bytes=limits.max_bytes,
        max_pixels=limits.max_pixels,
        max_frames=limits.max_frames,
    )
