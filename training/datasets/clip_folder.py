"""A folder of one's own with a folder per class, as `image_folder` has it, of clips: files, or folders of frames."""

import base64
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from training.datasets import Example, ImageData, image_folder

from bundle_clips import ClipInput, open_clip, open_frames
from bundle_errors import Refusal
from bundle_images import ImageInput

TYPES = {
    **{".gif": "image/gif", ".webp": "image/webp", ".png": "image/apng", ".apng": "image/apng"},
    **{".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".avi": "video/x-msvideo"},
    **{".mkv": "video/x-matroska", ".webm": "video/webm"},
}
STILL = image_folder.SUFFIXES - {".gif", ".webp"}  # what frames may be; the others may be clips themselves
ANY = ClipInput(2, ImageInput(8, 8))


@dataclass(frozen=True)
class Clip(Example):
    """One clip: a file, a folder of frames, or frames uint8 [T, H, W, 3] (RGB) or [T, H, W, 1] (grey)."""

    def frames(self) -> list[bytes]:
        """The files of a folder of frames, by name, numbers by their value; empty where the clip is no folder."""
        return [file.read_bytes() for file in _frames(self.image)] if isinstance(self.image, Path) and self.image.is_dir() else []

    def content(self) -> bytes:
        """All files, or the pixels, for a fingerprint."""
        return b"".join(self.frames()) or super().content()

    def encoded(self) -> tuple[bytes, str]:
        """The clip as a client would send it: (bytes, content type). A folder becomes a JSON list, pixels an animated PNG."""
        if frames := self.frames():
            return json.dumps({"frames": [base64.b64encode(frame).decode() for frame in frames]}).encode(), "application/json"
        if isinstance(self.image, Path):
            return self.image.read_bytes(), TYPES[self.image.suffix.lower()]
        first, *others = [Image.fromarray(np.squeeze(frame, -1) if frame.shape[-1] == 1 else frame) for frame in self.image]
        buffer = io.BytesIO()
        first.save(buffer, "PNG", save_all=True, append_images=others)
        return buffer.getvalue(), "image/apng"

    def chosen(self, config: ClipInput) -> list[Image.Image]:
        """The frames that the graph gets, in its mode, however long the clip is. Raises a Refusal for what is no clip."""
        config = replace(config, max_frames=1_000_000, max_bytes=2 << 30, max_pixels=1 << 50)  # limits are the server's
        if frames := self.frames():
            return open_frames(frames, config)
        if isinstance(self.image, Path):
            return open_clip(self.image.read_bytes(), config)
        frames_ = (self.image[index] for index in config.chosen(len(self.image)))
        return [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert(config.image.mode) for frame in frames_]


def load(folder: Path, seed: int) -> ImageData:
    """Read FOLDER/{train,val,test}/CLASS/* or FOLDER/CLASS/*, split as `image_folder.load` does.

    A clip is an animated GIF, WebP or PNG, a video file (where PyAV is installed), or a folder of pictures. What can't be read is
    left out with a warning. Raises CallError for what is no such folder.
    """
    return image_folder.load(folder, seed, image_folder.Things("clips", "*.gif", _clips, _fault, Clip))


def _clips(folder: Path) -> list[Path]:
    """The clips of one class, also in folders below."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += [path] if _frames(path) else _clips(path)
        elif path.suffix.lower() in TYPES:
            found.append(path)
    return found


def _frames(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix.lower() in STILL and not path.name.startswith(".")]
    return sorted(files, key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)])


def _fault(path: Path) -> str:
    try:
        Clip(path).chosen(ANY)
    except (Refusal, OSError) as error:
        return str(error)
    return ""
