"""The part of the corpus `bad_inputs` in JSON: bodies, instances and options."""

import json
from collections.abc import Iterator

from tests.support.good_inputs import base64_of, instance, payload, tensor_of
from tests.support.picture_files import drawn, encoded, png
from tests.support.sent_requests import (
    ALL,
    CLASSIFIER,
    DETECTOR,
    IMAGES,
    JSON,
    POLICY,
    SEGMENTER,
    VIDEO,
    Bad,
    Part,
)

BROKEN = {
    "one brace": b"{",
    "one bracket": b"[",
    "no value": b'{"data":}',
    "no end": b'{"data": [1, 2',
    "a comma too many": b'{"data": [1, 2,]}',
    "single quotes": b"{'data': [1]}",
    "a comment": b'{"data": [1]} // one',
    "two documents": b"{}{}",
    "rubbish behind": b'{"data": [1]} x',
    "brackets 100,000 deep": b"[" * 100_000,
    "braces 100,000 deep": b'{"data":' * 100_000,
    "brackets 5,000 deep, closed": b"[" * 5000 + b"]" * 5000,
    "a number of 5,000 digits": b'{"data": ' + b"9" * 5000 + b"}",
    "a control character": b'{"data": "\1"}',
    "a bad escape": b'{"data": "\\x41"}',
    "half an escape": b'{"data": "\\u12"}',
    "bytes that are no UTF-8": b'{"data": "\xff\xfe"}',
    "an overlong UTF-8 form": b'{"data\xc0\xaf": 1}',
    "a leading zero": b'{"data": [01]}',
    "a plus sign": b'{"data": [+1]}',
    "a hexadecimal number": b'{"data": [0x1]}',
}
NO_INSTANCE = {
    "an empty object": "{}",
    "an empty list": "[]",
    "null": "null",
    "true": "true",
    "a number": "3",
    "a text": '"text"',
    "an empty text": '""',
    "NaN alone": "NaN",
    "an unknown key": '{"pixels": [1]}',
    "a key in capitals": '{"DATA": [1]}',
    "an empty key": '{"": [1]}',
    "a lone surrogate as a key": '{"\\ud800": 1}',
    "a lone surrogate as a value": '{"data": "\\ud800"}',
    "null under the key": '{"data": null}',
    "false under the key": '{"data": false}',
    "an object under the key": '{"data": {}}',
    "an object in an object": '{"data": {"data": [1]}}',
    "text that is no base64": '{"data": "not base64!"}',
    "empty text": '{"data": ""}',
    "an empty data URL": '{"data": "data:,"}',
    "a data URL without a comma": '{"data": "data:image/png;base64"}',
    "base64 with a letter missing": '{"data": "iVBORw0KGgo"}',
    "base64 of nothing known": '{"data": "aGVsbG8="}',
    "base64 in another alphabet": '{"data": "__-_"}',
    "base64 with letters of another script": '{"data": "ａａａａ"}',
    "a key twice, the last one wrong": '{"data": [0, 0, 0, 0], "data": null}',
    "two keys": '{"data": [0, 0, 0, 0], "image": "aGVsbG8=", "observation": [0, 0, 0, 0]}',
    "an option alone": '{"top_k": 3}',
    "a key of the protocol misspelt": '{"instance": [[0, 0, 0, 0]]}',
}
NO_OBSERVATION = {
    "too few numbers": "[0, 0, 0]",
    "too many numbers": "[0, 0, 0, 0, 0]",
    "one number": "0",
    "a list too deep": "[[0, 0, 0, 0]]",
    "numbers too deep": "[[0], [0], [0], [0]]",
    "one number too deep": "[0, 0, 0, [0]]",
    "text": '"0, 0, 0, 0"',
    "a text among the numbers": '[0, 0, 0, "0"]',
    "null among the numbers": "[0, 0, 0, null]",
    "true among the numbers": "[0, 0, 0, true]",
    "an object among the numbers": "[0, 0, 0, {}]",
    "NaN": "[0, 0, 0, NaN]",
    "infinity": "[0, 0, 0, Infinity]",
    "minus infinity": "[0, 0, 0, -Infinity]",
    "a huge exponent": "[0, 0, 0, 1e999]",
    "a number beyond float32": "[0, 0, 0, 1e39]",
    "a number of 400 digits": f"[0, 0, 0, {'9' * 400}]",
    "a number of 300 digits": f"[0, 0, 0, {'9' * 300}]",
    "numbers by position": '{"0": 0, "1": 0, "2": 0, "3": 0}',
    "a list of a million numbers": "[" + "0," * 999_999 + "0]",
}
WRONG_OPTIONS = {  # as JSON
    "top_k": (
        CLASSIFIER,
        (
            "0",
            "-1",
            "1001",
            "2.5",
            "1e400",
            "NaN",
            "null",
            "true",
            "[]",
            "{}",
            '"many"',
            '""',
            "9" * 400,
            f'"{"9" * 5000}"',
        ),
    ),
    "confidence_threshold": (
        DETECTOR,
        ("-0.1", "1.01", "NaN", "Infinity", "null", "true", "[0.5]", '"high"', '""', "9" * 400, '"nan"'),
    ),
    "format": (SEGMENTER, ("0", "null", "true", "[]", "{}", '"gif"', '""', '"json,png"', '["png"]', "NaN")),
    "deterministic": (POLICY, ("1", "0", "null", '"yes"', '""', "[]", "{}", "NaN")),
    "action_mask": (
        POLICY,
        (
            "[1]",
            "[1, 1, 1]",
            "[0, 0]",
            "[]",
            "null",
            "1",
            '"all"',
            '"1"',
            "[1, 2]",
            "[1, null]",
            "[[1], [1]]",
            "[1.0]",
            "{}",
        ),
    ),
}
# as header or form field
WRONG_TEXTS = ("", "wrong", "\xe9\xff", "9" * 6000, "[" * 2000, "NaN", "3;drop", "\t1,0,,\x7f")


