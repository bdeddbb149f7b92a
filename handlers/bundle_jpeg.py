"""JPEG files: decoded straight from memory, and at a fraction of their size where no more is needed.

Pillow has read the header before, and what it says is final. Plain files alone are decoded here: grey or three colours, and not one
warning of the decoder. Pillow decodes all others, by the same library (libjpeg-turbo) but through a stream in small pieces; so pixels
are equal, and what is damaged or cut off is refused, whichever of the two decodes.
"""

import numpy as np
import simplejpeg
from PIL import Image

COLOURS = {"L": "GRAY", "RGB": "RGB"}  # by Pillow's mode; CMYK, which each of the two converts in its own way, is Pillow's
START_OF_SCAN = 0xDA
FRAMES = (0xC0, 0xC1)  # baseline and extended sequential, Huffman: markers of T.81, table B.1
SEGMENTS = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))  # tables, restart interval, comment, applications' own


def decoded(data: bytes, header: Image.Image, fraction: int = 1) -> Image.Image | None:
    """The pixels of a plain JPEG file, or None where Pillow has to decode it.

    `header` is what Pillow opened of `data` and did not decode yet; it keeps EXIF and all other information. `fraction` is 1, 2, 4 or
    8, divides both sides, and leaves at least 4 pixels of each: the picture has 1/fraction of its sides, each pixel about the mean
    of fraction x fraction ones (the lower frequencies of the cosine transform alone).
    """
    if header.format not in ("JPEG", "MPO") or header.mode not in COLOURS:
        return None
    width, height = header.size
    least = {} if fraction == 1 else {"min_width": width // fraction, "min_height": height // fraction}
    try:
        # two readers of one header may see different sizes in a file made for that, and limits were checked against Pillow's
        if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, COLOURS[header.mode], **least)
    except Exception:  # warnings too: Pillow knows which of them matter, and what to say
        return None
    return Image.fromarray(pixels[:, :, 0] if header.mode == "L" else pixels)


def scans(data: bytes) -> int:
    """At most so many scans has the JPEG file; each may paint the whole picture.

    One where the header, read strictly, says so: a sequential frame whose first scan has all its components. The decoder refuses
    a second one then. Otherwise as many as there are marks of a scan, in thumbnails and comments too.
    """
    place, components = 2, 0
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in FRAMES and not components and length >= 8:
            components = data[place + 9]
        elif marker == START_OF_SCAN and data[place + 4] == components > 0:
            return 1
        elif marker not in SEGMENTS or length < 2:
            break
        place += 2 + length
    return data.count(b"\xff\xda")
