"""Bodies and options as bytes and headers."""

import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from marina.client.request_options import NAMES, RequestOptions
from marina.core.errors import CallError

JSON, BYTES = "application/json", "application/octet-stream"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# of one request of several: larger ones are hardly faster, and keep a worker busy for longer
SLICE_BYTES, SLICE_BODIES = 1_000_000, 64

# the position of the first body, and the bytes and content type of each
Slice = tuple[int, list[tuple[bytes, str]]]


def encode_body(body: Any) -> tuple[bytes, str]:
    """(bytes, content type) of a body.

    bytes               as they are
    Path                the file's bytes; a .json file is JSON
    PIL image           PNG, rotated as its EXIF says
    numpy array         uint8 [height, width] or [height, width, 3]: a picture, as PNG;
                        other numbers: {"observation": [...]}
    anything else       JSON; arrays inside it become lists

    Raises CallError, with what can be sent, for anything else.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), BYTES
    if isinstance(body, Path):
        return _file(body), JSON if body.suffix.lower() == ".json" else BYTES
    if isinstance(body, _loaded_class("PIL.Image", "Image")):
        return _png(body), BYTES
    if isinstance(body, _loaded_class("numpy", "ndarray")):
        return _array(body)
    return _json(body).encode(), JSON


def slice_bodies(bodies: Iterable[Any]) -> Iterator[Slice]:
    """Divide bodies into requests; they are read as the slices are, not all at once."""
    position, part, size = 0, list[tuple[bytes, str]](), 0
    for body in bodies:
        content, content_type = encode_body(body)
        if part and (len(part) >= SLICE_BODIES or size + len(content) > SLICE_BYTES):
            yield position, part
            position, part, size = position + len(part), [], 0
        part.append((content, content_type))
        size += len(content)
    if part:
        yield position, part


def option_headers(options: RequestOptions) -> dict[str, str]:
    """Options as headers; None leaves one out. Raises CallError for one that no kind of model knows."""
    if unknown := sorted(options.keys() - set(NAMES)):
        known = f"known: {', '.join(NAMES)}; options of your own handler are sent as headers"
        raise CallError(f"unknown options: {', '.join(unknown)}; {known}")
    texts = {
        name: value if isinstance(value, str) else _json(value)
        for name, value in options.items()
        if value is not None
    }
    if wrong := [name for name, text in texts.items() if not (text.isascii() and text.isprintable())]:
        raise CallError(f"{wrong[0]} must be plain text, not {texts[wrong[0]]!r}")
    # proxies drop names with an underscore
    return {name.replace("_", "-"): text for name, text in texts.items()}


def _loaded_class(module: str, name: str) -> Any:
    """A class of a heavy module if that is imported, as it is where an object of it exists; else ()."""
    return getattr(sys.modules.get(module), name, ())


def _file(path: Path) -> bytes:
    if not path.is_file():
        raise CallError(f"no file {path}")
    return path.read_bytes()


def _png(image: Any) -> bytes:
    from PIL import ImageOps

    buffer = io.BytesIO()
    image = ImageOps.exif_transpose(image)
    image = image if image.mode in PNG_MODES else image.convert("RGB")
    image.save(buffer, "PNG", compress_level=1)  # level 6 takes several times as long and saves a tenth
    return buffer.getvalue()


def _array(array: Any) -> tuple[bytes, str]:
    if (
        array.dtype == "uint8"
        and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
        and array.size
    ):
        from PIL import Image

        return _png(Image.fromarray(array)), BYTES
    if array.dtype.kind not in "iuf":
        expected = "a picture (uint8 [height, width] or [height, width, 3]) or numbers (an observation)"
        raise CallError(f"an array to predict must be {expected}, not {array.dtype} {list(array.shape)}")
    return _json({"observation": array.tolist()}).encode(), JSON


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        known = "send bytes, a Path, a PIL image, an array, or JSON values with finite numbers"
        raise CallError(f"{type(value).__name__} can't be sent: {error}; {known}") from error


def _plain(value: Any) -> Any:
    """Arrays and their numbers inside JSON, as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
