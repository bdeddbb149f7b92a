"""Ink on a plain background is placed on the raster of the digits, however it was drawn."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from handlers.inputs.ink import centre_ink, raster_view
from handlers.protocol.errors import BadRequest
from training.data import digits

SEVEN = np.array(
    [
        [0, 0, 128, 191, 207, 239, 159, 0],
        [0, 16, 239, 255, 239, 255, 175, 0],
        [0, 0, 64, 16, 64, 255, 80, 0],
        [0, 0, 48, 96, 159, 223, 16, 0],
        [0, 32, 239, 255, 255, 239, 96, 0],
        [0, 16, 128, 255, 207, 64, 0, 0],
        [0, 0, 143, 239, 16, 0, 0, 0],
        [0, 0, 191, 159, 0, 0, 0, 0],
    ],
    np.uint8,
)


def drawn(
    side: int = 300, place: tuple[float, float] = (0.3, 0.2), height: float = 0.5, pen: float = 0.05
) -> Image.Image:
    """A seven in black on white, of `height` shares of the side."""
    image = Image.new("L", (side, side), 255)
    left, top, size = side * place[0], side * place[1], side * height
    corners = [(left, top), (left + 0.6 * size, top), (left + 0.2 * size, top + size)]
    ImageDraw.Draw(image).line(corners, fill=0, width=round(side * pen), joint="curve")
    return image


def raster(image: Image.Image) -> np.ndarray:
    return np.asarray(centre_ink(image, (8, 8)), np.float32)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of the rasters, in grey levels."""
    return float(np.abs(raster(one) - raster(other)).mean())


def uneven(image: Image.Image, noise: float = 4.0) -> Image.Image:
    """Photographed: light falling off to one corner, noise, JPEG of quality 50."""
    values = np.asarray(image, np.float32)
    y, x = np.mgrid[0 : 1 : values.shape[0] * 1j, 0 : 1 : values.shape[1] * 1j]
    lit = (60 + values * 0.6) * (1 - 0.3 * x - 0.15 * y * y) + np.random.default_rng(0).normal(
        0, noise, values.shape
    )
    buffer = io.BytesIO()
    Image.fromarray(lit.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=50)
    return Image.open(buffer)


def test_a_picture_on_the_raster_passes_unharmed() -> None:
    assert np.array_equal(raster(Image.fromarray(SEVEN)), SEVEN)


def test_dark_ink_on_a_light_ground_is_turned_over() -> None:
    assert np.array_equal(raster(Image.fromarray(255 - SEVEN)), SEVEN)
    assert difference(drawn(), Image.fromarray(255 - np.asarray(drawn()))) < 1


def test_the_answer_has_the_size_that_was_asked_for() -> None:
    ink = centre_ink(drawn(), (24, 16))

    assert (ink.size, ink.mode) == ((24, 16), "L")


@pytest.mark.parametrize("side", [80, 300, 2000])
@pytest.mark.parametrize("place", [(0.05, 0.05), (0.6, 0.1), (0.35, 0.45)])
def test_the_view_is_as_high_as_the_figure_and_has_it_in_the_middle(
    side: int, place: tuple[float, float]
) -> None:
    """To within a pixel of the picture in which the figure is searched."""
    picture = drawn(side, place)
    left, top, right, bottom = Image.fromarray(255 - np.asarray(picture)).getbbox() or (0, 0, 0, 0)

    view = raster_view(picture)

    np.testing.assert_allclose((view[1], view[3]), (top, bottom), atol=1 + side / 192)
    assert (view[0] + view[2]) / 2 == pytest.approx((left + right) / 2, abs=1 + side / 64)
    assert view[2] - view[0] == pytest.approx(view[3] - view[1], rel=0.05)


def test_the_view_of_a_wide_figure_has_margins_beyond_the_picture() -> None:
    bar = Image.new("L", (200, 60), 255)
    ImageDraw.Draw(bar).rectangle((20, 20, 149, 39), fill=0)  # 130 wide, so that a cell has 20 pixels

    np.testing.assert_allclose(raster_view(bar), (5, -50, 165, 110), atol=4)


