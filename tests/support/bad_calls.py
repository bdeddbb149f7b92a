"""The part of the corpus `bad_inputs` about forms, methods, headers and explanations, and requests that
TorchServe itself refuses.
"""

import gzip
from collections.abc import Iterator
from typing import Any

from PIL import Image

from tests.support.good_inputs import instance, payload
from tests.support.picture_files import encoded, zeros
from tests.support.sent_requests import (
    ALL,
    CLASSIFIER,
    FORM,
    JSON,
    MULTIPART,
    POLICY,
    Bad,
    Part,
    multipart,
)


def bad() -> Iterator[Bad]:
    """All of them."""
    yield from _forms()
    yield from _methods()
    yield from _headers()
    yield from _explanations()
    yield from _in_front()


def _forms() -> Iterator[Bad]:
    yield Bad("curl -d x", b"x", (FORM,))
    yield Bad("an empty form", b"", (FORM,))
    yield Bad("curl -d with JSON", b'{"observation": [0, 0, 0, 0]}', (FORM,))
    yield Bad("a form of two unknown fields", b"a=1&b=2", (FORM,))
    yield Bad("a form's field that is nothing", b"data=nothing", (FORM,))
    yield Bad("a form of options alone", b"top_k=3&confidence_threshold=0.5&deterministic=true", (FORM,))
    yield Bad("an empty file", parts=(Part("data", b"", "image/png"),))
    yield Bad("an empty field", parts=(Part("data", b""),))
    yield Bad(
        "two files",
        parts=(Part("a", payload("detector"), "image/png"), Part("b", payload("detector"), "image/png")),
    )
    yield Bad(
        "a file and an unknown field",
        parts=(Part("data", payload("detector"), "image/png"), Part("topk", b"3")),
    )
    yield Bad(
        "a field of one name twice, the last one wrong",
        parts=(Part("data", payload("detector"), "image/png"), Part("data", b"x")),
    )
    one = Part("data", payload("detector"), "image/png")
    yield Bad("two files under one name", parts=(one, one))
    yield Bad("three files under one name", parts=(one, one, Part("data", payload("video_classifier"))))
    yield Bad("an option twice", parts=(one, Part("top_k", b"3"), Part("top_k", b"3")))
    yield Bad("a form's field twice", b"data=aGVsbG8%3D&data=aGVsbG8%3D", (FORM,))
    yield Bad("the field describe", parts=(Part("describe", b"True"),))
    yield Bad("the field explain", parts=(Part("explain", b"True"), Part("data", payload("detector"))))
    yield Bad("two thousand fields", parts=tuple(Part(f"field-{index}", b"x") for index in range(2000)))
    yield Bad("a field whose name is long", parts=(Part("n" * 100_000, b"x"), Part("data", b"x")))
    yield Bad("a field whose name is not ASCII", parts=(Part("日本", b"x"), Part("データ", b"x")))
    whole = multipart((Part("data", payload("detector"), "image/png"),))
    yield Bad("a form without its end", whole[:-7], (MULTIPART,), row={})
    yield Bad("a form cut off", whole[:60], (MULTIPART,), row={})
    yield Bad(
        "a form of another boundary", whole, (("Content-Type", "multipart/form-data; boundary=C"),), row={}
    )
    yield Bad("a form without a boundary", whole, (("Content-Type", "multipart/form-data"),))
    yield Bad("a form of no parts", b"--B--\r\n", (MULTIPART,), row={})
    yield Bad("an empty multipart body", b"", (MULTIPART,), row={})


def _methods() -> Iterator[Bad]:
    for method in ("GET", "DELETE", "PUT", "PATCH"):
        yield Bad(f"an empty {method}", method=method)
        yield Bad(
            f"an empty {method} of an explanation",
            method=method,
            path="explanations",
            kinds=CLASSIFIER | POLICY,
        )
    yield Bad("an empty body")
    yield Bad("a GET of a form", method="GET", headers=(FORM,))


