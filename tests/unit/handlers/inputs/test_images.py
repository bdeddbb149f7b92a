"""Pictures: what is read, what is refused before it is decoded, and boxes there and back."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from handlers.inputs.images import ImageInput, boxes_to_image, boxes_to_input, open_image, prepare, view_of
from handlers.protocol.errors import BadRequest, TooLarge


def encoded(image: Image.Image, form: str, **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def half_and_half() -> Image.Image:
    """Left red, right blue, 40 x 20."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20, 0] = 250
    pixels[:, 20:, 2] = 250
    return Image.fromarray(pixels)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_common_format_is_read_with_its_colours(form: str) -> None:
    image = open_image(encoded(half_and_half(), form))

    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert np.abs(np.array(image)[10, 5].astype(int) - [250, 0, 0]).max() < 12
    assert np.abs(np.array(image)[10, 35].astype(int) - [0, 0, 250]).max() < 12


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_every_colour_mode_becomes_rgb_of_about_the_same_brightness(mode: str) -> None:
    grey = Image.new("L", (8, 8), 128)
    image = (
        Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
        if mode == "I;16"
        else grey.convert("RGB").convert(mode)
    )
    form = "JPEG" if mode == "CMYK" else "PNG"

    pixels = np.array(open_image(encoded(image, form)))

    assert abs(float(pixels.mean()) - 128) < (6 if mode != "1" else 128)


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))

    assert np.array(open_image(encoded(clear, "PNG"))).min() == 255


def test_a_photo_that_was_taken_on_its_side_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees to the right

    image = open_image(encoded(half_and_half(), "JPEG", exif=exif))

    assert image.size == (20, 40)
    assert np.array(image)[5, 10][0] > 200


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")]

    image = open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    assert np.array(image)[0, 0].tolist() == [255, 0, 0]


def declared(width: int, height: int) -> bytes:
    """A PNG whose header declares width x height, with hardly any data behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 10_000)])
def test_an_image_of_too_many_declared_pixels_is_refused_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="send at most 50,000,000"):
        open_image(declared(*size))


def test_more_bytes_than_the_limit_are_refused_with_both_numbers() -> None:
    with pytest.raises(TooLarge, match="has 101 bytes; send at most 100"):
        open_image(b"x" * 101, max_bytes=100)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_was_cut_off_is_refused(form: str, cut: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, form)

    with pytest.raises(BadRequest):
        open_image(whole[: int(len(whole) * cut)])


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"<svg/>", b"%PDF-1.4", b"\xff\xd8\xff", b"GIF89a", bytes(1000)]
)
def test_what_is_no_image_is_refused_with_the_formats_that_are(body: bytes) -> None:
    with pytest.raises(BadRequest, match="image"):
        open_image(body)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_the_tensor_has_the_declared_form(fit: str) -> None:
    config = ImageInput(24, 32, "RGB", fit, resize=32)  # type: ignore[arg-type]

    tensor = prepare(half_and_half(), config)

    assert (tensor.dtype, tuple(tensor.shape)) == (np.uint8, (3, 24, 32))


def test_a_configuration_survives_its_json() -> None:
    config = ImageInput(24, 32, "L", "letterbox", max_pixels=77)

    assert ImageInput.from_config(config.as_config()) == config


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_boxes_go_to_the_graphs_pixels_and_come_back(fit: str) -> None:
    config = ImageInput(320, 160, "RGB", fit)  # type: ignore[arg-type]
    boxes = np.array([[10.0, 20.0, 200.0, 300.0]], np.float32)

    back = boxes_to_image(boxes_to_input(boxes, (640, 480), config), (640, 480), config)

    np.testing.assert_allclose(back, boxes, rtol=1e-6)
    assert back.dtype == np.float32


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (100, 100)])
def test_boxes_in_the_middle_of_a_picture_survive_its_cropping(size: tuple[int, int]) -> None:
    """The middle 100 pixels of the shorter side are the graph's input, at half their size."""
    config = ImageInput(50, 50, "RGB", "crop", resize=min(size) // 2)
    boxes = np.array([[size[0] / 2 - 10, size[1] / 2 - 20, size[0] / 2 + 10, size[1] / 2 + 30]])

    inside = boxes_to_input(boxes, size, config)

    np.testing.assert_allclose(inside, [[20.0, 15.0, 30.0, 40.0]])
    np.testing.assert_allclose(boxes_to_image(inside, size, config), boxes)


@pytest.mark.parametrize(
    ("fit", "size", "view"),
    [
        ("stretch", (640, 480), (0, 0, 640, 480)),
        ("letterbox", (640, 480), (0, 0, 640, 640)),
        ("letterbox", (100, 400), (0, 0, 400, 400)),
        ("crop", (512, 256), (144, 16, 368, 240)),
        ("crop", (128, 64), (36, 4, 92, 60)),
    ],
)
def test_the_view_is_the_part_of_the_picture_that_the_graph_gets(
    fit: str, size: tuple[int, int], view: tuple[float, ...]
) -> None:
    config = ImageInput(224, 224, "RGB", fit, resize=256)  # type: ignore[arg-type]

    assert view_of(Image.new("RGB", size), config) == pytest.approx(view)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop", "ink"])
@pytest.mark.parametrize("size", [(300, 200), (90, 170), (1000, 900)])
def test_what_lies_in_the_view_lies_at_the_same_place_in_the_graphs_input(
    fit: str, size: tuple[int, int]
) -> None:
    """A frame of ink, found in both: its box in the input, brought back through the view, is its box in
    the picture.
    """
    config = ImageInput(96, 64, "L", fit, resize=96)  # type: ignore[arg-type]
    box = (size[0] * 0.4, size[1] * 0.4, size[0] * 0.6, size[1] * 0.55)
    picture = Image.new("L", size, 255)
    edges = [round(edge) for edge in (box[0], box[1], box[2] - 1, box[3] - 1)]
    ImageDraw.Draw(picture).rectangle(edges, outline=0, width=max(3, size[0] // 50))

    pixels = prepare(picture, config)[0]
    ink = pixels if fit == "ink" else 255 - pixels.astype(int)
    ink = ink * (ink > 145 if fit == "letterbox" else ink > 100)  # without the grey of the padding
    rows, columns = (np.flatnonzero(ink.max(axis)) for axis in (1, 0))
    left, top, right, bottom = view_of(picture, config)
    x, y = (right - left) / 64, (bottom - top) / 96
    back = (left + columns[0] * x, top + rows[0] * y, left + (columns[-1] + 1) * x, top + (rows[-1] + 1) * y)

    # half a cell of the raster
    np.testing.assert_allclose(back, box, atol=(right - left) / 16 if fit == "ink" else 1.2 * max(x, y) + 1)


def test_boxes_are_clipped_to_the_image() -> None:
    config = ImageInput(100, 100)

    boxes = boxes_to_image(np.array([[-5.0, -5.0, 200.0, 50.0]]), (50, 50), config)

    assert boxes.tolist() == [[0.0, 0.0, 50.0, 25.0]]
