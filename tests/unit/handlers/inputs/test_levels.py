"""Pictures of more than 8 bits and of every mode: the same picture as in 8 bits, or a refusal."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.images import ImageInput, open_image, open_input
from handlers.inputs.levels import in_mode
from handlers.protocol.errors import BadRequest
from tests.support.picture_files import deep_png, drawn, encoded, with_exif

GREY = np.asarray(drawn(mode="L")).astype(np.int32)
MODES = [
    *(
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "LA",
        "PA",
        "RGBX",
        "RGBa",
        "La",
    ),
    *("I;16", "I;16L", "I;16B", "I;16N"),
]


def tiff(values: np.ndarray, **more: Any) -> bytes:
    return encoded(Image.fromarray(values), "TIFF", **more)


FILES = {
    "PNG of 16 bits": deep_png(GREY * 257),
    "PNG of 12 bits, as sBIT says": deep_png(GREY * 4095 // 255, 12),
    "PNG of 10 bits, as sBIT says": deep_png(GREY * 1023 // 255, 10),
    "PNG of 14 bits, as sBIT says": deep_png(GREY * 16383 // 255, 14),
    "PNG of 12 bits spread over 16": deep_png(GREY * 257 & 0xFFF0, 12),
    "PNG of colors of 16 bits": deep_png(np.stack([GREY * 257] * 3, 2)),
    "TIFF of 16 bits": tiff((GREY * 257).astype(np.uint16)),
    "TIFF of 16 bits, big-endian": encoded(
        Image.frombytes("I;16B", (48, 48), (GREY * 257).astype(">u2").tobytes()), "TIFF"
    ),
    "TIFF of 12 bits, as MaxSampleValue says": tiff(
        (GREY * 4095 // 255).astype(np.uint16), tiffinfo={281: 4095}
    ),
    "TIFF from 100 to 1120": tiff((GREY * 4 + 100).astype(np.uint16), tiffinfo={280: 100, 281: 1120}),
    "TIFF whose largest is white, as it says": tiff(
        (GREY * 257).astype(np.uint16), tiffinfo={262: 1, 281: 65535}
    ),
    "TIFF where white is 0": tiff((65535 - GREY * 257).astype(np.uint16), tiffinfo={262: 0}),
    "TIFF of whole numbers to 255": tiff(GREY),
    "TIFF of whole numbers to 65,535": tiff(GREY * 257),
    "TIFF of floats to 1": tiff(GREY.astype(np.float32) / 255),
    "TIFF of floats to 255": tiff(GREY.astype(np.float32)),
    "TIFF of floats to 65,535": tiff(GREY.astype(np.float32) * 257),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_deep_picture_is_the_same_as_in_8_bits(name: str, mode: Any) -> None:
    expected = np.asarray(drawn(mode="L").convert(mode)).astype(int)

    found = np.asarray(open_image(FILES[name], mode)).astype(int)

    assert np.abs(found - expected).max() <= 1


DARK = (GREY * 4095 // 255).astype(np.uint16)


@pytest.mark.parametrize(
    "values", [DARK, DARK.astype(np.int32), DARK.astype(np.float32), DARK // 16, DARK * 8]
)
def test_a_deep_picture_of_unknown_white_is_refused_with_its_remedies(values: np.ndarray) -> None:
    """Read as it is it would be nearly black; as its own maximum, a night would be a day."""
    with pytest.raises(BadRequest, match=r"training.value_range says which .*sBIT.*MaxSampleValue"):
        open_image(tiff(values) if values.max() > 255 or values.dtype != np.uint16 else deep_png(values))


@pytest.mark.parametrize("file", [tiff(DARK), deep_png(DARK), tiff(DARK.astype(np.float32))])
def test_the_specs_value_range_says_which_value_is_white(file: bytes) -> None:
    config = ImageInput(48, 48, "L", value_range=8190)

    found = open_input(file, config).image

    assert found.getextrema() == open_image(file, "L", value_range=8190).getextrema()
    assert found.getextrema()[1] == int(DARK.max()) * 255 // 8190
    with pytest.raises(BadRequest, match="not from 0 to 300"):
        open_image(file, value_range=300)


def test_a_figure_is_found_on_any_scale() -> None:
    """Under fit ink only contrast counts, so that no picture is refused for its scale."""
    config = ImageInput(16, 16, "L", "ink")

    assert open_input(deep_png(DARK), config).image.getextrema()[1] == 255


def test_a_black_picture_is_black() -> None:
    assert open_image(deep_png(DARK * 0)).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", ["L", "RGB"])
def test_every_mode_of_pillow_becomes_color_and_grey(mode: str, wanted: str) -> None:
    assert in_mode(Image.new(mode, (4, 3)), wanted).mode == wanted


def test_lab_is_about_as_bright_in_grey_as_its_color() -> None:
    found = np.asarray(open_image(encoded(drawn(mode="LAB"), "TIFF"), "L")).astype(int)

    assert np.abs(found - np.asarray(drawn(mode="L"))).max() <= 4


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_sound_exif_still_turns_the_picture(form: str) -> None:
    exif = Image.Exif()
    exif[274] = 6

    turned = open_image(with_exif(form, exif.tobytes()[6:], drawn(40, 20)))

    assert turned.size == (20, 40)
