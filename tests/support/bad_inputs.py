"""Requests that must be refused, each by its name, with the status and the type that it gets; and good ones
to go among them.

A bug that is found becomes one line in a list of `bad_pictures`, `bad_json`, `bad_tensors`, `bad_calls` or
`bad_clips`: a name, what is sent, and what comes back where that is not 400 BadRequest. `bad(kind)` and
`good(kind)` are what the tests send. Everything is made there: there are no data files.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from tests.support import (
    bad_calls,
    bad_clips,
    bad_json,
    bad_pictures,
    bad_series,
    bad_tensors,
    bad_texts,
    client_habits,
    good_inputs,
)
from tests.support.sent_requests import Bad, Sent

OTHERS = {"text_classifier": bad_texts, "forecaster": bad_series}  # which take neither pictures nor numbers


@cache
def corpus() -> tuple[Bad, ...]:
    """All bad requests, their names all different."""
    sources = (bad_pictures, bad_json, bad_tensors, bad_calls, bad_clips)
    found = [one for source in sources for one in source.bad()]
    names = [one.name for one in found]
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})
    return tuple(found)


def bad(kind: str) -> list[Bad]:
    """The bad requests for this kind of model that reach its worker."""
    if kind in OTHERS:
        return [*OTHERS[kind].bad()]
    return [one for one in corpus() if kind in one.kinds and not one.in_front]


def refused_in_front() -> list[Bad]:
    """The bad requests that TorchServe refuses by itself."""
    return [one for one in corpus() if one.in_front]


@cache
def good(kind: str) -> tuple[Sent, ...]:
    """Requests that are answered, in every protocol and form."""
    return tuple(replace(one, kinds=frozenset({kind})) for one in _good(kind))


def _good(kind: str) -> Iterator[Sent]:
    if kind in OTHERS:
        yield from OTHERS[kind].good()
        return
    yield from client_habits.good(kind)
    if kind == "policy":
        yield from good_inputs.policies()
    elif kind == "video_classifier":
        yield from bad_clips.good()
    else:
        yield from good_inputs.pictures(kind)
