"""Pictures that an import makes itself, to try a model on where there is no data."""

import io

import numpy as np
from PIL import Image, ImageDraw

COUNT = 8


def make_pictures(plain: bool = False) -> list[bytes]:
    """COUNT pictures as PNG files of 256 x 192, always the same: shapes on blotches of color, or lines
    on white.

    They show nothing. What a model answers proves that a server answers likewise, not that it is right.
    """
    files = []
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        blotches = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
            (256, 192), Image.Resampling.BICUBIC
        )
        picture = Image.new("RGB", (256, 192), "white") if plain else blotches
        draw = ImageDraw.Draw(picture)
        for _ in range(3):
            corners = rng.integers(30, (226, 162), (3, 2)).ravel().tolist()
            colour = tuple(rng.integers(0, 60 if plain else 256, 3).tolist())
            draw.line(corners, colour, 10) if plain else draw.polygon(corners, colour)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files
