"""JSON in steps is what json.loads makes of it."""

import json
import random
from typing import Any

import pytest

from marina.engines.gateway import large_json

NUMBERS = [round(random.Random(0).random(), 6) for _ in range(30_000)]  # more than one step


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "value",
    [
        NUMBERS,
        {"inputs": [{"name": "x", "shape": [30_000], "datatype": "FP32", "data": NUMBERS}], "id": "a"},
        {
            "instances": [
                {"observation": [1, -2.5e3, 0]},
                {"b64": 'a]},\\"[{'},
                [],
                {},
                None,
                True,
                "\u00e9\n",
            ]
        },
        [[[1, 2, 3]] * 100] * 100,
        [[], [[]], {}, {"a": {}}, ""],
        [None] * 30_000,
        1.5,
        "text",
    ],
    ids=lambda value: str(value)[:20],
)
def test_it_is_what_json_makes_of_it(value: Any, indent: int | None) -> None:
    """Flat, nested, with texts that look like brackets, compact or not."""
    text = f" {json.dumps(value, indent=indent)}\n"

    assert large_json.loads(text) == value


LONG = json.dumps(NUMBERS)
NO_JSON = [
    *("", " ", "[", "{", "[1,", "[1,]", "[,1]", "[1 2]", "[[1],]", "[[1] [2]]", "[1]]", "nul", "[nul]"),
    *('["a]', "[[1}"),
    *("{1: 2}", '{"a" 1}', '{"a":}', '{"a":1,}', '{"a":1 "b":2}'),
    *(LONG[:-1], LONG[:-1] + ",]", LONG.replace(", ", ",", 9000).replace(",", ",,", 12_000)),
    "[" + "1 " * 50_000 + "]",
]


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: repr(text[:12]))
def test_what_is_no_json_is_refused(text: str) -> None:
    """Everything that json.loads refuses."""
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)
    with pytest.raises(ValueError, match=r"."):
        large_json.loads(text)


def test_damaged_json_is_refused_as_json_refuses_it() -> None:
    """Whatever is changed in a text, both give the same value, or none."""
    chance = random.Random(0)
    whole = json.dumps({"instances": [{"observation": [1, 2.5, -3]}, [[1], [2, [3]]], "a\\b"], "n": None})

    def outcome(loads: Any, text: str) -> Any:
        try:
            return repr(loads(text))
        except ValueError:
            return None

    for _ in range(3000):
        place = chance.randrange(len(whole))
        text = whole[:place] + chance.choice('[]{},:" 1-e\\') + whole[place + chance.randrange(2) :]
        assert outcome(large_json.loads, text) == outcome(json.loads, text), text


def test_deep_json_ends_in_a_refusal() -> None:
    """It is parsed at once from some depth on, as json does."""
    with pytest.raises(RecursionError):
        large_json.loads("[" * 200_000)


def test_no_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scanner of json, which lets no other thread run, never gets more than a step of numbers."""
    steps: list[int] = []
    scan = large_json._scan

    def measured(text: str, at: int) -> tuple[Any, int]:
        value, end = scan(text, at)
        steps.append(end - at)
        return value, end

    monkeypatch.setattr(large_json, "_scan", measured)
    long = [{"a,]": [0.5, {"b": "},"}]}] * 10_000
    whole = json.dumps({"inputs": [{"data": NUMBERS * 10}, {"data": [[0.5] * 8] * 10_000}, *long]})
    large_json.loads(whole)

    assert max(steps) < large_json.STEP + 100
    assert sum(steps) > len(whole) * 0.9
    assert len(steps) < 4 * len(whole) / large_json.STEP + 100
