"""Metadata that is broken or large: the picture is read as if it had none."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.image_files import MAX_TEXT_BYTES, without_metadata
from handlers.inputs.images import open_image
from handlers.protocol.errors import BadRequest
from tests.support.good_inputs import unusual_files
from tests.support.picture_files import BROKEN_EXIF, chunk, drawn, encoded, png, with_exif, zeros

FILES = {name: file for name, file in unusual_files() if "EXIF" in name or name.startswith("PNG with")}


@pytest.mark.parametrize("name", FILES)
def test_broken_or_large_metadata_changes_no_pixel(name: str) -> None:
    form = name.split(maxsplit=1)[0]
    plain = open_image(encoded(drawn(), form))

    found = open_image(FILES[name])

    np.testing.assert_array_equal(np.asarray(found), np.asarray(plain))


@pytest.mark.parametrize("broken", [chunk(b"iCCP", b"a\0\0" + zeros(2 << 20)), chunk(b"gAMA", b"\0")])
def test_a_picture_with_broken_metadata_is_still_turned(broken: bytes) -> None:
    """What says how it is turned is kept while all else is left out."""
    exif = Image.Exif()
    exif[274] = 8
    whole = with_exif("PNG", exif.tobytes()[6:], drawn(40, 20))

    assert open_image(whole[:33] + broken + whole[33:]).size == (20, 40)


@pytest.mark.parametrize("text", [b"zTXt", b"iCCP"])
def test_texts_that_expand_hugely_are_refused_in_time(text: bytes) -> None:
    bombs = chunk(text, b"a\0\0" + zeros(100_000_000)) * 5
    started = time.process_time()

    with pytest.raises(BadRequest, match=f"expand to more than {MAX_TEXT_BYTES:,} bytes"):
        open_image(png(before=bombs))

    assert time.process_time() - started < 1


def test_transparency_and_animation_are_no_metadata() -> None:
    clear = encoded(drawn(mode="P"), "PNG", transparency=0)
    animated = encoded(drawn(), "PNG", save_all=True, append_images=[drawn().rotate(90)])

    for file in (clear, animated):
        assert without_metadata(file, keeps_turn=True) == file


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_keeps_the_tags_of_its_pixels(order: str) -> None:
    buffer = io.BytesIO()
    image = drawn(mode="I;16B" if order == ">" else "I;16")
    image.save(buffer, "TIFF", tiffinfo={270: "a description", 281: 255, 33432: "somebody's"})

    fewer = without_metadata(buffer.getvalue(), keeps_turn=False)

    with Image.open(io.BytesIO(fewer)) as found:
        assert {270, 33432} & set(found.tag_v2) == set()  # type: ignore[attr-defined]
        assert found.tag_v2[281] == (255,)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


@pytest.mark.parametrize("cut", range(4, 200, 7))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_a_file_that_cant_be_followed_stays_refused(form: str, cut: int) -> None:
    with pytest.raises(BadRequest):
        open_image(with_exif(form, BROKEN_EXIF[1])[:cut])
