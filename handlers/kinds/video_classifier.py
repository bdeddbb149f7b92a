"""Serves video classifiers: a clip -> its frames -> the classes, answer first."""

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ..inputs.batch_buffer import BatchBuffer
from ..inputs.clips import ANIMATED, ClipInput, open_clip, open_frames, prepare_clip
from ..inputs.payloads import bytes_of, only_key
from ..protocol.errors import BadRequest
from ..protocol.options import keyed_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from .classes import ClassPredictor
from .image import ALSO as FRAME_ALSO
from .image import KEYS as FRAME_KEYS

KEYS = ("clip", "frames", "data", "b64")
# as clients of other servers name it
ALSO = ("video", "video_bytes", "images", "base64", "bytes", "content", "file")


class VideoClassifierPredictor(ClassPredictor):
    """Takes a clip as the raw bytes or base64 text of its file, as a list of pictures in base64, or as a
    tensor of pixels (KServe v2).

    Answers `ClassAnswers`.
    """

    file_types: ClassVar[tuple[str, ...]] = (
        "application/octet-stream",
        *("image/gif", "image/webp", "image/apng", "video/mp4", "video/x-msvideo", "video/webm"),
    )

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export; the clip's form and limits become `self.input`."""
        super().configure(export)
        self.input = ClipInput.from_config(self.export.preprocess)
        self.slots = BatchBuffer(self.metadata["max_batch"], self.input.shape)

    def decode(self, instance: Instance) -> list[Image.Image]:
        """The frames that the graph gets. Raises a RequestError for what is no such clip."""
        payload = only_key(instance.payload, *KEYS, also=ALSO)
        if isinstance(payload, np.ndarray):
            return self._from_pixels(payload)
        if isinstance(payload, list):
            return open_frames([self._frame(index, one) for index, one in enumerate(payload)], self.input)
        return open_clip(bytes_of(payload), self.input)

    def preprocess(self, item: list[Image.Image], instance: Instance) -> Prepared:
        """The frames as the graph's input."""
        return Prepared((prepare_clip(item, self.input, instance.slot),), instance.options, item[0].size)

    def request_schema(self) -> dict[str, Any]:
        """An object with base64 text, or a list of it, under one of the keys."""
        files = f"the file of an animated {', '.join(ANIMATED)}, or of a video where the server has PyAV"
        text = {"type": "string", "contentEncoding": "base64"}
        frames = {"type": "array", "items": text, "minItems": 2, "maxItems": self.input.max_frames}
        either = {
            "oneOf": [
                {**text, "description": files},
                {**frames, "description": "pictures of one size, in their order"},
            ]
        }
        return keyed_schema(KEYS, either, self.options)

    def limits(self) -> dict[str, int]:
        """Bytes and frames of a clip, pixels of all its frames, and of one."""
        of_clip = {
            "max_bytes": self.input.max_bytes,
            "max_frames": self.input.max_frames,
            "max_pixels": self.input.max_pixels,
        }
        return {
            **of_clip,
            "max_frame_bytes": self.input.image.max_bytes,
            "max_frame_pixels": self.input.image.max_pixels,
        }

    def _frame(self, index: int, payload: Any) -> bytes:
        try:
            return bytes_of(only_key(payload, *FRAME_KEYS, also=FRAME_ALSO))
        except BadRequest as refusal:
            raise BadRequest(f"frame {index}: {refusal}") from None

    def _from_pixels(self, pixels: np.ndarray) -> list[Image.Image]:
        """Whole numbers 0 to 255 of shape [frames, height, width] or [frames, height, width, 3 or 1]."""
        wanted = (
            "pixels must be whole numbers 0 to 255 of shape [frames, height, width, 3], or [frames, "
            "height, width] for grey"
        )
        if pixels.ndim == 4 and pixels.shape[3] == 1:
            pixels = pixels[..., 0]
        if (
            pixels.dtype.kind not in "iu"
            or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3))
            or not pixels.size
        ):
            raise BadRequest(f"{wanted}; not {pixels.dtype} of shape {list(pixels.shape)}")
        self.input.check(len(pixels), pixels.shape[2], pixels.shape[1])
        if pixels.min() < 0 or pixels.max() > 255:
            raise BadRequest(f"{wanted}; not from {pixels.min()} to {pixels.max()}")
        chosen = [
            Image.fromarray(np.ascontiguousarray(pixels[index], np.uint8))
            for index in self.input.chosen(len(pixels))
        ]
        return [
            image if image.mode == self.input.image.mode else image.convert(self.input.image.mode)
            for image in chosen
        ]


PREDICTOR = VideoClassifierPredictor
