"""JPEG files decoded at reduced size: nearly the same input for the graph, the same refusals."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from handlers.inputs import image_files
from handlers.inputs.images import ImageInput, open_image, open_input, prepare
from handlers.kinds.image import ImagePredictor
from handlers.protocol.errors import BadRequest, RequestError, TooLarge
from handlers.protocol.requests import Instance


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height))


def jpeg(image: Image.Image, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, more.pop("form", "JPEG"), **{"quality": 90, **more})
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


SMALL = photo(96, 64)
FILES = {
    "baseline": jpeg(SMALL),
    "all colour pixels": jpeg(SMALL, subsampling=0),
    "progressive": jpeg(SMALL, progressive=True),
    "grey": jpeg(SMALL.convert("L")),
    "restarts": jpeg(SMALL, restart_marker_blocks=3),
    "on its side": jpeg(SMALL, exif=turned(6)),
    "four inks": jpeg(SMALL.convert("CMYK")),
    "several pictures": jpeg(SMALL, form="MPO", save_all=True, append_images=[SMALL]),
}


def mutated(file: bytes, source: random.Random) -> bytes:
    """A damaged file: cut, bytes changed, taken out, put in or set to zero, a marker written over, or
    something behind it.
    """
    place, some = source.randrange(len(file) - 1), source.randrange(1, 40)
    marker = bytes(
        [
            0xFF,
            source.choice(
                [
                    0x00,
                    0x01,
                    0xC0,
                    0xC1,
                    0xC2,
                    0xC3,
                    0xC4,
                    0xD0,
                    0xD8,
                    0xD9,
                    0xDA,
                    0xDB,
                    0xDD,
                    0xE1,
                    0xFE,
                    0xFF,
                ]
            ),
        ]
    )
    ways = [
        file[:place],
        file[:place] + source.randbytes(1) + file[place + 1 :],
        file[: place % 700] + source.randbytes(1) + file[place % 700 + 1 :],
        file[:place] + file[place + some :],
        file[:place] + source.randbytes(some) + file[place:],
        file[:place] + bytes(some) + file[place + some :],
        file[:place] + marker + file[place + 2 :],
        file + source.randbytes(some),
        file[: -1 - some % 4],
    ]
    return source.choice(ways)


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_read_or_refused_alike_at_a_fraction_and_whole(kind: str) -> None:
    source = random.Random(kind)
    fast, exact = ImageInput(8, 8), ImageInput(8, 8, decode="exact")

    def outcome(file: bytes, config: ImageInput) -> Any:
        try:
            return open_input(file, config).size
        except RequestError as refusal:
            return type(refusal), str(refusal)

    files = [mutated(FILES[kind], source) for _ in range(60)]
    outcomes = [outcome(file, fast) for file in files]

    assert open_input(FILES[kind], fast).image.width <= 48
    assert outcomes == [outcome(file, exact) for file in files]
    assert 10 < sum(one in ((96, 64), (64, 96)) for one in outcomes) < 60


def test_a_file_of_too_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_SCANNED", 5 * SMALL.width * SMALL.height)

    open_image(FILES["baseline"])
    with pytest.raises(TooLarge, match="scans"):
        open_image(FILES["progressive"])


LARGE = photo(640, 424)


@pytest.mark.parametrize(
    ("config", "size", "decoded_size"),
    [
        (ImageInput(32, 32), (640, 424), (320, 212)),
        (ImageInput(32, 32), (640, 425), (640, 425)),  # no half of it
        (ImageInput(32, 32), (640, 426), (320, 213)),
        (ImageInput(12, 12), (640, 424), (80, 53)),
        (ImageInput(12, 12), (640, 428), (160, 107)),
        (ImageInput(64, 64), (640, 424), (640, 424)),  # fewer than eight pixels for one
        (ImageInput(30, 50), (640, 424), (320, 212)),
        (ImageInput(30, 60), (640, 424), (640, 424)),  # 7 for one, were it turned
        (ImageInput(32, 32, fit="letterbox"), (640, 424), (160, 106)),
        (ImageInput(28, 28, fit="crop", resize=32), (640, 424), (320, 212)),
        (ImageInput(28, 28, fit="crop", resize=64), (640, 424), (640, 424)),
        (ImageInput(32, 32, antialias=False), (640, 424), (640, 424)),
        (ImageInput(32, 32, fit="ink"), (640, 424), (640, 424)),
        (ImageInput(32, 32, decode="exact"), (640, 424), (640, 424)),
    ],
)
def test_a_large_picture_is_decoded_at_a_fraction_that_is_enough(
    config: ImageInput, size: tuple[int, int], decoded_size: tuple[int, int]
) -> None:
    opened = open_input(jpeg(photo(*size)), config)

    assert (opened.image.size, opened.size) == (decoded_size, size)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_a_fraction_gives_the_graph_about_what_the_whole_picture_gives(fit: Any, orientation: int) -> None:
    config = ImageInput(36, 24, fit=fit, resize=40)
    file = jpeg(LARGE, exif=turned(orientation))

    found, whole = open_input(file, config), open_image(file)
    difference = np.abs(
        np.asarray(prepare(found.image, config), np.int16) - np.asarray(prepare(whole, config))
    )

    assert found.image.width <= whole.width // 2
    assert found.size == whole.size
    assert difference.max() <= 5
    assert difference.mean() < 0.5


def test_real_photos_differ_by_five_levels_at_most(shared_data: Path) -> None:
    worst, means, halved = 0, [], 0
    for file in sorted((shared_data / "imagenet_check").glob("*.jpg"))[::2]:
        data = file.read_bytes()
        whole = open_image(data)
        for size in (12, 24, 40):
            config = ImageInput(size, size)
            opened = open_input(data, config)
            if opened.image.size != opened.size:
                difference = np.abs(
                    np.asarray(prepare(opened.image, config), np.int16) - np.asarray(prepare(whole, config))
                )
                worst, halved = max(worst, int(difference.max())), halved + 1
                means.append(float(difference.mean()))

    assert halved > 30
    assert worst <= 5
    assert np.mean(means) < 0.5


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_large_picture_that_is_cut_off_is_refused_at_a_fraction_too(cut: float) -> None:
    whole = jpeg(LARGE)

    with pytest.raises(BadRequest, match="damaged or cut off"):
        open_input(whole[: int(len(whole) * cut)], ImageInput(16, 16))


def test_a_configuration_that_says_nothing_was_made_for_whole_pictures() -> None:
    said = ImageInput(24, 32).as_config()

    assert said.pop("decode") == "fast"
    assert ImageInput.from_config(said).decode == "exact"


def test_boxes_and_explanations_are_of_the_picture_that_was_sent() -> None:
    handler = ImagePredictor()
    handler.input = ImageInput(32, 32)
    instance = Instance(jpeg(LARGE))

    item = handler.decode(instance)

    assert item.image.size == (320, 212)
    assert handler.preprocess(item, instance).size == (640, 424)
    assert handler.decode_whole(instance).image.size == (640, 424)