def _headers() -> Iterator[Bad]:
    for name, packed in {
        "gzip that is none": b"hello",
        "gzip cut off": gzip.compress(bytes(1000))[:-5],
        "gzip with a wrong checksum": gzip.compress(bytes(1000))[:-8] + bytes(8),
        "gzip of nothing": b"",
        "a second piece that is none": gzip.compress(b"{}") + b"hello",
    }.items():
        yield Bad(name, packed, (("Content-Encoding", "gzip"),))
        yield Bad(f"{name}, as JSON", packed, (("Content-Encoding", "gzip"), JSON))
    yield Bad("JSON that says it is gzip", b'{"data": [0]}', (("Content-Encoding", "gzip"), JSON))
    yield Bad("gzip of broken JSON", gzip.compress(b'{"data": ['), (("Content-Encoding", "gzip"), JSON))
    yield Bad("deflate that is none", b"hello", (("Content-Encoding", "deflate"),))
    large = {"status": 413, "type": "TooLarge"}
    gzipped = ("Content-Encoding", "gzip")
    yield Bad("a gzip bomb", gzip.compress(bytes(1 << 28)), (gzipped,), **large)
    yield Bad("a deflate bomb", zeros(1 << 26), (("Content-Encoding", "deflate"),), **large)
    yield Bad("gzip in very many pieces", gzip.compress(b"") * 10_000, (gzipped,), **large)
    for encoding in ("br", "zstd", "gzip, gzip", "compress", "x" * 5000):
        yield Bad(
            f"the content encoding {encoding[:10]}",
            b"{}",
            (("Content-Encoding", encoding), JSON),
            status=415,
            type="NotSupported",
        )
    for kind in sorted(ALL):
        for text in ("perhaps", "1", "", "TRUE!", "\xe9", "x" * 7000):
            yield Bad(
                f"describe {text[:10]!r}, {kind}", payload(kind), (("describe", text),), frozenset({kind})
            )


def _explanations() -> Iterator[Bad]:
    refused: dict[str, Any] = {"path": "explanations", "status": 415, "type": "NotSupported"}
    for kind in ("detector", "segmenter"):
        yield Bad(f"why a {kind}", payload(kind), kinds=frozenset({kind}), **refused)
    yield Bad("why, of no picture", b"hello", path="explanations", kinds=CLASSIFIER)
    yield Bad(
        "why, of a blank picture",
        encoded(Image.new("L", (9, 9)), "PNG"),
        path="explanations",
        kinds=CLASSIFIER,
    )
    yield Bad("why, of no observation", b'{"observation": [0]}', (JSON,), path="explanations", kinds=POLICY)
    yield Bad(
        "why, of an unknown key",
        instance("policy", ', "class_index": 1').encode(),
        (JSON,),
        path="explanations",
        kinds=POLICY,
    )
    options = {
        "class_index": ("10", "-1", "1.5", "x", "", "9" * 5000),
        "format": ("gif", "", "jsonpng", "\xe9"),
    }
    for option, value in ((option, value) for option, values in options.items() for value in values):
        yield Bad(
            f"why with {option} {value[:10]!r}",
            payload("classifier"),
            ((option, value),),
            CLASSIFIER,
            path="explanations",
        )
    body = f'{{"instances": [{instance("classifier")}, {instance("classifier")}], "format": "png"}}'.encode()
    yield Bad("why, two pictures as one", body, (JSON,), CLASSIFIER, **refused)
    two = f'{{"instances": [{instance("policy")}, {{}}]}}'.encode()
    yield Bad("why, of a good and a bad instance", two, (JSON,), POLICY, path="explanations")


def _in_front() -> Iterator[Bad]:
    """What TorchServe refuses by itself, with words of its own: no worker sees it."""
    form = b'--B\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n%s\r\n\r\nx\r\n--B--\r\n'
    broken: dict[str, Any] = {"status": 500, "type": "ErrorDataDecoderException", "in_front": True}
    invalid: dict[str, Any] = {"status": 400, "type": "BadRequestException", "in_front": True}
    yield Bad(
        "a part without a name",
        b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n",
        (MULTIPART,),
        **broken,
    )
    yield Bad("a part in base64", form % b"Content-Transfer-Encoding: base64", (MULTIPART,), **broken)
    yield Bad(
        "a part in an unknown alphabet",
        form % b"Content-Type: text/plain; charset=none",
        (MULTIPART,),
        **broken,
    )
    yield Bad("a form's bad percent sign", b"data=%zz", (FORM,), **broken)
    yield Bad("a form's field without a name", b"=x", (FORM,), **broken)
    yield Bad("a header with a null", b"x", (("top_k", "a\0b"),), **invalid)
    yield Bad("a header of 20,000 letters", b"x", (("top_k", "9" * 20_000),), **invalid)
    yield Bad("a broken chunk", b"zz\r\nx\r\n0\r\n\r\n", (("Transfer-Encoding", "chunked"),), **invalid)
    yield Bad("a length that is a word", b"x", (("Content-Length", "many"),), **invalid)
    yield Bad("an unknown expectation", b"", (("Expect", "a-miracle"),), status=417, type="", in_front=True)
    yield Bad("a body over max_request_size", bytes(20_000_001), status=413, type="", in_front=True)