def bad() -> Iterator[Bad]:
    """All of them."""
    yield from _json()
    yield from _options()


def both(
    name: str, body: bytes | str, kinds: frozenset[str] = ALL, status: int = 400, kind: str = "BadRequest"
) -> Iterator[Bad]:
    """A JSON body with its content type and without."""
    content = body.encode() if isinstance(body, str) else body
    yield Bad(f"{name}, as JSON", content, (JSON,), kinds, status=status, type=kind)
    yield Bad(f"{name}, without a content type", content, kinds=kinds, status=status, type=kind)


def _json() -> Iterator[Bad]:
    for name, body in BROKEN.items():
        yield from both(name, body)
        yield Bad(f"{name}, in a form", parts=(Part("data", body, "application/json"),))
    for name, text in NO_INSTANCE.items():
        yield from both(name, text)
        yield Bad(f"{name}, as an instance", f'{{"instances": [{text}]}}'.encode(), (JSON,))
    for name, text in NO_OBSERVATION.items():
        yield from both(f"{name} as observation", f'{{"observation": {text}}}', POLICY)
        yield from both(
            f"{name} behind a good instance", f'{{"instances": [{instance("policy")}, {text}]}}', POLICY
        )
    good_text = instance("policy")
    for encoding in ("utf-16-be", "utf-32-be"):
        yield from both(f"JSON in {encoding}, unmarked", good_text.encode(encoding), POLICY)
    for name, mark in {"UTF-8": b"\xef\xbb\xbf", "UTF-16": b"\xff\xfe", "UTF-32": b"\xff\xfe\0\0"}.items():
        yield from both(f"the byte-order mark of {name} alone", mark)
        yield from both(f"the byte-order mark of {name} and other bytes", mark + b"{\xff\xd8\xff\0")
    yield from both(
        "a list of files", json.dumps({"image": [base64_of(encoded(drawn(), "PNG"))] * 2}), IMAGES
    )
    yield from both("the path of a file", '{"image": "/data/seven.png"}', IMAGES | VIDEO)
    yield from both("the address of a file", '{"data": "https://example.com/seven.png"}', IMAGES | VIDEO)
    yield from both("an unknown name", f'{{"photo": "{base64_of(encoded(drawn(), "PNG"))}"}}', IMAGES | VIDEO)
    yield from both("objects four deep", '{"data": {"data": {"data": {"data": [0, 0, 0, 0]}}}}')
    yield Bad("an empty body that says it is JSON", b"", (JSON,))
    yield Bad("white space that says it is JSON", b" \n", (JSON,))
    yield Bad("text that is no JSON", b"observation: 1 2 3 4", (("Content-Type", "text/plain"),))
    yield from both(
        "PNG of 50,000 x 50,000 pixels",
        f'{{"image": "{base64_of(png(50_000, 50_000))}"}}',
        IMAGES,
        413,
        "TooLarge",
    )
    yield from both("a cut JPEG", f'{{"b64": "{base64_of(encoded(drawn(), "JPEG")[:300])}"}}', IMAGES)
    yield from both("a list of pixels", '{"image": [[0, 255], [255, 0]]}', IMAGES)


