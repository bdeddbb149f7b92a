"""What is fuzzed: each target has inputs of any content and a check that raises where one is handled wrongly.

Tests try each target with a few inputs, the same every time; `make fuzz` tries as many as ten minutes allow.
A new target is one function:

    @target("name", inputs)
    def check(value): ...
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from handlers.inputs.clips import ClipInput, open_clip
from handlers.inputs.images import ImageInput, open_input, prepare
from handlers.inputs.sounds import read_sound
from handlers.protocol.errors import RequestError
from handlers.runtime.golden import difference
from tests.support import fuzzed_data, sound_models
from tests.support.bad_inputs import good
from tests.support.broken_metadata import expected, files_with_metadata
from tests.support.picture_files import clip
from tests.support.sent_requests import Sent
from tests.support.served_kinds import CLIENT_ERRORS, KINDS, Served, served_kind
from tests.support.strange_requests import strange
from tests.support.strategies import damaged, pictures

INPUTS = (
    ImageInput(16, 24),
    ImageInput(16, 16, "L", "ink"),
    ImageInput(24, 16, "L", "letterbox", antialias=False),
)
Check = Callable[[Any], None]
CLIP = ClipInput(4, ImageInput(16, 16))
SOUNDS = [
    sound_models.file_of(sound_models.tone("low"), form=form)
    for form in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")
]


@dataclass(frozen=True)
class Target:
    """Inputs, and what raises where one is handled wrongly."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Check


TARGETS: dict[str, Target] = {}


def target(name: str, inputs: st.SearchStrategy[Any]) -> Callable[[Check], Check]:
    """Register the decorated check under this name."""

    def registered(check: Check) -> Check:
        TARGETS[name] = Target(name, inputs, check)
        return check

    return registered


@target("pictures", pictures)
def read_or_refuse_picture(data: bytes) -> None:
    """A damaged file is read as a picture, or refused in words."""
    for config in INPUTS:
        with suppress(RequestError):
            picture = open_input(data, config)
            prepare(picture.image, config)


@target("metadata", files_with_metadata)
def read_whatever_the_metadata(form_and_file: tuple[str, bytes]) -> None:
    """A sound picture is read, whatever its metadata holds."""
    form, data = form_and_file
    image = open_input(data, ImageInput(8, 8, decode="exact")).image

    assert (image.size, image.tobytes()) in expected(form)


@target("clips", damaged(st.sampled_from([clip(form, 3) for form in ("GIF", "WEBP", "PNG")])) | pictures)
def read_or_refuse_clip(data: bytes) -> None:
    """A damaged file is read as a clip, or refused in words."""
    with suppress(RequestError):
        assert len(open_clip(data, CLIP)) == CLIP.frames


@target("sounds", damaged(st.sampled_from(SOUNDS)))
def read_or_refuse_sound(data: bytes) -> None:
    """A damaged file is read as a sound of finite samples, or refused in words."""
    with suppress(RequestError):
        for start, window in read_sound(data, sound_models.INPUT).windows():
            assert start >= 0
            assert np.isfinite(window).all()


@target("requests", st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), strange(kind))))
def answer_or_refuse_request(kind_and_request: tuple[str, Sent]) -> None:
    """A request is answered or refused in words, and its neighbor gets the answer that it gets alone."""
    kind, request = kind_and_request
    served, neighbor = _served(kind), good(kind)[0]

    (status, _), (_, answer) = served.answers([request, neighbor])

    assert status in CLIENT_ERRORS | {200, 409}
    assert difference(served.alone(neighbor)[1], answer) == ""


DATA = {
    "coco": (fuzzed_data.coco_files, fuzzed_data.check_coco),
    "voc": (fuzzed_data.voc_files, fuzzed_data.check_voc),
    "labels": (fuzzed_data.labels_files, fuzzed_data.check_labels),
    "npz": (fuzzed_data.npz_files, fuzzed_data.check_npz),
}
for data_name, (files, check) in DATA.items():
    target(data_name, files)(check)


@cache
def _served(kind: str) -> Served:
    with tempfile.TemporaryDirectory() as folder:
        return served_kind(kind, Path(folder))
