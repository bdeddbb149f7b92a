"""Good requests as people's clients write them: with a byte-order mark, compressed, in base64 of other
programs, under other names. Each is answered as the plain request is.
"""

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from urllib.parse import quote_plus

from tests.support.good_inputs import base64_of, instance, payload, tensor_of
from tests.support.sent_requests import FORM, JSON, Part, Sent

OUTPUTS = {
    "policy": "action",
    "classifier": "probability",
    "video_classifier": "class",
    "detector": "bbox",
    "segmenter": "width",
}
TEXT = ("Content-Type", "text/plain")
PICTURE_NAMES = (
    "image",
    "data",
    "b64",
    "img",
    "image_bytes",
    "image_b64",
    "base64",
    "bytes",
    "content",
    "file",
)
CLIP_NAMES = ("clip", "data", "b64", "video", "video_bytes", "base64", "bytes", "content", "file")


def good(kind: str) -> Iterator[Sent]:
    """To a model of this kind."""
    one = instance(kind).encode()
    bodies = {
        "JSON": one,
        "instances": b'{"instances": [%s, %s]}' % (one, one),
        "a tensor": json.dumps({"inputs": [tensor_of(kind)]}).encode(),
    }
    for name, body in bodies.items():
        for encoding in ("utf-8-sig", "utf-16", "utf-32"):
            marked = body.decode().encode(encoding)
            yield Sent(f"{name} in {encoding}, as JSON", marked, (JSON,))
            yield Sent(f"{name} in {encoding}, without a content type", marked)
        yield Sent(f"{name} with a byte-order mark, as text", b"\xef\xbb\xbf" + body, (TEXT,))
        yield Sent(f"{name}, gzipped", gzip.compress(body), (JSON, ("Content-Encoding", "gzip")))
        yield Sent(f"{name}, deflated", zlib.compress(body), (JSON, ("Content-Encoding", "deflate")))
    tensors = {"inputs": [tensor_of(kind)], "model_name": "x", "model_version": "1", "other": [{}]}
    asked = [{"name": OUTPUTS[kind], "parameters": {"binary_data": True}}]
    asked += [{"name": OUTPUTS[kind]}]
    parameters = {"binary_data_output": True, "sequence_id": 3, "priority": 1, "of_theirs": "x"}
    body = json.dumps({**tensors, "outputs": asked, "parameters": parameters})
    yield Sent("a tensor as Triton's clients send it", body.encode(), (JSON,))
    packed = gzip.compress(payload(kind))
    yield Sent("a body, gzipped", packed, (("Content-Encoding", "GZIP"),))
    pieces = gzip.compress(payload(kind)[:9]) + gzip.compress(payload(kind)[9:])
    yield Sent("a body in two gzipped pieces", pieces, (("Content-Encoding", "x-gzip"),))
    raw = zlib.compressobj(wbits=-15)
    yield Sent(
        "a body, deflated without a header",
        raw.compress(payload(kind)) + raw.flush(),
        (("Content-Encoding", "deflate"),),
    )
    yield Sent("a body as it is, which it says", payload(kind), (("Content-Encoding", "identity"),))
    if kind == "policy":
        yield Sent("the key obs", b'{"obs": [0.1, -0.2, 0.03, 0.4]}', (JSON,))
        yield Sent(
            "an observation in an object", b'{"observation": {"data": [0.1, -0.2, 0.03, 0.4]}}', (JSON,)
        )
        return
    yield from _base64(kind)
    yield from _names(kind)


def _base64(kind: str) -> Iterator[Sent]:
    """Base64 of every sort, in JSON, as the body, in a form."""
    file = payload(kind)
    plain = base64_of(file)
    texts = {
        "line breaks": base64.encodebytes(file).decode(),
        "line breaks of Windows": base64.encodebytes(file).decode().replace("\n", "\r\n"),
        "white space around": f"  {plain}\n\n",
        "no padding": plain.rstrip("="),
        "too much padding": plain.rstrip("=") + "====",
        "the alphabet for URLs": base64.urlsafe_b64encode(file).decode(),
        "a data URL": f"data:;base64,{plain}",
        "a data URL and line breaks": "data:image/png;charset=x;base64,\n"
        + base64.encodebytes(file).decode(),
    }
    for name, text in texts.items():
        yield Sent(f"base64 with {name}", json.dumps({"data": text}).encode(), (JSON,))
        yield Sent(
            f"base64 with {name}, in instances", json.dumps({"instances": [text, {"b64": text}]}).encode()
        )
        tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": [text]}
        yield Sent(f"base64 with {name}, in a tensor", json.dumps({"inputs": [tensor]}).encode(), (JSON,))
        yield Sent(f"base64 with {name} as the body", text.encode())
        yield Sent(f"base64 with {name} as text", text.encode(), (TEXT,))
        yield Sent(f"base64 with {name} in a part", parts=(Part("data", text.encode()),))
        yield Sent(f"base64 with {name} in a field", f"image={quote_plus(text)}".encode(), (FORM,))
    yield Sent("base64 in a field whose + became spaces", f"image={plain}".encode(), (FORM,))


def _names(kind: str) -> Iterator[Sent]:
    text = base64_of(payload(kind))
    names = CLIP_NAMES if kind == "video_classifier" else PICTURE_NAMES
    for name in names:
        yield Sent(f"the key {name}", json.dumps({name: text}).encode(), (JSON,))
        yield Sent(
            f"the key {name} with b64 inside, in instances",
            json.dumps({"instances": [{name: {"b64": text}}, {name: text}]}).encode(),
            (JSON,),
        )
