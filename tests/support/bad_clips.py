"""The part of the corpus `bad_inputs` for video classifiers: clips that must be refused, and clips that are
answered.

Everything is made here; the video files are written by PyAV.
"""

import io
import json
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.support.bad_json import both
from tests.support.good_inputs import base64_of, file_in_tensor, instance
from tests.support.picture_files import chunk, clip, drawn, encoded, gif, png
from tests.support.sent_requests import JSON, VIDEO, Bad, Part, Sent


@cache
def video(
    container: str = "mp4",
    codec: str = "libx264",
    count: int = 6,
    size: tuple[int, int] = (32, 16),
    **options: str,
) -> bytes:
    """A video file of a seven that turns."""
    pictures = [drawn(*size).rotate(12 * index, fillcolor="white") for index in range(count)]
    return video_of(np.stack([np.asarray(picture) for picture in pictures]), container, codec, **options)


def video_of(frames: np.ndarray, container: str = "mp4", codec: str = "libx264", **options: str) -> bytes:
    """A video file of frames uint8 [T, H, W] or [T, H, W, 3]."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options) as file:
        stream: Any = file.add_stream(codec, rate=12)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(Image.fromarray(frame).convert("RGB"))))
        file.mux(stream.encode())
    return buffer.getvalue()


def sound() -> bytes:
    """An MP4 without pictures."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream: Any = file.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


def still_gif(frames: int, width: int, height: int) -> bytes:
    """A GIF of so many frames of 8 x 8 pixels on a screen of this size: a bomb, since each is laid on the
    whole.
    """
    frame = b"," + struct.pack("<HHHH", 0, 0, 8, 8) + b"\0\2\5\x84\x8f\xa9\xcb\xed\0"
    return gif(width, height, before=frame * (frames - 1))


def frames_of(*sizes: tuple[int, int]) -> str:
    """A JSON list of pictures of these sizes."""
    return json.dumps([base64_of(encoded(drawn(*size), "PNG")) for size in sizes])


def animation_of(count: int) -> bytes:
    """A PNG that declares so many frames and has one."""
    return png(
        before=b"".join(
            _chunks(
                (b"acTL", struct.pack(">II", count, 0)),
                (b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 10, 0, 0)),
            )
        )
    )


def _chunks(*pairs: tuple[bytes, bytes]) -> Iterator[bytes]:
    for pair in pairs:
        yield chunk(*pair)


