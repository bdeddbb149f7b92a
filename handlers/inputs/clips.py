"""Clips: an animated picture, a video file or a list of frames -> Pillow images -> the graph's uint8 array.

The one transform of both sides, as `inputs.images` is for single pictures. Time is counted in frames, not in
seconds. Limits are checked before frames are decoded. Video files are read by PyAV where it is installed;
nothing else needs it.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from ..protocol.errors import BadRequest, NotSupported, RequestError, TooLarge
from .image_files import identified, read_despite_metadata
from .images import ImageInput, open_input, prepare
from .levels import EIGHT_BITS, Levels, in_mode, levels_of

ANIMATED = ("GIF", "WEBP", "PNG")
MAX_READS = 400_000  # of one file: a GIF comes in pieces of 255 bytes, and is read twice
# where a container's mark stands, the mark, FFmpeg's name of it: FFmpeg never guesses, since among its
# formats are playlists that open other files and addresses
CONTAINERS = ((4, b"ftyp", "mp4"), (8, b"AVI ", "avi"), (0, b"\x1a\x45\xdf\xa3", "matroska"))
Read = TypeVar("Read")
WAYS = f"an animated {', '.join(ANIMATED)}, or JSON with a list of pictures under 'frames'"


@dataclass(frozen=True)
class ClipInput:
    """preprocess_config.json of video classifiers; `image` says how each frame is prepared.

    sampling  "even"    the middles of `frames` equal parts of the clip, whatever its length
              "stride"  every `stride`-th frame around the clip's middle; a shorter clip's last frame is
                        repeated

    `max_bytes` of the file and `max_pixels` of all its frames together; the limits of `image` hold for a
    single frame.
    """

    frames: int
    image: ImageInput
    sampling: Literal["even", "stride"] = "even"
    stride: int = 1
    max_frames: int = 1_000
    max_bytes: int = 15_000_000
    max_pixels: int = 100_000_000

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[frames, C, height, width] of the graph's input."""
        return (self.frames, *self.image.shape)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ClipInput":
        """Read the JSON; the key "input", which names the sort of input, is not a field."""
        said = {key: value for key, value in config.items() if key != "input"}
        return cls(**{**said, "image": ImageInput.from_config(config["image"])})

    def as_config(self) -> dict[str, Any]:
        """The JSON, all fields written out."""
        return {"input": "clip", **self.__dict__, "image": self.image.as_config()}

    def chosen(self, count: int) -> list[int]:
        """Which of `count` frames the graph gets, `frames` indices in order."""
        if self.sampling == "even":
            return [(2 * index + 1) * count // (2 * self.frames) for index in range(self.frames)]
        first = max(0, (count - 1 - self.stride * (self.frames - 1)) // 2)
        return [min(count - 1, first + self.stride * index) for index in range(self.frames)]

    def check(self, count: int, width: int, height: int) -> None:
        """Raise a RequestError for a clip of `count` frames of `width` x `height` pixels that is no clip, or
        too large.
        """
        if count < 2:
            raise BadRequest(f"a clip has at least 2 frames, this is a single picture; send {WAYS}")
        if count > self.max_frames:
            raise TooLarge(
                f"the clip has {count:,} frames; send at most {self.max_frames:,}, every second one, say"
            )
        if width * height > self.image.max_pixels or count * width * height > self.max_pixels:
            most = f"{self.image.max_pixels:,} a frame and {self.max_pixels:,} in all"
            raise TooLarge(f"the clip has {count:,} frames of {width} x {height} pixels; send at most {most}")


def open_clip(data: bytes, config: ClipInput) -> list[Image.Image]:
    """The chosen frames of an animated GIF, WebP or PNG, or of an MP4, MOV, AVI, MKV or WebM, in the mode of
    the graph's input.

    Raises BadRequest for what is no whole clip, TooLarge above the limits, and NotSupported for a video
    file without PyAV.
    """
    if not data:
        raise BadRequest(f"the body is empty; send {WAYS}")
    if len(data) > config.max_bytes:
        raise TooLarge(f"the clip has {len(data):,} bytes; send at most {config.max_bytes:,}")
    container = next(
        (name for place, mark, name in CONTAINERS if data[place : place + len(mark)] == mark), None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of many pixels, for which our own limits stand
        if container:
            return _whole(_of_video, data, container, config)
        return read_despite_metadata(lambda file: _whole(_of_animation, file, config), data)


def _whole(read: Callable[..., Read], *arguments: Any) -> Read:
    """What `read` gives of these arguments. Raises BadRequest where it fails."""
    try:
        return read(*arguments)
    except RequestError:
        raise
    except Exception as error:  # what Pillow and FFmpeg raise at damaged bytes differs by version
        raise BadRequest(
            f"the clip is damaged or cut off, or its codec is not known here; send a whole file, or {WAYS}"
        ) from error


def open_frames(files: Sequence[bytes], config: ClipInput) -> list[Image.Image]:
    """The chosen ones of a list of pictures, all of one size, as `open_input` gives them. Raises Refusals
    as `open_clip` does.
    """
    config.check(len(files), 0, 0)
    if sum(map(len, files)) > config.max_bytes:
        raise TooLarge(
            f"the frames have {sum(map(len, files)):,} bytes; send at most {config.max_bytes:,} in all"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd tags, which harm nothing
        sizes = [_named(index, _size, file, config.image.max_pixels) for index, file in enumerate(files)]
    for index, size in enumerate(sizes):
        if size != sizes[0]:
            sides = "{} x {}".format(*size), "{} x {}".format(*sizes[0])
            raise BadRequest(
                f"frame {index} has {sides[0]} pixels, frame 0 has {sides[1]}; send frames of one size"
            )
    config.check(len(files), *sizes[0])
    chosen = config.chosen(len(files))
    opened = {index: _named(index, open_input, files[index], config.image) for index in set(chosen)}
    return [opened[index].image for index in chosen]


def prepare_clip(
    frames: Sequence[Image.Image], config: ClipInput, slot: np.ndarray | None = None
) -> np.ndarray:
    """Frames, as `open_clip` gives them, as the graph's input: uint8 of `config.shape`, written into
    `slot` if there is one.
    """
    clip = np.empty(config.shape, np.uint8) if slot is None else slot
    for frame, place in zip(frames, clip, strict=True):
        prepare(frame, config.image, place)
    return clip


def _named(index: int, read: Callable[..., Read], *arguments: Any) -> Read:
    """What `read` gives of these arguments; a refusal says which frame it is about."""
    try:
        return read(*arguments)
    except RequestError as refusal:
        raise type(refusal)(f"frame {index}: {refusal}") from None


def _size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height by the header."""
    return read_despite_metadata(lambda file: identified(file, max_pixels).size, data)


def _of_animation(data: bytes, config: ClipInput) -> list[Image.Image]:
    try:
        image = identified(data, config.image.max_pixels, MAX_READS)
    except BadRequest:
        raise BadRequest(f"the body is no clip that can be read; send {WAYS}") from None
    if image.format not in ANIMATED:
        raise BadRequest(f"{image.format} is a single picture, no clip; send {WAYS}")
    count = int(getattr(image, "n_frames", 1))
    # what programs show that know no animated PNG; not a part of the clip
    first = int(getattr(image, "default_image", False))
    config.check(count - first, *image.size)
    if image.format == "GIF" and not data.rstrip(b"\0").endswith(b";"):
        raise BadRequest("the GIF is cut off; send a whole file")
    levels = levels_of(image, data)
    return _picked(_stills(image, first, count), config.chosen(count - first), config, levels)[0]


def _stills(image: Image.Image, first: int, count: int) -> Iterator[Image.Image]:
    """All frames, one step after the other; a step that makes the picture larger is refused before it is
    decoded.
    """
    size = image.size
    for index in range(first, count):
        image.seek(index)
        if image.size != size:
            raise BadRequest(f"frame {index} is larger than the picture; send frames of one size")
        image.load()
        yield image


def _of_video(data: bytes, container: str, config: ClipInput) -> list[Image.Image]:
    try:
        import av
    except ImportError:
        raise NotSupported(f"video files can't be read here (PyAV is not installed); send {WAYS}") from None
    if container == "matroska" and _segment_end(data) > len(data):
        raise BadRequest("the video file is cut off; send a whole file")
    # FFmpeg's own guard, for frames that are larger than the header says
    largest = {"max_pixels": str(config.image.max_pixels)}

    def opened() -> Any:
        return av.open(io.BytesIO(data), format=container, options=largest)

    with opened() as file:
        if not file.streams.video:
            raise BadRequest(f"the file has no pictures; send {WAYS}")
        width, height = file.streams.video[0].width, file.streams.video[0].height
        count = 0
        for packet in file.demux(video=0):
            count += bool(packet.size)
            if count > config.max_frames:
                break
    config.check(count, width, height)
    # some packets may give no frame, as after a cut; then the frames that were read are counted again
    for expected in (count, None):
        with opened() as file:
            stream = file.streams.video[0]
            stream.codec_context.options = largest
            stream.codec_context.thread_count = 1
            frames, seen = _picked(_shown(file.decode(stream), (width, height)), config.chosen(count), config)
        if seen == (expected or seen):
            break
        count = seen
        config.check(count, width, height)
    return frames


def _segment_end(data: bytes) -> int:
    """Where the one segment of a Matroska file ends by its own word (RFC 8794, section 4); 0 where it doesn't
    say, as in a stream.

    FFmpeg takes such a file as one that ends where it was cut.
    """
    place, length = _sized(data, 4)
    if length is None or data[place + length : place + length + 4] != b"\x18\x53\x80\x67":
        return 0
    start, length = _sized(data, place + length + 4)
    return 0 if length is None else start + length


def _sized(data: bytes, place: int) -> tuple[int, int | None]:
    """(first byte behind it, value) of the number of variable length at `place`; None for "unknown", all
    bits set.
    """
    first = data[place]
    width = 9 - first.bit_length() if first else 9
    bits = int.from_bytes(data[place : place + width], "big") & ((1 << 7 * width) - 1)
    return place + width, None if bits == (1 << 7 * width) - 1 else bits


def _shown(frames: Iterator[Any], size: tuple[int, int]) -> Iterator[Any]:
    """The frames of a video, turned as it says, none of them decoded to pixels before it is asked for."""
    for frame in frames:
        if (frame.width, frame.height) != size:
            raise BadRequest(
                f"a frame has {frame.width} x {frame.height} pixels, the first {size[0]} x {size[1]}; send "
                "one size"
            )
        yield frame


def _picked(
    frames: Iterator[Any], chosen: Sequence[int], config: ClipInput, levels: Levels = EIGHT_BITS
) -> tuple[list[Image.Image], int]:
    """The `chosen` ones of all frames, whose file has these `levels`, and how many there are. Every frame is
    read, so that a file that is cut off shows it.
    """
    wanted, kept, count = set(chosen), {}, 0
    for index, frame in enumerate(frames):
        count += 1
        if index in wanted:
            image = frame if isinstance(frame, Image.Image) else _turned(frame)
            picture = in_mode(image, config.image.mode, levels, config.image.value_range)
            kept[index] = picture.copy() if picture is image else picture
    return [kept[index] for index in chosen if index in kept], count


def _turned(frame: Any) -> Image.Image:
    """A frame of PyAV's as it is shown; `rotation` is counterclockwise, degrees."""
    image: Image.Image = frame.to_image()
    turn = round(getattr(frame, "rotation", 0)) % 360
    return image.rotate(turn, expand=True) if turn else image
