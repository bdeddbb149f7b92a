"""The base of the handlers that take images: it owns their decoding."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from bundle_errors import NotUnderstood, TooLarge
from bundle_handler import BundleHandler
from bundle_images import FORMATS, ImageInput, Opened, open_input, prepare
from bundle_options import keyed_schema
from bundle_payloads import bytes_of, only_key
from bundle_requests import Instance, Prepared
from bundle_slots import Slots

KEYS = ("image", "data", "b64")


class ImageHandler(BundleHandler):
    """Takes an image as raw bytes, as base64 text under "image", "data" or "b64", or as a tensor of pixels (KServe v2)."""

    side_by_side: ClassVar[bool] = True

    def read_configs(self, folder: Path) -> None:
        """Read the JSON files of an export; the image's form and limits become `self.input`."""
        super().read_configs(folder)
        self.input = ImageInput.from_config(self.preprocess_config)
        self.slots = Slots(self.metadata["max_batch"], self.input.shape)

    def decode(self, instance: Instance) -> Opened:
        """The picture in the mode of the graph's input. Raises a Refusal for what is no such picture."""
        return self._opened(instance, self.input)

    def decode_whole(self, instance: Instance) -> Opened:
        """The picture with all of its pixels: an explanation may be laid over it."""
        return self._opened(instance, replace(self.input, decode="exact"))

    def preprocess(self, item: Opened, instance: Instance) -> Prepared:
        """The picture as the graph's input, with its own size for boxes. The input lasts as long as its batch."""
        return Prepared((prepare(item.image, self.input, instance.slot),), instance.options, item.size)

    def request_schema(self) -> dict[str, Any]:
        """An object with base64 text under one of the keys."""
        text = {"type": "string", "contentEncoding": "base64", "description": f"the file of an image: {', '.join(FORMATS)}"}
        return keyed_schema(KEYS, text, self.options)

    def limits(self) -> dict[str, int]:
        """Bytes of the file, and pixels that its header may declare."""
        return {"max_bytes": self.input.max_bytes, "max_pixels": self.input.max_pixels}

    def _opened(self, instance: Instance, config: ImageInput) -> Opened:
        payload = only_key(instance.payload, *KEYS)
        if isinstance(payload, np.ndarray):
            image = self._from_pixels(payload)
            return Opened(image, image.size)
        return open_input(bytes_of(payload), config)

    def _from_pixels(self, pixels: np.ndarray) -> Image.Image:
        """Whole numbers 0 to 255 of shape [height, width] or [height, width, 3 or 1]."""
        wanted = "pixels must be whole numbers 0 to 255 of shape [height, width, 3], or [height, width] for grey"
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if pixels.dtype.kind not in "iu" or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)) or not pixels.size:
            raise NotUnderstood(f"{wanted}; not {pixels.dtype} of shape {list(pixels.shape)}")
        if pixels.shape[0] * pixels.shape[1] > self.input.max_pixels:
            raise TooLarge(f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels; send at most {self.input.max_pixels:,} in all")
        if pixels.min() < 0 or pixels.max() > 255:
            raise NotUnderstood(f"{wanted}; not from {pixels.min()} to {pixels.max()}")
        image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
        return image if image.mode == self.input.mode else image.convert(self.input.mode)