CANT_BE_READ: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(drawn(), "PNG"),
    "JPEG": lambda: encoded(drawn(), "JPEG"),
    "TIFF": lambda: encoded(drawn(), "TIFF"),
    "TIFF of two pages": lambda: encoded(drawn(), "TIFF", save_all=True, append_images=[drawn()]),
    "GIF of one frame": lambda: encoded(drawn(), "GIF"),
    "WebP of one frame": lambda: encoded(drawn(), "WEBP"),
    "MP4 of one frame": lambda: video(count=1),
    "MP4 without pictures": sound,
    "animated GIF cut in the middle": lambda: clip()[: len(clip()) // 2],
    "animated GIF without its last bytes": lambda: clip()[:-3],
    "animated WebP cut in the middle": lambda: clip("WEBP")[: len(clip("WEBP")) // 2],
    "animated PNG cut in the middle": lambda: clip("PNG")[: len(clip("PNG")) // 2],
    "animated PNG with fewer frames than it declares": lambda: animation_of(5),
    "animated GIF whose second frame is larger": lambda: gif(
        before=b"," + struct.pack("<HHHH", 0, 0, 4, 4) + b"\0\2\2\x84\x51\0"
    ),
    "MP4 cut in the middle": lambda: video()[: len(video()) // 2],
    "MP4 in pieces, cut": lambda: (one := video(movflags="frag_keyframe+empty_moov"))[: len(one) * 2 // 3],
    "AVI cut in the middle": lambda: (one := video("avi", "mpeg4"))[: len(one) // 2],
    "MKV cut in the middle": lambda: (one := video("matroska"))[: len(one) // 2],
    "WebM cut near its end": lambda: video("webm", "libvpx-vp9")[:-20],
    "Matroska's first bytes": lambda: b"\x1a\x45\xdf\xa3",
    "AVI's first bytes": lambda: b"RIFF\x20\0\0\0AVI LIST",
    "an MP4's boxes of no size": lambda: b"\0\0\0\x08ftyp" + bytes(200),
    "a playlist that names a file": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a list of FFmpeg's": lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
}
TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "animated GIF of 1,001 frames": lambda: still_gif(1001, 8, 8),
    "animated GIF of 200,000 frames": lambda: still_gif(200_000, 8, 8),
    "animated GIF of few bytes on a vast screen": lambda: still_gif(100, 1200, 1200),
    "animated GIF of 60,000 x 60,000 pixels": lambda: still_gif(3, 60_000, 60_000),
    "animated PNG that declares two billion frames": lambda: animation_of(1 << 31),
    "MP4 of 1,001 frames": lambda: video(count=1001, size=(16, 16)),
    "animated GIF with fifteen million bytes behind": lambda: clip() + bytes(15_000_000),
}
FRAMES: dict[str, str] = {
    "no frames": "[]",
    "one frame": frames_of((8, 8)),
    "frames of two sizes": frames_of((8, 8), (8, 8), (9, 8)),
    "a frame that is no picture": frames_of((8, 8), (8, 8))[:-1] + ', "aGVsbG8="]',
    "a frame that is no base64": frames_of((8, 8))[:-1] + ', "not base64!"]',
    "a frame that is nothing": frames_of((8, 8))[:-1] + ", null]",
    "a frame that is empty": frames_of((8, 8))[:-1] + ', ""]',
    "a frame that is a list": f"[{frames_of((8, 8))}, {frames_of((8, 8))}]",
    "frames that are numbers": "[1, 2, 3]",
    "a video among the frames": frames_of((32, 16))[:-1] + f', "{base64_of(video())}"]',
    "a frame that is cut off": frames_of((48, 48))[:-1] + f', "{base64_of(encoded(drawn(), "PNG")[:150])}"]',
}


def bad() -> Iterator[Bad]:
    """Requests that are refused."""
    for name, make in CANT_BE_READ.items():
        yield Bad(f"{name} for a clip", make(), kinds=VIDEO)
    for name, make in TOO_LARGE.items():
        yield Bad(name, make(), kinds=VIDEO, status=413, type="TooLarge")
    for name, text in FRAMES.items():
        yield from both(name, f'{{"frames": {text}}}', VIDEO)
        yield Bad(
            f"{name}, in a form", parts=(Part("frames", text.encode(), "application/json"),), kinds=VIDEO
        )
    yield from both("1,001 frames", json.dumps({"frames": [""] * 1001}), VIDEO, 413, "TooLarge")
    yield from both(
        "a vast frame", json.dumps({"frames": [base64_of(png(50_000, 50_000))] * 2}), VIDEO, 413, "TooLarge"
    )
    yield from both(
        "vast frames together",
        json.dumps({"frames": [base64_of(png(5_000, 5_000))] * 5}),
        VIDEO,
        413,
        "TooLarge",
    )
    two = f'{{"instances": [{instance("video_classifier")}, {frames_of((8, 8))}]}}'
    yield Bad("a clip, and a single frame, as instances", two.encode(), (JSON,), VIDEO)
    for value in ("0", "x", "1001", "null"):
        yield from both(
            f"a clip and top_k {value}", instance("video_classifier", f', "top_k": "{value}"'), VIDEO
        )
    for shape in ([1, 8], [1, 2, 4], [1, 1, 8, 1], [1, 2, 2, 2, 1, 1], [1, 1, 2, 2, 2]):
        data = [0] * 8
        body = {"inputs": [{"name": "x", "shape": shape, "datatype": "UINT8", "data": data}]}
        yield Bad(f"pixels of a clip of shape {shape}", json.dumps(body).encode(), (JSON,), VIDEO)
    for datatype, value in (("FP32", 0.5), ("INT32", 256), ("INT8", -1), ("BOOL", True)):
        body = {"inputs": [{"name": "x", "shape": [1, 2, 2, 2], "datatype": datatype, "data": [value] * 8}]}
        yield Bad(
            f"pixels of a clip that are {value} as {datatype}", json.dumps(body).encode(), (JSON,), VIDEO
        )
    yield Bad("why a clip", clip(), path="explanations", kinds=VIDEO, status=415, type="NotSupported")


def good() -> Iterator[Sent]:
    """Requests that are answered."""
    files = clip_files()
    for name, file in files.items():
        yield Sent(name, file)
    text = base64_of(files["animated GIF"])
    yield from _good_json(files, text)
    yield from _good_pixels()
    texts = {"name": "x", "shape": [2], "datatype": "BYTES", "data": [text, base64_of(files["AVI"])]}
    yield Sent("base64 in a tensor", json.dumps({"inputs": [texts]}).encode(), (JSON,))
    yield file_in_tensor(files["MKV"])
    yield Sent("describe", b"", (("describe", "True"),))


def turned() -> list[Image.Image]:
    """Six pictures of one size, each turned a little further."""
    return [drawn(20, 16).rotate(12 * index, fillcolor="white") for index in range(6)]


def clip_files() -> dict[str, bytes]:
    """Files that are taken, by what they are."""
    pictures = turned()
    transparent = [picture.convert("RGBA") for picture in pictures]
    for index, picture in enumerate(transparent):
        picture.putpixel((index, 0), (0, 0, 0, 0))
    return {
        "animated GIF": clip(),
        "animated WebP": clip("WEBP"),
        "animated PNG": clip("PNG"),
        "animated PNG with another picture in front": clip("PNG", default_image=True),
        "animated GIF with transparency": encoded(
            transparent[0], "GIF", save_all=True, append_images=transparent[1:], disposal=2
        ),
        "animated WebP with transparency": encoded(
            transparent[0], "WEBP", save_all=True, append_images=transparent[1:]
        ),
        "two frames": clip(count=2),
        "MP4": video(),
        "MP4 in pieces": video(movflags="frag_keyframe+empty_moov"),
        "MOV": video("mov", "mpeg4"),
        "AVI": video("avi", "mpeg4"),
        "MKV": video("matroska"),
        "WebM": video("webm", "libvpx-vp9"),
    }


def _good_json(files: dict[str, bytes], text: str) -> Iterator[Sent]:
    frames = frames_of(*[(20, 16)] * 5)
    yield Sent("an option as header", files["MP4"], (("top_k", "3"),))
    yield Sent("a form", parts=(Part("data", files["animated WebP"], "image/webp"), Part("top_k", b"1")))
    yield Sent("a clip in base64", json.dumps({"clip": text, "top_k": 1}).encode(), (JSON,))
    yield Sent(
        "a video in base64", json.dumps({"b64": f"data:video/mp4;base64,{base64_of(files['MP4'])}"}).encode()
    )
    yield Sent("a list of frames", f'{{"frames": {frames}}}'.encode(), (JSON,))
    yield Sent("the list alone", frames.encode(), (JSON,))
    yield Sent("a list in a form", parts=(Part("frames", frames.encode(), "application/json"),))
    mixed = json.dumps(
        [
            base64_of(encoded(picture, form))
            for picture, form in zip(turned(), ("PNG", "JPEG", "GIF", "WEBP", "BMP"), strict=False)
        ]
    )
    yield Sent("frames of many formats", f'{{"data": {mixed}}}'.encode(), (JSON,))
    yield Sent(
        "many instances",
        f'{{"instances": [{{"b64": "{text}"}}, "{text}", {frames}, {{"frames": {frames}}}]}}'.encode(),
        (JSON,),
    )


def _good_pixels() -> Iterator[Sent]:
    pixels = np.stack([np.asarray(picture) for picture in turned()])
    for name, values in (
        ("pixels", pixels),
        ("grey pixels", pixels[..., 0]),
        ("grey pixels of a depth", pixels[..., :1]),
    ):
        tensor = {
            "name": "x",
            "shape": [1, *values.shape],
            "datatype": "UINT8",
            "data": values.flatten().tolist(),
        }
        yield Sent(f"{name} of a clip", json.dumps({"inputs": [tensor], "id": "a"}).encode(), (JSON,))


def of_pixels(frames: np.ndarray, form: str = "GIF") -> bytes:
    """An animated picture of frames uint8 [T, H, W]."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    return encoded(first, form, save_all=True, append_images=others)
