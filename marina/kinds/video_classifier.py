"""Classifiers of clips: the first class decides."""

import json
from typing import Any

from handlers.inputs.clips import ClipInput, open_clip, open_frames
from handlers.inputs.images import ImageInput
from handlers.inputs.payloads import bytes_of
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.classifier import ClassifierKind
from marina.kinds.pictures import limits_of

FRAMES = 6  # of a clip, side by side


class VideoClassifierKind(ClassifierKind):
    """A clip -> its classes."""

    name = "video_classifier"

    def picture(self, body: bytes) -> Any:
        """Frames of the clip side by side."""
        return strip(body)

    def load_data(self, spec: Spec, folder: str) -> Any:
        """The clips to measure on, in their splits."""
        from training import data

        return data.load_clips(folder, spec.training.seed, limits=limits_of(spec))


def strip(body: bytes) -> Any:
    """Some frames of a clip side by side. Raises CallError for what is no clip."""
    from PIL import Image

    config = ClipInput(FRAMES, ImageInput(8, 8))
    try:
        if body.lstrip()[:1] in (b"{", b"["):
            content = json.loads(body)
            lists = (
                [value for value in content.values() if isinstance(value, list)]
                if isinstance(content, dict)
                else [content]
            )
            frames = open_frames([bytes_of(frame) for frame in next(iter(lists), [])], config)
        else:
            frames = open_clip(body, config)
    except RequestError as error:
        raise CallError(f"only a clip in a file, or a list of frames, can be drawn: {error}") from error
    width, height = frames[0].size
    sheet = Image.new("RGB", (FRAMES * (width + 1) - 1, height), "white")
    for index, frame in enumerate(frames):
        sheet.paste(frame, (index * (width + 1), 0))
    return sheet


KIND = VideoClassifierKind()
