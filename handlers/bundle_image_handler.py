"""The base of the handlers that take images: it owns their decoding."""

from pathlib import Path
from typing import Any

from bundle_handler import BundleHandler, Decoded
from bundle_images import ImageInput, open_image, prepare
from bundle_requests import bytes_of, only_key


class ImageHandler(BundleHandler):
    """Takes an image as raw bytes, or as base64 text under "image", "data" or "b64"."""

    def read_configs(self, folder: Path) -> None:
        """Read the JSON files of an export; the image's form and limits become `self.input`."""
        super().read_configs(folder)
        self.input = ImageInput.from_config(self.preprocess_config)

    def decode(self, payload: Any) -> Decoded:
        """The picture as the graph's input, with its own size for boxes. Raises a Refusal for what is no such picture."""
        data = bytes_of(only_key(payload, "image", "data", "b64"))
        image = open_image(data, self.input.mode, self.input.max_bytes, self.input.max_pixels)
        return Decoded(prepare(image, self.input), image.size)
