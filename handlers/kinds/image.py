"""The base of the handlers that take images: it owns their decoding."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ..inputs.batch_buffer import BatchBuffer
from ..inputs.image_files import FORMATS
from ..inputs.images import ImageInput, Opened, open_input, prepare
from ..inputs.payloads import bytes_of, only_key
from ..protocol.errors import BadRequest, TooLarge
from ..protocol.options import keyed_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from ..runtime.predictor import Predictor

KEYS = ("image", "data", "b64")
# as clients of other servers name it
ALSO = (
    "img",
    "input",
    "image_bytes",
    "image_b64",
    "image_base64",
    "base64",
    "bytes",
    "content",
    "file",
    "picture",
)


class ImagePredictor(Predictor):
    """Takes an image as raw bytes, as base64 text under "image", "data" or "b64", or as a tensor of pixels
    (KServe v2).
    """

    side_by_side: ClassVar[bool] = True
    file_types: ClassVar[tuple[str, ...]] = (
        "application/octet-stream",
        *(f"image/{name}" for name in ("jpeg", "png", "webp", "gif", "bmp", "tiff")),
    )

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export; the image's form and limits become `self.input`."""
        super().configure(export)
        self.input = ImageInput.from_config(self.export.preprocess)
        self.slots = BatchBuffer(self.metadata["max_batch"], self.input.shape)

    def decode(self, instance: Instance) -> Opened:
        """The picture in the mode of the graph's input. Raises a RequestError for what is no such picture."""
        return self._opened(instance, self.input)

    def decode_whole(self, instance: Instance) -> Opened:
        """The picture with all of its pixels: an explanation may be laid over it."""
        return self._opened(instance, replace(self.input, decode="exact"))

    def preprocess(self, item: Opened, instance: Instance) -> Prepared:
        """The picture as the graph's input, with its own size for boxes. The input lasts as long as its
        batch.
        """
        return Prepared((prepare(item.image, self.input, instance.slot),), instance.options, item.size)

    def request_schema(self) -> dict[str, Any]:
        """An object with base64 text under one of the keys."""
        text = {
            "type": "string",
            "contentEncoding": "base64",
            "description": f"the file of an image: {', '.join(FORMATS)}",
        }
        return keyed_schema(KEYS, text, self.options)

    def limits(self) -> dict[str, int]:
        """Bytes of the file, and pixels that its header may declare."""
        return {"max_bytes": self.input.max_bytes, "max_pixels": self.input.max_pixels}

    def _opened(self, instance: Instance, config: ImageInput) -> Opened:
        payload = only_key(instance.payload, *KEYS, also=ALSO)
        if isinstance(payload, np.ndarray):
            image = self._from_pixels(payload)
            return Opened(image, image.size)
        return open_input(bytes_of(payload), config)

    def _from_pixels(self, pixels: np.ndarray) -> Image.Image:
        """Whole numbers 0 to 255 of shape [height, width] or [height, width, 3 or 1]."""
        wanted = (
            "pixels must be whole numbers 0 to 255 of shape [height, width, 3], or [height, width] for grey"
        )
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if (
            pixels.dtype.kind not in "iu"
            or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))
            or not pixels.size
        ):
            raise BadRequest(f"{wanted}; not {pixels.dtype} of shape {list(pixels.shape)}")
        if pixels.shape[0] * pixels.shape[1] > self.input.max_pixels:
            raise TooLarge(
                f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels; send at most "
                f"{self.input.max_pixels:,} in all"
            )
        if pixels.min() < 0 or pixels.max() > 255:
            raise BadRequest(f"{wanted}; not from {pixels.min()} to {pixels.max()}")
        image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
        return image if image.mode == self.input.mode else image.convert(self.input.mode)
