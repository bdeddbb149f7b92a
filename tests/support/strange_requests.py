"""Requests that may be good or bad: documents, damaged, compressed and encoded bodies, forms, options."""

import base64
import gzip
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.support.bad_inputs import good
from tests.support.good_inputs import payload
from tests.support.sent_requests import JSON, Headers, Part, Sent
from tests.support.strategies import OPTIONS, as_json, damaged, documents, pictures, words

ENCODINGS = ("gzip", "deflate", "x-gzip", "identity", "br", "")
MARK = b"\xef\xbb\xbf"

typed = st.sampled_from([(JSON,), ()])
option_parts = st.sampled_from([(), (Part("top_k", b"2"),)])
forms = st.builds(lambda file, more: Sent("", parts=(Part("data", file), *more)), pictures, option_parts)
files = st.builds(
    lambda file, path: Sent("", file, path=path), pictures, st.sampled_from(["predictions", "explanations"])
)
json_bodies = st.builds(lambda document, headers: Sent("", as_json(document), headers), documents, typed)


@st.composite
def optioned(draw: Callable[..., Any], kind: str) -> Sent:
    """A good body and an option of any text."""
    name, value = draw(st.sampled_from(sorted(OPTIONS))), draw(words.filter(str.isprintable))
    return Sent("", payload(kind), (*draw(typed), (name, value.encode().decode("latin-1"))))


def strange(kind: str) -> st.SearchStrategy[Sent]:
    """A request to this kind that may be good or bad, of no name yet."""
    file = payload(kind)
    bodies = damaged(st.sampled_from([one.body for one in good(kind) if one.body]))
    packed = damaged(st.sampled_from([gzip.compress(file), zlib.compress(file)]))
    texts = [base64.b64encode(file), base64.urlsafe_b64encode(file), base64.encodebytes(file)]
    encoded = damaged(st.sampled_from([*texts, *(MARK + text for text in texts)]))
    encoding = st.sampled_from(ENCODINGS).map(lambda name: (("Content-Encoding", name),))
    return st.one_of(
        json_bodies,
        _sent(bodies, typed),
        _sent(packed, encoding),
        _sent(encoded, typed),
        forms,
        files,
        optioned(kind),
    )


def _sent(bodies: st.SearchStrategy[bytes], headers: st.SearchStrategy[Headers]) -> st.SearchStrategy[Sent]:
    return st.builds(lambda body, own: Sent("", body, own), bodies, headers)
