"""Requests that are answered, and good instances for requests that mix good and bad ones."""

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.support.picture_files import (
    BROKEN_EXIF,
    chunk,
    clip,
    deep_png,
    drawn,
    encoded,
    exif,
    png,
    with_exif,
    zeros,
)
from tests.support.sent_requests import BINARY, JSON, Part, Sent


def payload(kind: str) -> bytes:
    """A good body of this kind."""
    return {"policy": instance("policy").encode(), "video_classifier": clip()}.get(kind) or encoded(
        drawn(), "PNG"
    )


def instance(kind: str, more: str = "") -> str:
    """A good instance as JSON; `more` is appended to its object."""
    if kind == "policy":
        return f'{{"observation": [0.1, -0.2, 0.03, 0.4]{more}}}'
    if kind == "video_classifier":
        return f'{{"clip": "{base64_of(clip())}"{more}}}'
    return f'{{"image": "{base64_of(encoded(drawn(), "PNG"))}"{more}}}'


def tensor_of(kind: str, **other: Any) -> dict[str, Any]:
    """A good tensor of one instance; `other` values replace its own."""
    if kind == "policy":
        return {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, -0.2, 0.03, 0.4], **other}
    if kind == "video_classifier":
        return {
            "name": "x",
            "shape": [1, 2, 8, 8, 3],
            "datatype": "UINT8",
            "data": np.asarray(drawn(8, 16)).flatten().tolist(),
            **other,
        }
    return {
        "name": "x",
        "shape": [1, 16, 16, 3],
        "datatype": "UINT8",
        "data": np.asarray(drawn(16, 16)).flatten().tolist(),
        **other,
    }


def base64_of(content: bytes) -> str:
    """Base64 as JSON has it."""
    return base64.b64encode(content).decode()


def policies() -> Iterator[Sent]:
    """To a policy."""
    one, tensor = instance("policy"), tensor_of("policy")
    numbers = np.array([[0.1, -0.2, 0.03, 0.4], [-0.1, 0.2, -0.03, -0.4]], "<f4")
    mask = {"name": "action_mask", "shape": [1, 2], "datatype": "BOOL", "data": [False, True]}
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
            ]
        }
    ).encode()
    yield Sent("JSON", one.encode(), (JSON,))
    yield Sent("JSON without a content type", one.encode())
    yield Sent("JSON behind white space", f"\n  {one}\n".encode())
    yield Sent("JSON as text", one.encode(), (("Content-Type", "text/plain"),))
    yield Sent("JSON in a form", parts=(Part("data", one.encode(), "application/json"),))
    yield Sent("the list alone", b"[1, 0, -0.05, 0]", (JSON,))
    yield Sent("the key data", b'{"data": [1e-3, 2, -0.0, 3.5E-1]}', (JSON,))
    yield Sent("a mask", instance("policy", ', "action_mask": [true, false]').encode(), (JSON,))
    yield Sent("a mask as header", one.encode(), (JSON, ("action-mask", "0,1")))
    yield Sent(
        "many instances",
        f'{{"instances": [{one}, [0, 0, -0.1, -1]], "deterministic": true}}'.encode(),
        (JSON,),
    )
    hundred = [[index / 100, 0, 0.1 - index / 500, 0] for index in range(100)]
    yield Sent("100 instances", json.dumps({"instances": hundred}).encode(), (JSON,))
    yield Sent("a tensor", json.dumps({"inputs": [tensor], "id": "7"}).encode(), (JSON,))
    yield Sent("a tensor and a mask", json.dumps({"inputs": [tensor, mask]}).encode(), (JSON,))
    yield Sent("a binary tensor", head + numbers.tobytes(), ((BINARY, str(len(head))),))
    yield Sent("why", one.encode(), (JSON,), path="explanations")
    yield Sent("describe", b"", (("describe", "True"),))


def picture_files() -> dict[str, bytes]:
    """Files of all sorts, by what they are."""
    turned = Image.Exif()
    turned[274] = 6
    grey = np.asarray(drawn(mode="L")).astype(np.uint16) * 257
    return {
        "PNG": encoded(drawn(), "PNG"),
        "JPEG": encoded(drawn(), "JPEG"),
        "progressive JPEG": encoded(drawn(), "JPEG", progressive=True),
        "JPEG in CMYK": encoded(drawn(mode="CMYK"), "JPEG"),
        "JPEG on its side": encoded(drawn(60, 40).rotate(90, expand=True), "JPEG", exif=turned),
        "JPEG with rubbish for EXIF": exif(b"nothing of the sort"),
        "PNG of one bit": encoded(drawn(mode="1"), "PNG"),
        "PNG of grey": encoded(drawn(mode="L"), "PNG"),
        "PNG of 16 bits": encoded(Image.fromarray(grey), "PNG"),
        "PNG with a palette": encoded(drawn(mode="P"), "PNG"),
        "PNG with alpha": encoded(drawn(mode="RGBA"), "PNG"),
        "PNG with more data than it declares": png(
            48, 48, data=zlib.compress(_rows(drawn(mode="L")) + bytes(5_000_000))
        ),
        "animated GIF": encoded(drawn(), "GIF", save_all=True, append_images=[drawn().rotate(90)]),
        "WebP": encoded(drawn(), "WEBP"),
        "BMP": encoded(drawn(), "BMP"),
        "TIFF": encoded(drawn(), "TIFF", compression="tiff_lzw"),
        "TIFF of floats": encoded(drawn(mode="F"), "TIFF"),
        "another size": encoded(drawn(200, 130), "JPEG"),
    }