def _options() -> Iterator[Bad]:
    for option, (kinds, values) in WRONG_OPTIONS.items():
        (kind,) = kinds
        tensor = json.dumps(tensor_of(kind))
        for value in values:
            name = f"{option} {value[:20]}"
            more = f', "{option}": {value}'
            yield from both(name, instance(kind, more), kinds)
            yield Bad(
                f"{name} beside instances",
                f'{{"instances": [{instance(kind)}]{more}}}'.encode(),
                (JSON,),
                kinds,
            )
            two = f'{{"instances": [{instance(kind)}, {instance(kind, more)}]}}'
            yield Bad(f"{name} in one of two instances", two.encode(), (JSON,), kinds)
            yield Bad(
                f"{name} as parameter",
                f'{{"inputs": [{tensor}], "parameters": {{"{option}": {value}}}}}'.encode(),
                (JSON,),
                kinds,
            )
        for text in WRONG_TEXTS:
            yield Bad(f"{option} {text[:10]!r} as header", payload(kind), ((option, text),), kinds)
            if "_" in option:
                yield Bad(
                    f"{option} {text[:10]!r} as dashed header",
                    payload(kind),
                    ((option.replace("_", "-"), text),),
                    kinds,
                )
            parts = (Part("data", payload(kind), "application/octet-stream"), Part(option, text.encode()))
            yield Bad(f"{option} {text[:10]!r} as field", parts=parts, kinds=kinds)
    sampled = instance("policy", ', "deterministic": false')
    yield from both("a policy without a distribution is to sample", sampled, POLICY, 415, "NotSupported")
    yield from both("a seed where nothing is drawn", instance("policy", ', "seed": 1'), POLICY)
    yield from both("another kind's option", instance("detector", ', "top_k": 3'), DETECTOR)
    yield from both("a detector's option", instance("segmenter", ', "confidence_threshold": 0.5'), SEGMENTER)
    yield from both("an option of explanations", instance("classifier", ', "class_index": 3'), CLASSIFIER)
    yield from _label_maps()


def _label_maps() -> Iterator[Bad]:
    """A PNG alone, where an answer holds more than one."""
    one, as_png = instance("segmenter"), instance("segmenter", ', "format": "png"')
    for name, body in {
        "a label map for two instances": f'{{"instances": [{one}, {one}], "format": "png"}}',
        "a label map for one of two instances": f'{{"instances": [{one}, {as_png}]}}',
        "a label map in an answer of tensors": (
            f'{{"inputs": [{json.dumps(tensor_of("segmenter"))}], "parameters": {{"format": "png"}}}}'
        ),
    }.items():
        yield from both(name, body, SEGMENTER, 415, "NotSupported")