def test_the_view_of_a_picture_on_the_raster_is_all_of_it() -> None:
    assert raster_view(Image.fromarray(SEVEN)) == (0, 0, 8, 8)


def test_a_blank_picture_has_no_view() -> None:
    with pytest.raises(BadRequest, match="send one figure"):
        raster_view(Image.new("RGB", (100, 80), "white"))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_any_mode_goes(mode: str) -> None:
    assert difference(drawn(), drawn().convert(mode)) < 3


@pytest.mark.parametrize("place", [(0.05, 0.05), (0.6, 0.1), (0.35, 0.45)])
def test_the_place_in_the_picture_makes_no_difference(place: tuple[float, float]) -> None:
    assert difference(drawn(), drawn(place=place)) < 6


@pytest.mark.parametrize("side", [80, 600, 2000])
def test_the_size_of_the_picture_makes_no_difference(side: int) -> None:
    assert difference(drawn(), drawn(side)) < 12


def test_a_thin_and_a_thick_pen_come_to_like_strokes() -> None:
    thin, thick = raster(drawn(pen=0.02)).sum() / 255, raster(drawn(pen=0.09)).sum() / 255

    assert thin == pytest.approx(thick, rel=0.35)
    assert thin > 13


def test_uneven_light_noise_and_jpeg_make_no_difference() -> None:
    assert difference(drawn(), uneven(drawn())) < 10


def test_ink_touches_top_and_bottom_and_lies_in_the_middle() -> None:
    ink = raster(drawn())
    columns = np.flatnonzero(ink.max(0) > 40)

    assert min(ink[0].max(), ink[-1].max()) > 128
    assert abs((columns[0] + columns[-1]) / 2 - 3.5) <= 0.5


def test_proportions_are_kept() -> None:
    bar = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(bar).rectangle((90, 40, 109, 159), fill=0)

    assert np.flatnonzero(raster(bar).max(0) > 128).size <= 3


def test_specks_do_not_count() -> None:
    dusty = drawn()
    for x, y in ((10, 280), (290, 15), (280, 260), (20, 150)):
        ImageDraw.Draw(dusty).ellipse((x, y, x + 4, y + 4), fill=0)

    assert difference(drawn(), dusty) < 3


def test_a_stroke_that_stands_apart_counts() -> None:
    """A five whose bar was set beside its bow is as high with the bar as a whole one."""
    five = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(five).arc((60, 80, 130, 160), 200, 160, fill=0, width=10)
    bow = raster(five)
    ImageDraw.Draw(five).line((80, 50, 140, 50), fill=0, width=10)

    assert np.abs(raster(five) - bow).mean() > 20
    assert raster(five)[0].max() > 128


@pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_an_enlarged_original_stays_near_itself(resample: Image.Resampling) -> None:
    """Its half-covered cells become whole ones, so near is not equal."""
    original = Image.fromarray(SEVEN)

    assert difference(original, original.resize((120, 120), resample)) < 40


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (300, 1), (100, 80)])
@pytest.mark.parametrize("tone", [0, 120, 255])
def test_a_blank_picture_is_refused_with_what_to_send(size: tuple[int, int], tone: int) -> None:
    with pytest.raises(BadRequest, match="send one figure"):
        centre_ink(Image.new("L", size, tone), (16, 16))


def test_every_enlarged_digit_is_found_though_its_ink_touches_the_border() -> None:
    for example in digits.load().test[::4]:
        image = Image.fromarray(np.asarray(example.image)).resize((32, 32), Image.Resampling.BICUBIC)

        assert raster(image).max() > 200


def test_noise_and_a_mere_gradient_are_blank() -> None:
    noise = np.random.default_rng(0).normal(180, 8, (200, 300))
    gradient = np.linspace(90, 230, 200)[:, None] * np.ones((1, 300))
    for values in (noise, gradient, gradient + noise - 180):
        with pytest.raises(BadRequest, match="no ink"):
            centre_ink(Image.fromarray(values.clip(0, 255).astype(np.uint8)), (16, 16))