def pictures(kind: str) -> Iterator[Sent]:
    """To a kind that takes pictures."""
    option = {
        "classifier": ("top_k", "3"),
        "detector": ("confidence_threshold", "0.3"),
        "segmenter": ("format", "rle"),
    }[kind]
    files = picture_files()
    for name, file in (*files.items(), *unusual_files()):
        yield Sent(name, file)
    text = base64_of(files["PNG"])
    tensor = tensor_of("detector")
    yield Sent("an option as header", files["PNG"], (option,))
    yield Sent(
        "a form", parts=(Part("data", files["WebP"], "image/webp"), Part(option[0], option[1].encode()))
    )
    yield Sent("a form of another name", parts=(Part("picture", files["JPEG"]),))
    yield Sent("base64", json.dumps({"image": text}).encode(), (JSON,))
    yield Sent("base64 behind white space", f' \n {{"b64": "{text}"}}'.encode())
    yield Sent(
        "a data URL",
        json.dumps({"data": f"data:image/png;base64,{text}", option[0]: option[1]}).encode(),
        (JSON,),
    )
    yield Sent(
        "many instances",
        json.dumps({"instances": [{"b64": text}, text, base64_of(files["JPEG"])]}).encode(),
        (JSON,),
    )
    yield Sent(
        "pixels",
        json.dumps({"inputs": [tensor], "id": "a", "parameters": {option[0]: option[1]}}).encode(),
        (JSON,),
    )
    texts = {"name": "x", "shape": [2], "datatype": "BYTES", "data": [text, text]}
    yield Sent("base64 in a tensor", json.dumps({"inputs": [texts]}).encode(), (JSON,))
    yield file_in_tensor(files["JPEG"])
    yield Sent("describe", b"", (("describe", "True"),))
    if kind == "classifier":
        yield Sent("why", files["PNG"], path="explanations")
    if kind == "segmenter":
        yield from _formats_of_masks(files)


def _formats_of_masks(files: dict[str, bytes]) -> Iterator[Sent]:
    text = base64_of(files["PNG"])
    texts = {"name": "x", "shape": [2], "datatype": "BYTES", "data": [text, text]}
    for form in ("json", "Compressed_RLE", "areas"):
        yield Sent(f"the format {form}", files["another size"], (("format", form),))
    each = [json.dumps({"image": text, "format": form}) for form in ("json", "rle", "areas")]
    yield Sent(
        "each instance in a format of its own", f'{{"instances": [{", ".join(each)}]}}'.encode(), (JSON,)
    )
    yield Sent(
        "run lengths as tensors",
        json.dumps({"inputs": [texts], "parameters": {"format": "compressed_rle"}}).encode(),
        (JSON,),
    )


def file_in_tensor(file: bytes) -> Sent:
    """A file as a binary string, its length in front."""
    size = {"binary_data_size": 4 + len(file)}
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    return Sent("a file in a tensor", head + struct.pack("<I", len(file)) + file, ((BINARY, str(len(head))),))


def unusual_files() -> Iterator[tuple[str, bytes]]:
    """Names and files of sound pictures whose metadata is broken or large, and of more than 8 bits."""
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        for index, content in enumerate(BROKEN_EXIF):
            yield f"{form} with broken EXIF {index}", with_exif(form, content)
    texts = {
        "a long compressed text": chunk(b"zTXt", b"a\0\0" + zeros(2 << 20)),
        "a long text": chunk(b"tEXt", b"a\0" + bytes(2 << 20)),
        "a long text in Unicode": chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(2 << 20)),
        "a large color profile": chunk(b"iCCP", b"a\0\0" + zeros(2 << 20)),
        "a broken text": chunk(b"zTXt", b"a\0\0no zlib"),
        "a broken color profile": chunk(b"iCCP", b"a\0\7no zlib"),
        "a text of a wrong checksum": chunk(b"tEXt", b"a\0b")[:-4] + bytes(4),
        "a gamma that is cut off": chunk(b"gAMA", b"\0"),
        "a resolution that is cut off": chunk(b"pHYs", b"\0\1"),
    }
    for name, text in texts.items():
        whole = encoded(drawn(), "PNG")
        yield f"PNG with {name}", whole[:33] + text + whole[33:]
        yield f"PNG with {name} behind its picture", whole[:-12] + text + whole[-12:]
    grey = np.asarray(drawn(mode="L")).astype(np.uint16)
    yield "PNG of 12 bits in 16, as its sBIT says", deep_png(grey * 16, 12)
    yield "PNG of 10 bits in 16, as its sBIT says", deep_png(grey * 4, 10)
    yield "PNG of 12 bits spread over 16", deep_png(grey * 257 & 0xFFF0, 12)
    yield (
        "TIFF of 12 bits in 16, as MaxSampleValue says",
        encoded(Image.fromarray(grey * 16), "TIFF", tiffinfo={281: 4095}),
    )
    yield "TIFF of whole numbers to 255", encoded(Image.fromarray(grey.astype(np.int32)), "TIFF")
    yield "TIFF of whole numbers to 65,535", encoded(Image.fromarray(grey.astype(np.int32) * 257), "TIFF")
    yield "TIFF of floats to 1", encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF")
    yield "TIFF in LAB", encoded(drawn(mode="LAB"), "TIFF")
    yield "TIFF in CMYK", encoded(drawn(mode="CMYK"), "TIFF")
    yield "TIFF of grey with alpha", encoded(drawn(mode="LA"), "TIFF")


def _rows(image: Image.Image) -> bytes:
    """The pixels as a PNG has them: each row behind its filter's number."""
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(image))
