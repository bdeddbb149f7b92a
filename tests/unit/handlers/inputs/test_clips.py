"""Which frames the graph gets of which file."""

import builtins
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.clips import ClipInput, open_clip, open_frames, prepare_clip
from handlers.inputs.images import ImageInput
from handlers.protocol.errors import NotSupported, TooLarge
from tests.support.bad_clips import of_pixels, video
from tests.support.clip_files import config, greys, steps
from tests.support.picture_files import clip, encoded


@pytest.mark.parametrize(
    ("sampling", "stride", "count", "chosen"),
    [
        ("even", 1, 4, [0, 1, 2, 3]),
        ("even", 1, 12, [1, 4, 7, 10]),
        ("even", 1, 2, [0, 0, 1, 1]),
        ("stride", 1, 12, [4, 5, 6, 7]),
        ("stride", 3, 12, [1, 4, 7, 10]),
        ("stride", 3, 8, [0, 3, 6, 7]),
        ("stride", 2, 2, [0, 1, 1, 1]),
    ],
)
def test_frames_are_taken_evenly_or_by_a_stride_around_the_middle(
    sampling: Any, stride: int, count: int, chosen: list[int]
) -> None:
    assert config(sampling=sampling, stride=stride).chosen(count) == chosen
    assert greys(open_clip(of_pixels(steps(count)), config(sampling=sampling, stride=stride))) == chosen


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_animated_pictures_give_the_frames_that_were_written(form: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 20, 30), np.uint8)
    first, *others = [Image.fromarray(frame) for frame in values]
    file = encoded(
        first, form, save_all=True, append_images=others, **({"lossless": True} if form == "WEBP" else {})
    )
    found = open_clip(file, ClipInput(9, ImageInput(20, 30, "L")))

    assert np.array_equal(np.stack([np.asarray(frame) for frame in found]), values)


def test_the_picture_for_programs_without_animation_is_no_frame() -> None:
    shown = Image.new("L", (16, 16), 200)
    file = encoded(
        shown,
        "PNG",
        save_all=True,
        append_images=[Image.fromarray(frame) for frame in steps(6)],
        default_image=True,
    )

    assert greys(open_clip(file, config(6))) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("avi", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9")],
)
def test_video_frames_come_in_presentation_order(container: str, codec: str) -> None:
    """Video files give their frames in the order in which they are shown."""
    turning = open_clip(clip(count=12), ClipInput(12, ImageInput(16, 16)))
    found = open_clip(video(container, codec, count=12), ClipInput(12, ImageInput(16, 16)))
    shown = [np.asarray(frame.resize((20, 16)), float) for frame in found]
    nearest = [
        int(np.argmin([np.abs(frame - np.asarray(other, float)).mean() for other in turning]))
        for frame in shown
    ]

    assert [frame.size for frame in found] == [(32, 16)] * 12
    assert nearest == sorted(nearest)
    assert nearest[-1] - nearest[0] > 6


def test_a_video_that_says_how_it_is_turned_is_turned() -> None:
    whole, quarter = video(count=3), b"\0\1\0\0" + bytes(12) + b"\0\1\0\0"
    # the unit matrix of ISO 14496-12; now (0 1 0, -1 0 0): a quarter clockwise
    place = whole.index(quarter, whole.index(b"tkhd"))
    turned = (
        whole[:place] + bytes(4) + b"\0\1\0\0" + bytes(4) + b"\xff\xff\0\0" + bytes(4) + whole[place + 20 :]
    )
    before, after = (np.asarray(open_clip(file, config(3))[0], float) for file in (whole, turned))

    assert after.shape == (32, 16, 3)
    assert np.array_equal(np.rot90(before, -1), after)


def test_without_pyav_a_video_file_gets_a_415_that_says_what_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    file, given = video(), builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError) if name == "av" else given(name, *rest),
    )

    with pytest.raises(
        NotSupported,
        match=r"PyAV is not installed.*send an animated GIF, WEBP, PNG, or JSON with a list of pictures",
    ):
        open_clip(file, config())
    assert len(open_clip(clip(), config())) == 4


def test_limits_hold_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = of_pixels(steps(20))
    monkeypatch.setattr("PIL.Image.Image.seek", lambda *_: pytest.fail("decoded"))

    with pytest.raises(TooLarge, match="20 frames; send at most 19"):
        open_clip(file, config(max_frames=19))
    with pytest.raises(TooLarge, match=r"20 frames of 16 x 16 pixels; send at most .* 5,119 in all"):
        open_clip(file, config(max_pixels=5119))
    with pytest.raises(TooLarge, match="bytes; send at most 100"):
        open_clip(file, config(max_bytes=100))


def test_a_list_of_frames_is_the_same_as_its_animation() -> None:
    frames = [encoded(Image.fromarray(frame), "PNG") for frame in steps(10)]
    one, other = (
        prepare_clip(found, config())
        for found in (open_frames(frames, config()), open_clip(of_pixels(steps(10)), config()))
    )

    assert (one.shape, one.dtype) == ((4, 3, 16, 16), np.uint8)
    assert np.array_equal(one, other)


def test_the_configuration_is_read_back_as_it_was_written() -> None:
    said = ClipInput(5, ImageInput(20, 24, "L", "crop", 30), "stride", 3, max_frames=70)

    assert ClipInput.from_config(json.loads(json.dumps(said.as_config()))) == said
