"""Near copies of photos are found, and photos that merely look alike are not taken for them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from training.data.near_copies import near_pairs, sketch


def blotches(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    small = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int = 40) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


CHANGES = {
    "compressed": compressed,
    "smaller": lambda image: image.resize((71, 53)),
    "larger": lambda image: image.resize((400, 300)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "gray": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_found_among_others(change) -> None:
    pictures = [blotches(number) for number in range(40)]
    pictures.append(change(pictures[7]))

    assert list(near_pairs([sketch(picture) for picture in pictures])) == [(7, 40)]


def test_flat_pictures_are_no_copies_of_each_other() -> None:
    flat = [Image.new("RGB", (40, 30), (k, 250 - k, 90)) for k in range(20)]

    assert list(near_pairs([sketch(picture) for picture in flat])) == []


@pytest.mark.slow
def test_real_photos_have_no_false_pairs_and_true_ones_are_found(shared_data: Path) -> None:
    """300 photos of food: none is like another, and each resized and compressed one is found."""
    files = sorted((shared_data / "pizza_steak_sushi").rglob("*.jpg"))
    photos = [Image.open(file).convert("RGB") for file in files]
    sketches = [sketch(photo) for photo in photos]
    copies = [sketch(compressed(photo.resize((256, 256)), 60)) for photo in photos]
    pairs = list(near_pairs([*sketches, *copies]))

    assert len(files) == 300
    assert [pair for pair in pairs if pair[1] < 300] == []
    assert len([pair for pair in pairs if pair[1] == pair[0] + 300]) >= 297
